from digiq.policies.goals import goal_words, span_mask


def words(goal):
    return goal_words(goal, 24, 4096)


def test_sites_are_one_word_and_punctuation_is_its_own():
    goal = words('Go to newegg.com, search for "asus zenbook".')
    read = [goal.text(i, i) for i in range(len(goal.bounds))]
    assert read == ["Go", "to", "newegg.com", ",", "search", "for", '"', "asus", "zenbook", '"', "."]


def test_spans_are_found_as_written_and_only_at_word_bounds():
    goal = words("search for usb  cable and cables")
    assert goal.find("usb  cable", 12) == (2, 3)
    assert goal.text(2, 3) == "usb  cable"
    assert goal.find("cable", 12) == (3, 3)
    assert goal.find("cabl", 12) is None
    assert goal.find("usb  cable", 1) is None
    assert goal.find("", 12) is None


def test_the_second_occurrence_is_found_when_the_first_is_inside_a_word():
    assert words("subway bus way").find("way", 12) == (2, 2)


def test_words_hash_without_case_and_never_to_padding():
    a, b = words("Lamp"), words("lamp")
    assert a.buckets[0] == b.buckets[0] > 0
    assert (a.buckets[1:] == 0).all()
    assert (a.shapes[0] != b.shapes[0]).any()


def test_a_long_goal_keeps_its_head_and_an_empty_one_has_no_words():
    assert len(goal_words("a b c d e", 3, 16).bounds) == 3
    assert words("").bounds == ()
    assert not span_mask(0, 4, 2).any()


def test_span_mask_is_start_to_end_within_the_goal():
    mask = span_mask(3, 4, 2)
    assert {(i, j) for i in range(4) for j in range(4) if mask[i, j]} == {
        (0, 0),
        (0, 1),
        (1, 1),
        (1, 2),
        (2, 2),
    }
