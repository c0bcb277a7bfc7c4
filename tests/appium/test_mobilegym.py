"""MobileGym's phone in a real browser, over a double of its simulator that speaks the same protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.appium.device import AppiumDevice
from android_env.devices.mobilegym.host import MobileGymHost
from android_env.devices.mobilegym.scripts import by_chance, oracle
from android_env.env import AndroidEnv
from android_env.evaluators.mobilegym import MobileGymJudge
from android_env.faults import TaskRefused
from android_env.tasks import Task, load_tasks
from android_env.testing import mobilegym
from digiq.agents.build import AgentConfig
from digiq.agents.devices.mobilegym import MobileGym
from digiq.config import load
from digiq.evaluation import evaluate

TASKS = {task.params["task"]: task for task in load_tasks(f"mobilegym:{mobilegym.checkout()}")}


@pytest.fixture(scope="module")
def device(installed: None) -> Iterator[AppiumDevice]:
    device = MobileGymHost(mobilegym.checkout()).open()
    yield device
    device.close()


def outcome(device, name, choose, *, seed=1, when="declared"):
    env = AndroidEnv(device, tuple(TASKS.values()), judge=MobileGymJudge(when=when))
    env.reset(seed=seed, options={"task": TASKS[name]})
    info = {"outcome": ""}
    while not info["outcome"]:
        *_, info = env.step(choose())
    return info["outcome"]


def texts(device):
    return {element["text"] for element in json.loads(device.observe().ui_elements)}


@pytest.mark.parametrize("name", ["pocket.AddNote", "pocket.GoDark"])
def test_who_knows_the_way_succeeds_by_touch_and_keys(device, name):
    assert outcome(device, name, lambda: oracle(device)) == "success"
    assert not device.faults.kinds


def test_chance_and_idleness_fail(device):
    rng = np.random.default_rng(0)
    assert outcome(device, "pocket.AddNote", lambda: by_chance(device, rng), when="reached") == "truncated"
    assert outcome(device, "pocket.AddNote", Action.complete) == "failure"
    assert outcome(device, "pocket.CountNotes", lambda: oracle(device)) == "failure"


def test_an_episode_finds_nothing_of_the_one_before(device):
    assert outcome(device, "pocket.GoDark", lambda: oracle(device)) == "success"
    assert device.ask(device.dialect.passed)
    first = device.reset(TASKS["pocket.GoDark"], seed=2)
    assert "Dark: off" in texts(device) and first.goal == "Switch to the dark theme"
    assert first.activity == "settings/"


def test_buttons_are_its_systems(device):
    device.reset(TASKS["pocket.AddNote"], seed=0)
    for action in (Action.back(), Action.home(), Action(ActionType.RECENT_APPS)):
        device.execute(Action.open_app("notebook"))
        assert device.observe().activity == "notes/" and device.report.sent == "executed"
        device.execute(action)
        assert device.observe().activity == "home/"
    device.execute(Action.open_app("camera"))
    assert device.report.notes == ("refused",) and device.observe().activity == "home/"


def test_an_agent_that_leaves_the_simulator_has_not_succeeded_and_comes_home(device):
    device.reset(TASKS["pocket.GoDark"], seed=0)
    device.ask(lambda driver: driver.get("about:blank"))
    assert not device.ask(device.dialect.passed)
    device.execute(Action.home())
    assert "left_simulator" in device.report.notes and "Notebook" in texts(device)


def test_a_set_up_that_fails_is_the_tasks_error(device):
    broken = Task("mobilegym/pocket.Broken", "x", "mobilegym", 1, "train", {"task": "pocket.Broken"})
    with pytest.raises(TaskRefused, match="there is no such note"):
        device.reset(broken, seed=0)
    assert outcome(device, "pocket.GoDark", lambda: oracle(device)) == "success", (
        "the device is as good as before"
    )


def test_an_evaluation_plays_side_by_side(installed, tmp_path):
    kind = {"checkout": str(mobilegym.checkout())}
    config = load(
        evaluate.EvaluateConfig,
        {
            "tasks": f"mobilegym:{mobilegym.checkout()}#test",
            "repeats": 3,
            "batch_size": 2,
            "agent": {"kind": "oracle"},
            "device": {"name": "mobilegym", "mobilegym": kind},
        },
    )
    assert config.device.chosen == MobileGym(**kind) and config.agent == AgentConfig(kind="oracle")
    found = evaluate.run(config, out=tmp_path / "out")
    assert found.manifest.counts["success"] == found.manifest.counts["episodes"] == 3
