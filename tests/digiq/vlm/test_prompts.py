import numpy as np
import pytest

from android_env.actions import Action
from digiq.vlm import prompts
from digiq.vlm.prompts import build_prompt, draw_cursor

GOAL = 'Go to fernhub.com, search for "amber kettle"'


def test_spans_of_a_pair_prompt_cover_what_they_are_named_after():
    prompt = build_prompt(GOAL, Action.type_text("amber kettle"))
    cut = {name: prompt.text[start:end] for name, (start, end) in prompt.spans.items()}
    assert cut["goal"] == GOAL
    assert cut["action"] == 'type "amber kettle"'
    assert {name: cut[name] for name in prompts.PAIR_QUESTIONS} == prompts.PAIR_QUESTIONS
    assert cut["questions"] == " ".join(prompts.PAIR_QUESTIONS.values())
    assert cut["all"] == prompt.text
    assert prompt.text.endswith(cut["changes"])


def test_an_observation_prompt_asks_its_own_questions_and_names_no_action():
    prompt = build_prompt(GOAL, None)
    assert set(prompt.spans) == {"goal", *prompts.OBSERVATION_QUESTIONS, "questions", "all"}


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
