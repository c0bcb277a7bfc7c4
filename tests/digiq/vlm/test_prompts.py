import numpy as np
import pytest

from android_env.actions import Action
from digiq.errors import ConfigError
from digiq.vlm import TINY_VLM_PATH, prompts
from digiq.vlm.prompts import TEMPLATES, build_prompt, draw_cursor, load_template, parse_template

GOAL = 'Go to fernhub.com, search for "amber kettle"'
ASKED = load_template("readout").questions("pair")


def test_spans_of_a_pair_prompt_cover_what_they_are_named_after():
    prompt = build_prompt(GOAL, Action.type_text("amber kettle"))
    cut = {name: prompt.text[start:end] for name, (start, end) in prompt.spans.items()}
    assert cut["goal"] == GOAL
    assert cut["action"] == 'type "amber kettle"'
    assert {name: cut[name] for name in ASKED} == ASKED
    assert cut["questions"] == " ".join(ASKED.values())
    assert cut["all"] == prompt.text
    assert prompt.text.endswith(cut["changes"])


def test_an_observation_prompt_asks_its_own_questions_and_names_no_action():
    prompt = build_prompt(GOAL, None)
    assert set(prompt.spans) == {
        "goal",
        *load_template("readout").questions("observation"),
        "questions",
        "all",
    }


@pytest.mark.parametrize(
    ("action", "cursor", "text"),
    [
        (Action.tap(0.25, 0.999), "tap at the cursor", "tap at (25, 99)"),
        (Action.swipe("up"), "swipe up", "swipe up"),
        (Action.swipe("left"), "swipe left", "swipe left"),
        (Action.enter(), "press enter", "press enter"),
        (Action.complete(), "declare the task complete", "declare the task complete"),
    ],
)
def test_an_action_in_words(action, cursor, text):
    assert prompts.describe_action(action, grounding="cursor") == cursor
    assert prompts.describe_action(action, grounding="text") == text


@pytest.mark.parametrize(("height", "width"), [(320, 192), (160, 96), (640, 384)])
def test_the_tap_mark_surrounds_its_point_and_nothing_else_changes(height, width):
    screenshot = np.full((height, width, 3), 120, np.uint8)
    drawn = draw_cursor(screenshot, Action.tap(0.5, 0.25))
    rows, columns = np.nonzero((drawn != screenshot).any(-1))
    assert abs((rows.min() + rows.max()) / 2 - height / 2) <= 1
    assert abs((columns.min() + columns.max()) / 2 - width / 4) <= 1
    assert rows.max() - rows.min() <= 2 * max(8, 8 * width / 192) + 5
    assert (screenshot == 120).all()


def test_the_tap_mark_is_clipped_at_the_screens_edge():
    screenshot = np.zeros((320, 192, 3), np.uint8)
    drawn = draw_cursor(screenshot, Action.tap(0.0, 1.0))
    assert drawn.shape == screenshot.shape
    assert drawn[:10, -10:].any() and not drawn[20:].any()


def test_opposite_swipes_look_different_and_other_actions_leave_no_mark():
    screenshot = np.full((320, 192, 3), 60, np.uint8)
    up, down = (draw_cursor(screenshot, Action.swipe(way)) for way in ("up", "down"))
    assert (up != down).any()
    for action in (None, Action.back(), Action.type_text("fern")):
        assert draw_cursor(screenshot, action) is screenshot


@pytest.mark.parametrize("name", TEMPLATES)
def test_spans_of_every_prompt_say_what_they_are_named_after(name):
    template, action = load_template(name), Action.tap(0.25, 0.5)
    for act, spans in ((action, template.pair), (None, template.observation)):
        prompt = template.prompt(GOAL, act, grounding="text", history="press back; swipe up")
        cut = {span: prompt.text[start:end] for span, (start, end) in prompt.spans.items()}
        assert set(spans) <= {*cut, "answer"} and cut["all"] == prompt.text
        assert (
            cut.get("goal", GOAL) == GOAL
            and cut.get("history", "press back; swipe up") == "press back; swipe up"
        )
        section = "observation" if act is None else "pair"
        asked = template.questions(section)
        assert asked and {q: cut[q] for q in asked} == asked
        if act is not None:
            assert cut["action"] == "tap at (25, 50)"
        assert "{" not in prompt.text


def test_only_the_papers_prompt_hides_the_goal_and_only_the_general_one_has_room_for_history():
    shown = {n: load_template(n).prompt(GOAL, Action.back(), grounding="text").spans for n in TEMPLATES}
    assert {n for n, spans in shown.items() if "goal" not in spans} == {"paper"}
    assert {n for n in TEMPLATES if load_template(n).has_history} == {"general"}
    general = load_template("general")
    without = general.prompt(GOAL, Action.back(), grounding="text").text
    assert (
        "Previous" not in without
        and "Previous actions: x" in general.prompt(GOAL, None, grounding="text", history="x").text
    )


def test_no_prompt_but_the_embedded_models_knows_a_web_shop():
    words = ("address", "query", "shop", "product", "entry", "field")
    for name in ("general", "paper"):
        assert not any(word in TEMPLATES[name].read_text().lower() for word in words)


def test_data_that_looks_like_a_template_stays_as_it_is():
    prompt = load_template("general").prompt("{action} {x: y}", Action.type_text("{goal}"), grounding="text")
    assert prompt.text.startswith('Goal: {action} {x: y}\nAction: type "{goal}"\n')


def test_a_prompt_of_ones_own_is_a_file(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("# pair: ask answer\n[observation]\n{goal}\n[pair]\nNow {action}. {ask: Good?}\n")
    template = load_template(file)
    assert (template.pair, template.observation, template.pooling) == (("ask", "answer"), ("answer",), "mean")
    assert template.prompt("g", Action.back(), grounding="text").text == "Now press back. Good?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pair]\n{action}", "no text under .observation"),
        ("[observation]\nx\n[pair]\nx", r"no \{action\}"),
        ("[observation]\n{action}\n[pair]\n{action}", "no action to name"),
        ("[observation]\n{where}\n[pair]\n{action}", "'where' in"),
        ("[observation]\n{a: b\n[pair]\n{action}", "'{' in"),
        ("[observation]\n{a: b} {a: c}\n[pair]\n{action}", "two spans 'a'"),
        ("hello\n[pair]\n{action}", "comes before"),
        ("# pooling: max\n[observation]\nx\n[pair]\n{action}", "pooling is 'max'"),
    ],
)
def test_a_prompt_that_does_not_say_what_it_must_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_template(text, "mine")
    with pytest.raises(ConfigError, match="neither one of general, paper, readout nor a readable file"):
        load_template("nowhere")


def test_only_the_embedded_model_is_asked_what_it_was_trained_on(tmp_path):
    assert prompts.default_prompt(TINY_VLM_PATH) == "readout"
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"what kind of element?": 1}}}')
    assert prompts.default_prompt(tmp_path) == prompts.default_prompt(tmp_path / "none") == "general"


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 0.0), (0.999, 0.999), (0.02, 0.9)])
@pytest.mark.parametrize(("height", "width"), [(320, 192), (80, 128), (3, 2)])
def test_a_crop_shows_the_screen_around_the_tap_with_the_mark_and_stays_on_the_screen(height, width, place):
    screen = np.full((height, width, 3), 90, np.uint8)
    tap = Action.tap(*place)
    shown, cropped = prompts.pictures(screen, tap, "crop")
    assert shown is screen and cropped.shape == (prompts.CROP_SIDE, prompts.CROP_SIDE, 3)
    assert (cropped != 90).any()  # the mark
    if (height, width) == (320, 192):
        marked = np.argwhere((cropped != 90).any(axis=-1)).mean(axis=0) / prompts.CROP_SIDE
        for share, where in zip(place, marked, strict=True):
            assert abs(where - 0.5) < 0.02 if share == 0.5 else abs(where - round(share)) < 0.3


def test_only_a_tap_has_a_crop_which_follows_its_words():
    for action in (Action.swipe("up"), Action.enter(), Action.type_text("tea"), None):
        prompt = build_prompt(GOAL, action, grounding="crop", before=True)
        assert prompt.pictures == (0, 0) and prompt.in_front == 2
        before, shown = np.zeros((2, 64, 40, 3), np.uint8)
        given = prompts.pictures(shown, action, "crop", before)
        assert len(given) == 2 and given[0] is before and given[1] is shown
    prompt = build_prompt(GOAL, Action.tap(0.3, 0.6), grounding="crop")
    assert prompt.pictures == (0, prompt.text.index("tap at (30, 60)") + len("tap at (30, 60)"))


def test_the_prompt_says_which_picture_is_which():
    without, with_it = (build_prompt(GOAL, Action.back(), before=before) for before in (False, True))
    assert with_it.text == f"{prompts._BEFORE}\n{without.text}"
    assert {n: without.text[a:b] for n, (a, b) in without.spans.items() if n != "all"} == {
        n: with_it.text[a:b] for n, (a, b) in with_it.spans.items() if n != "all"
    }
