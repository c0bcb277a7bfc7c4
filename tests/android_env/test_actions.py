"""The action space: text form, parsing, AitW matching."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from android_env.actions import (
    NO_POINT,
    TEXT_TYPES,
    TOUCH_TYPES,
    Action,
    ActionType,
    ParseError,
    actions_match,
    format_action,
    parse_action,
)
from android_env.errors import ActionError

UNIT = st.floats(0, 1)
POINTS = st.tuples(UNIT, UNIT)
ACTIONS = st.builds(Action, st.sampled_from(ActionType), POINTS, POINTS, st.text())


@given(ACTIONS)
def test_parsing_undoes_formatting(action):
    assert parse_action(format_action(action)) == action


@given(ACTIONS, st.randoms(use_true_random=False))
def test_damaged_strings_give_an_action_or_a_reason(action, random):
    text = format_action(action)
    start, end = sorted(random.choices(range(len(text) + 1), k=2))
    parsed = parse_action(text[:start] + text[end:])
    assert isinstance(parsed, Action) or (isinstance(parsed, ParseError) and parsed.reason)


@given(
    st.one_of(
        st.text(),
        st.text(alphabet='{}[]":, 0123456789-.eE\\untypeachoid_"'),
        st.from_regex(r'"action_type": .*'),
    )
)
def test_any_string_gives_an_action_or_a_reason(string):
    parsed = parse_action(string)
    assert isinstance(parsed, Action) or (parsed.reason and parsed.string == string)


@given(ACTIONS)
def test_unused_fields_are_reset_and_coordinates_are_float32(action):
    if action.type not in TOUCH_TYPES:
        assert action.touch_yx == action.lift_yx == NO_POINT
    if action.type not in TEXT_TYPES:
        assert action.text == ""
    assert all(float(np.float32(v)) == v for v in (*action.touch_yx, *action.lift_yx))
    twin = dataclasses.replace(action)
    assert twin == action and hash(twin) == hash(action)


@given(ACTIONS, ACTIONS, st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=4))
def test_matching_is_symmetric_and_an_action_matches_itself(a, b, boxes):
    assert actions_match(a, b, boxes) == actions_match(b, a, boxes)
    assert actions_match(a, a, boxes)


@pytest.mark.parametrize(
    "string, action",
    [
        ('"action_type": "TYPE", "typed_text": "a, \\"b\\": {c}"', Action.type_text('a, "b": {c}')),
        # What upstream models write: a plan before it, quotes not escaped.
        (
            'Action Plan: [TYPE]; Action Decision: "action_type": "TYPE", "touch_point": "[-1.0, -1.0]", '
            '"lift_point": "[-1.0, -1.0]", "typed_text": "say "hi", now"',
            Action.type_text('say "hi", now'),
        ),
        ('{"action_type": "dual_point", "touch_point": [0.5, 0.25]}', Action.tap(0.5, 0.25)),
        ('"action_type": "STATUS_TASK_IMPOSSIBLE"', Action.impossible()),
        ('"action_type": "STATUS_TASK_COMPLETE", "touch_point": "[-1.0, -1.0]"', Action.complete()),
        ('"typed_text": "Action Decision:", "action_type": "TYPE"', Action.type_text("Action Decision:")),
    ],
)  # fmt: skip
def test_parsing_what_models_write(string, action):
    assert parse_action(string) == action


@pytest.mark.parametrize(
    "string, reason",
    [
        ("CLICK somewhere nice", "does not start"),
        ('"action_type": "FLY"', "unknown"),
        ('"action_type": "DUAL_POINT"', "touch_yx"),
        ('"action_type": "DUAL_POINT", "touch_point": "[0.5, 1.5]"', "[0, 1]"),
        ('"action_type": "DUAL_POINT", "touch_point": "[0.5; 0.5]"', "[y, x]"),
        ('"action_type": "TYPE", "action_type": "TYPE"', "twice"),
        ('"action_type": "TYPE", "colour": "red"', "field names"),
        ('"typed_text": "x"', "missing"),
        ("", "does not start"),
    ],
)
def test_reasons_name_what_is_wrong(string, reason):
    parsed = parse_action(string)
    assert isinstance(parsed, ParseError) and reason in parsed.reason


@pytest.mark.parametrize("point", [(-0.1, 0.5), (0.5, 1.01), (float("nan"), 0.5), (0.5, float("inf"))])
def test_points_outside_the_screen_are_refused(point):
    with pytest.raises(ActionError, match="touch_yx"):
        Action.tap(*point)


def test_unknown_types_and_directions_are_refused():
    with pytest.raises(ActionError, match="unknown"):
        Action(42)
    with pytest.raises(ActionError, match="direction"):
        Action.swipe("sideways")


def test_a_tap_moves_at_most_four_percent():
    def move(dy, dx):
        return Action(ActionType.DUAL_POINT, (0.5, 0.5), (0.5 + dy, 0.5 + dx))

    assert move(0.0, 0.0).is_tap and move(0.0, 0.0399).is_tap and move(0.028, 0.028).is_tap
    assert move(0.0, 0.0401).is_swipe and move(0.03, 0.03).is_swipe
    assert not Action.back().is_tap and not Action.back().is_swipe


@pytest.mark.parametrize("direction", ["up", "down", "left", "right"])
def test_swipes_know_their_direction(direction):
    swipe = Action.swipe(direction)
    assert swipe.is_swipe and swipe.swipe_direction == direction
    assert Action.tap(0.5, 0.5).swipe_direction is None


def test_the_finger_goes_where_the_swipe_says():
    up = Action.swipe("up")
    assert up.lift_yx[0] < up.touch_yx[0] and up.lift_yx[1] == up.touch_yx[1]
    left = Action.swipe("left")
    assert left.lift_yx[1] < left.touch_yx[1] and left.lift_yx[0] == left.touch_yx[0]


def test_taps_match_within_fourteen_percent():
    assert actions_match(Action.tap(0.5, 0.5), Action.tap(0.5, 0.6399))
    assert not actions_match(Action.tap(0.5, 0.5), Action.tap(0.5, 0.6401))
    # Euclidean, not per axis.
    assert not actions_match(Action.tap(0.5, 0.5), Action.tap(0.6, 0.6))


def test_taps_match_inside_one_box_of_2_4_times_its_size():
    box = (0.4, 0.4, 0.2, 0.2)  # grows by 0.28: from 0.26 to 0.74
    top_left, bottom_right = Action.tap(0.265, 0.265), Action.tap(0.735, 0.735)
    assert actions_match(top_left, bottom_right, [box])
    assert not actions_match(top_left, Action.tap(0.745, 0.735), [box])
    assert not actions_match(top_left, bottom_right, [])
    # Each inside another box is not enough.
    assert not actions_match(
        Action.tap(0.1, 0.5), Action.tap(0.9, 0.5), [(0.05, 0.4, 0.1, 0.2), (0.85, 0.4, 0.1, 0.2)]
    )


def test_grown_boxes_are_cut_as_upstream_cuts_them():
    # The near edge stops at 0 and the size keeps its 2.4 times, so the far edge moves out.
    box = (0.0, 0.0, 0.25, 1.0)
    assert actions_match(Action.tap(0.01, 0.1), Action.tap(0.59, 0.9), [box])
    assert not actions_match(Action.tap(0.01, 0.1), Action.tap(0.61, 0.9), [box])


def test_swipes_match_on_their_main_axis_only():
    assert actions_match(Action.swipe("up"), Action.swipe("down"))
    assert actions_match(Action.swipe("left"), Action.swipe("right"))
    assert not actions_match(Action.swipe("up"), Action.swipe("left"))
    assert not actions_match(Action.swipe("up"), Action.tap(0.8, 0.5))


def test_other_actions_match_on_type_alone():
    assert actions_match(Action.type_text("a"), Action.type_text("b"))
    assert actions_match(Action.impossible(), Action.impossible())
    assert not actions_match(Action.complete(), Action.impossible())
    assert not actions_match(Action.back(), Action.tap(0.5, 0.5))


@pytest.mark.parametrize("text", ["caf\ud83d", "\udc80", "a\ud800b"])
def test_half_a_character_is_refused_at_the_door(text):
    with pytest.raises(ActionError, match="lone surrogate"):
        Action(ActionType.TYPE, text=text)
    answer = parse_action(f'"action_type": "TYPE", "typed_text": {json.dumps(text)}')
    assert isinstance(answer, ParseError) and "lone surrogate" in answer.reason
    whole = parse_action('"action_type": "TYPE", "typed_text": "\\ud83c\\udf82"')
    assert whole.text == "🎂"


def test_thresholds_belong_to_the_tap_and_to_the_match():
    at, beyond = np.float32(0.04), np.nextafter(np.float32(0.04), np.float32(1))
    assert Action(ActionType.DUAL_POINT, (0, 0), (0, at)).is_tap
    assert Action(ActionType.DUAL_POINT, (0, 0), (at, 0)).is_tap
    assert Action(ActionType.DUAL_POINT, (0, 0), (0, beyond)).is_swipe
    at, beyond = np.float32(0.14), np.nextafter(np.float32(0.14), np.float32(1))
    assert actions_match(Action.tap(0, 0), Action.tap(0, at))
    assert actions_match(Action.tap(at, 0), Action.tap(0, 0))
    assert not actions_match(Action.tap(0, 0), Action.tap(0, beyond))


def test_the_edge_of_a_box_is_inside_it():
    box = (0.5, 0.25, 0.25, 0.125)
    corner, size = np.array(box[:2], np.float32), np.array(box[2:], np.float32)
    grown = np.float32(1.4) * size
    first = corner - grown / 2
    last = first + (size + grown)
    assert actions_match(Action.tap(*first), Action.tap(*last), [box])
    for axis in (0, 1):
        beyond_first, beyond_last = first.copy(), last.copy()
        beyond_first[axis] = np.nextafter(first[axis], np.float32(0))
        beyond_last[axis] = np.nextafter(last[axis], np.float32(1))
        assert not actions_match(Action.tap(*beyond_first), Action.tap(*last), [box])
        assert not actions_match(Action.tap(*first), Action.tap(*beyond_last), [box])


def test_a_swipe_on_the_diagonal_is_vertical():
    slanted = Action(ActionType.DUAL_POINT, (0.25, 0.25), (0.75, 0.75))
    assert slanted.swipe_direction == "down"
    assert Action(ActionType.DUAL_POINT, (0.75, 0.25), (0.25, 0.75)).swipe_direction == "up"
    assert actions_match(slanted, Action.swipe("up")) and not actions_match(slanted, Action.swipe("left"))


def test_types_have_the_numbers_of_aitw():
    numbers = {t.name: t.value for t in ActionType if t < 100}
    assert numbers == {
        "TYPE": 3,
        "DUAL_POINT": 4,
        "PRESS_BACK": 5,
        "PRESS_HOME": 6,
        "PRESS_ENTER": 7,
        "STATUS_TASK_COMPLETE": 10,
        "STATUS_TASK_IMPOSSIBLE": 11,
    }


@pytest.mark.parametrize("point", [(-0.5, 0.5), (0.5, -0.5), (1.5, 0.5), (0.5, 1.5)])
def test_each_coordinate_has_both_bounds(point):
    with pytest.raises(ActionError, match="both in"):
        Action.tap(*point)
    assert Action.tap(-0.0, -0.0).touch_yx == (0.0, 0.0)
    assert str(Action.tap(-0.0, -0.0).touch_yx) == "(0.0, 0.0)"


def test_one_brace_is_no_pair():
    plain = format_action(Action.back())
    assert parse_action("{" + plain + "}") == Action.back()
    assert isinstance(parse_action("{" + plain), ParseError)
    assert isinstance(parse_action(plain + "}"), ParseError)


def test_a_reason_shows_where_it_stumbled_and_no_more():
    found = parse_action('"action_type": "TYPE", nonsense that goes on and on and on')
    assert isinstance(found, ParseError) and "nonsense that goes" in found.reason
    assert "on and on" not in found.reason and '"action_type"' not in found.reason
