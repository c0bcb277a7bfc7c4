"""AndroidWorld's server: its routes and quirks, on a double."""

from __future__ import annotations

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.devices.android_world import ACTIONS, AndroidWorld, Server, tasks
from android_env.env import AndroidEnv
from android_env.errors import TaskError
from android_env.faults import Quarantined, ServerDead, TaskRefused
from android_env.tasks import Task, load_tasks
from android_env.testing.android_world import AndroidWorldDouble
from android_env.testing.clock import FakeClock

SETTINGS = Action.tap(0.3, 0.3)


@pytest.fixture
def double():
    with AndroidWorldDouble() as made:
        yield made


@pytest.fixture
def env(double):
    device = AndroidWorld(Server(double.url, timeout_s=10), clock=FakeClock())
    made = AndroidEnv(device, tasks(Server(double.url)))
    yield made
    made.close()


def test_tasks_are_the_suites(double):
    made = tasks(Server(double.url), combinations=2, seed=7)
    assert [task.params["task_type"] for task in made] == ["OpenSettings"] * 2 + ["TypeName"] * 2 + [
        "Broken"
    ] * 2
    assert double.seed == 7 and made[1].params["task_idx"] == "1" and made[0].goal == "Open the settings."
    assert len({task.task_id for task in made}) == 6
    assert len(load_tasks(double.url)) == 3


def test_success_is_looked_at_when_the_end_is_declared(env, double):
    env.reset(seed=0, options={"task": env.tasks[0]})
    *_, info = env.step(SETTINGS)
    assert info["outcome"] == "" and double.screen == "settings"
    *_, info = env.step(Action.complete())
    assert info["outcome"] == "success"
    assert double.actions[-1] == {"action_type": "status", "goal_status": "complete"}
    env.reset(seed=0, options={"task": env.tasks[0]})
    assert double.screen == "home"
    assert env.step(Action.complete())[4]["outcome"] == "failure"


def test_every_action_is_said_in_the_servers_words(env, double):
    env.reset(seed=0, options={"task": env.tasks[0]})
    double.actions.clear()
    said = {
        Action.tap(0.5, 0.5): {"action_type": "click", "x": 20, "y": 30},
        Action.long_press(1.0, 1.0): {"action_type": "long_press", "x": 39, "y": 59},
        Action.double_tap(0.0, 0.0): {"action_type": "double_tap", "x": 0, "y": 0},
        Action.swipe("up"): {"action_type": "scroll", "direction": "down"},
        Action.type_text("Ada"): {"action_type": "input_text", "text": "Ada"},
        Action.open_app("Clock"): {"action_type": "open_app", "app_name": "Clock"},
        Action.answer("42"): {"action_type": "answer", "text": "42"},
        Action.back(): {"action_type": "navigate_back"},
        Action.home(): {"action_type": "navigate_home"},
        Action.enter(): {"action_type": "keyboard_enter"},
        Action.wait(): {"action_type": "wait"},
    }
    for action, words in said.items():
        env.device.execute(action)
        assert double.actions[-1] == words and env.device.report.sent == "executed"
    count = len(double.actions)
    for action in (Action.recent_apps(), Action.drag((0, 0), (1, 1))):
        env.device.execute(action)
        assert env.device.report.notes == ("refused",) and action.type not in ACTIONS
    assert len(double.actions) == count
    assert {a.type for a in said} | {
        ActionType.STATUS_TASK_COMPLETE,
        ActionType.STATUS_TASK_IMPOSSIBLE,
    } == ACTIONS


def test_a_task_is_torn_down_before_the_next_and_at_the_end(env, double):
    for task in env.tasks[:2]:
        env.reset(seed=0, options={"task": task})
        assert double.initialized == (task.params["task_type"], 0)
    assert not env.device.faults.kinds
    env.close()
    assert double.initialized is None


def test_a_task_that_cannot_be_set_up_is_the_tasks_error(env, double):
    with pytest.raises(TaskRefused, match="command_failed"):
        env.reset(seed=0, options={"task": env.tasks[2]})
    env.reset(seed=0, options={"task": env.tasks[0]})
    assert not env.device.recovery.quarantined
    with pytest.raises(TaskError, match="not one of AndroidWorld's"):
        env.device.reset(Task("x", "y", "webshop", 1, "train"), seed=0)


def test_reads_are_asked_again_and_actions_are_not(env, double):
    env.reset(seed=0, options={"task": env.tasks[0]})
    double.fails["/screenshot"] = 2
    assert env.device.observe().screenshot.shape == (60, 40, 3)
    double.fails["/execute_action"] = 1
    count = double.calls["/execute_action"]
    env.device.execute(SETTINGS)
    assert env.device.report.sent == "maybe_executed" and double.calls["/execute_action"] == count + 1


def test_a_server_that_is_gone_is_given_up(double):
    device = AndroidWorld(Server(double.url, timeout_s=5), screen_hw=(30, 20), clock=FakeClock())
    task = tasks(Server(double.url))[0]
    assert np.array_equal(device.reset(task, seed=0).screenshot.shape, (30, 20, 3))
    device.execute(SETTINGS)
    assert double.screen == "settings", "taps are of the phone's own size"
    double.close()
    with pytest.raises(Quarantined, match="server_dead"):
        device.reset(task, seed=0)
    with pytest.raises(ServerDead):
        Server(double.url).call("GET", "/health")
