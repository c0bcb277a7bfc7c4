"""Features without a VLM: `text` sees no screen, `elements` sees what stands under a tap."""

import json

import numpy as np

from android_env.actions import Action
from digiq.laboratory.elements import observation_features, pair_features

GOAL = "Go to buyhive.com, search for desk lamp"
ELEMENTS = json.dumps(
    [
        {"text": "desk lamp", "role": "list_row", "bounds": [0.0, 0.0, 0.2, 1.0]},
        {"text": "wool socks", "role": "list_row", "bounds": [0.2, 0.0, 0.2, 1.0]},
    ]
)


def both(source, action, activity="buyhive.com/results", elements=ELEMENTS):
    return pair_features(source, GOAL, action, activity, elements)


def test_text_features_see_the_action_but_no_screen():
    tap = Action.tap(0.1, 0.5)
    assert np.array_equal(both("text", tap), both("text", tap, "Home/launcher", "[]"))
    assert not np.array_equal(both("text", tap), both("text", Action.tap(0.3, 0.5)))
    assert not np.array_equal(
        both("text", Action.type_text("desk lamp")), both("text", Action.type_text("buyhive.com"))
    )
    assert np.array_equal(
        observation_features("text", GOAL, "a/b", ELEMENTS), observation_features("text", GOAL, "c/d", "[]")
    )


def test_element_features_tell_what_is_tapped_and_whether_the_goal_names_it():
    wanted, other = both("elements", Action.tap(0.1, 0.5)), both("elements", Action.tap(0.3, 0.5))
    assert wanted.shape == other.shape and wanted.dtype == np.float32
    assert wanted[-3] == 1.0 and other[-3] == 0.0  # share of the element's words that the goal has
    assert other[-2] > wanted[-2]  # one row stands above it
    assert both("elements", Action.tap(0.9, 0.5))[-1] == 0.0  # nothing is there
    screens = [observation_features("elements", GOAL, a, ELEMENTS) for a in ("x/results", "x/launcher")]
    assert not np.array_equal(*screens)


def test_every_kind_of_action_has_features_of_one_size():
    actions = [
        Action.tap(1.0, 1.0),
        Action.swipe("up"),
        Action.type_text("x"),
        Action.back(),
        Action.complete(),
    ]
    for source in ("text", "elements"):
        found = [both(source, action) for action in actions]
        assert len({f.shape for f in found}) == 1 and all(np.isfinite(f).all() for f in found)
        assert len({f.tobytes() for f in found}) == len(actions)
