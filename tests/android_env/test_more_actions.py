"""The actions beyond Android in the Wild's: text and storage keep them apart, and old ones read unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from android_env.actions import AITW_TYPES, Action, ActionType, actions_match, format_action, parse_action
from android_env.devices import actions_of
from android_env.devices.simulated.phone import SimulatedPhone
from digiq.agents.agent import Agent, Turn, turns_for
from digiq.policies.base import Candidate, PolicyInput

MORE = [
    Action.long_press(0.2, 0.3),
    Action.double_tap(0.2, 0.3),
    Action.drag((0.2, 0.3), (0.7, 0.8)),
    Action.open_app("Clock"),
    Action.wait(),
    Action.answer("42, of course"),
    Action.recent_apps(),
]


def test_each_type_has_its_maker_and_survives_its_text():
    assert {action.type for action in MORE} == set(ActionType) - AITW_TYPES
    for action in MORE:
        assert parse_action(format_action(action)) == action
        assert not action.ends_episode and not action.is_tap and not action.is_swipe
        stored = Action(int(action.type), action.touch_yx, action.lift_yx, action.text)
        assert stored == action and hash(stored) == hash(action)
    assert Action.double_tap(0.2, 0.3).lift_yx == Action.double_tap(0.2, 0.3).touch_yx
    assert Action.drag((0.2, 0.3), (0.7, 0.8)).lift_yx == pytest.approx((0.7, 0.8))
    assert actions_match(MORE[2], Action.drag((0, 0), (1, 1))) and not actions_match(MORE[0], MORE[1])


def test_ids_of_android_in_the_wild_and_of_older_episodes_stay():
    assert {kind.name: kind.value for kind in ActionType} == {
        "TYPE": 3, "DUAL_POINT": 4, "PRESS_BACK": 5, "PRESS_HOME": 6, "PRESS_ENTER": 7,
        "STATUS_TASK_COMPLETE": 10, "STATUS_TASK_IMPOSSIBLE": 11,
        "LONG_PRESS": 100, "OPEN_APP": 101, "WAIT": 102, "ANSWER": 103,
        "RECENT_APPS": 104, "DOUBLE_TAP": 105, "DRAG": 106,
    }  # fmt: skip


class Draws:
    """Draws these actions, in this order."""

    def __init__(self, *actions):
        self.actions = actions

    def sample(self, inputs, n, rng, temperature=1.0):
        return [[Candidate(action, 0.0) for action in self.actions] for _ in inputs]


def test_what_a_device_cannot_do_is_left_out_where_anything_remains():
    seen = PolicyInput(np.zeros((4, 4, 3), np.uint8), "goal")
    turn = Turn(seen, np.random.default_rng(0), actions=actions_of(SimulatedPhone()))
    assert turn.actions == AITW_TYPES
    (decision,) = Agent(Draws(Action.drag((0, 0), (1, 1)), Action.home())).act([turn])
    assert decision.action == Action.home()
    (decision,) = Agent(Draws(Action.recent_apps())).act([turn])
    assert decision.action == Action.recent_apps()
    able = dataclasses.replace(turn, actions=frozenset(ActionType))
    (decision,) = Agent(Draws(Action.recent_apps(), Action.home())).act([able])
    assert decision.action == Action.recent_apps()


def test_only_who_declares_it_reads_the_elements():
    seen = PolicyInput(np.zeros((4, 4, 3), np.uint8), "goal")
    turn = Turn(seen, np.random.default_rng(0), device="d", elements="[1]")
    plain, reading = type("A", (), {}), type("B", (), {"reads_elements": True})
    assert turns_for(plain(), [turn])[0].elements is None
    (told,) = turns_for(reading(), [turn])
    assert told.elements == "[1]" and told.device is None
