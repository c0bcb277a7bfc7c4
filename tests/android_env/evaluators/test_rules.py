"""Judging by the screen: activity and text rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from android_env.actions import Action
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from android_env.env import AndroidEnv
from android_env.errors import TaskError
from android_env.evaluators.rules import Rules
from android_env.tasks import load_tasks

TASK = load_tasks("webshop/train")[0]


def outcome_of(actions, **params):
    task = dataclasses.replace(TASK, params={**TASK.params, **params})
    env = AndroidEnv(SimulatedPhone(noise=NO_NOISE, render=False), [task], judge=Rules())
    env.reset(seed=0)
    for action in actions(env.device):
        *_, info = env.step(action)
        if info["outcome"]:
            return info["outcome"], info["step"]
    return "", 0


def oracle(phone):
    rng = np.random.default_rng(0)
    while True:
        yield draw(SCRIPTED["oracle"](phone.display), rng)[0]


def test_reaching_an_activity_is_success():
    assert outcome_of(oracle, success_activity="Browser/*")[0] == "success"
    assert outcome_of(lambda phone: [Action.back()], success_activity="Browser/*") == ("", 0)


def test_text_on_the_screen_is_success_and_both_must_hold():
    assert outcome_of(lambda phone: [Action.home()], success_text="^sett") == ("success", 1)
    assert outcome_of(lambda phone: [Action.home()], success_text="sett", success_activity="x/*") == ("", 0)


def test_declaring_too_early_is_failure():
    assert outcome_of(lambda phone: [Action.complete()], success_activity="Browser/*") == ("failure", 1)
    assert outcome_of(lambda phone: [Action.complete()], success_activity="Home/*") == ("success", 1)


def test_tasks_that_cannot_be_judged_are_refused():
    with pytest.raises(TaskError, match="success_activity"):
        outcome_of(lambda phone: [Action.back()])
    with pytest.raises(TaskError, match="not a regular expression"):
        outcome_of(lambda phone: [Action.back()], success_text="(")
