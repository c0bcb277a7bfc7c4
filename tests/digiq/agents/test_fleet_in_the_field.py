"""One bad task and one dead device, on phones behind doubled servers that refuse apps and need their helpers."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("appium", reason="pip install 'digiq[appium]'")

from android_env.actions import Action
from android_env.appium.device import AppiumDevice
from android_env.appium.settle import SettleConfig
from android_env.appium.uiautomator2 import HELPERS, UiAutomator2
from android_env.env import AndroidEnv
from android_env.faults import FaultLog, Rung
from android_env.tasks import load_tasks
from android_env.testing.appium import AppiumDouble
from android_env.testing.clock import FakeClock
from digiq.agents.agent import ScriptedAgent
from digiq.agents.rollout import EpisodeSpec, rollout

TASKS = [
    dataclasses.replace(task, max_steps=2, params={**task.params, "package": "com.android.settings"})
    for task in load_tasks("webshop/train")[:24]
]
BAD = dataclasses.replace(TASKS[0], task_id="bad", params={"package": "com.android.setings"})
TAPPER = ScriptedAgent(lambda device, rng: (Action.tap(0.02, 0.5), 0.0), "tapper")


class Fleet:
    """Three phones; `taken` says which rungs were taken, by phone."""

    def __init__(self, doubles, **recovery):
        self.doubles, self.log, self.taken = doubles, FaultLog(), [[] for _ in doubles]
        self.clocks = [FakeClock() for _ in doubles]
        self.devices = [self._device(number, recovery) for number in range(len(doubles))]
        self._left = iter(self.devices)

    def _device(self, number, recovery):
        double = self.doubles[number]

        def repair(rung):
            return lambda: (self.taken[number].append(rung.name), double.heal())

        return AppiumDevice(
            double.url,
            UiAutomator2.numbered(number, f"emulator-{5554 + 2 * number}"),
            settle=SettleConfig(stable_polls=1),
            screen_hw=double.phone.screen_hw,
            restore=lambda task, seed: double.load(TASKS[0], seed),
            repairs={rung: repair(rung) for rung in (Rung.LOAD_SNAPSHOT, Rung.REBOOT, Rung.REBUILD)},
            clock=self.clocks[number],
            log=self.log,
            recovery=recovery,
        )

    def make_env(self):
        return AndroidEnv(next(self._left), TASKS, judge=lambda moment: None)


@pytest.fixture
def doubles():
    made = [AppiumDouble(installed={"com.android.settings"}) for _ in range(3)]
    for double in made:
        double.saved = set(HELPERS)
    yield made
    for double in made:
        double.close()


def specs_with(*more):
    specs = [EpisodeSpec(task, 0, number) for number, task in enumerate(TASKS)]
    specs[4:4] = [EpisodeSpec(task, 0, 99) for task in more]
    return specs


@pytest.mark.parametrize("threads", [False, True])
def test_one_bad_task_of_25_costs_itself_and_no_device(doubles, threads):
    fleet = Fleet(doubles)
    options = {"batch_size": 3, "record": lambda spec: False, "threads": threads}
    runs = list(rollout(TAPPER, specs_with(BAD), fleet.make_env, **options))
    assert [run.outcome for run in runs if run.spec.task is not BAD] == ["truncated"] * 24
    (bad,) = [run for run in runs if run.spec.task is BAD]
    assert bad.outcome == "task_error" and bad.fault == "app_refused" and "com.android.setings" in bad.error
    asked = [
        sum(
            command == "execute/sync"
            and body["script"] == "mobile: activateApp"
            and body["args"][0]["appId"] == "com.android.setings"
            for command, body in double.commands
        )
        for double in doubles
    ]
    assert sorted(asked) == [0, 1, 1], "it is tried on two devices, once each"
    assert not any(device.recovery.quarantined for device in fleet.devices)
    assert fleet.taken == [[], [], []], "nothing was rebooted or rebuilt"


@pytest.mark.parametrize("threads", [False, True])
def test_a_dead_device_is_given_up_within_its_cap_and_loses_nothing(doubles, threads):
    fleet = Fleet(doubles, reset_cap_s=600.0)
    doubles[1].dead = True
    options = {"batch_size": 3, "record": lambda spec: False, "threads": threads}
    runs = list(rollout(TAPPER, specs_with(), fleet.make_env, **options))
    assert [run.outcome for run in runs] == ["truncated"] * 24
    assert [device.recovery.quarantined for device in fleet.devices] == [False, True, False]
    assert "REBUILD" in fleet.taken[1] and fleet.taken[0] == fleet.taken[2] == []
    assert fleet.clocks[1].now() <= 600 + fleet.devices[1].timeout_s
