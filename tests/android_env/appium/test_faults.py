"""Every kind of fault through the real client: how it is told, what mends it, and what becomes of the episode."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("appium", reason="pip install 'digiq[appium]'")

from android_env.actions import Action
from android_env.appium.settle import SettleConfig
from android_env.appium.uiautomator2 import UiAutomator2
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.env import AndroidEnv
from android_env.errors import DeviceFault
from android_env.faults import (
    KINDS,
    AdbOffline,
    CommandFailed,
    EmulatorDead,
    JudgeError,
    Quarantined,
    SettleTimeout,
    WrongScreenSize,
)
from android_env.tasks import load_tasks
from android_env.testing.appium import INJECTABLE

TASKS = load_tasks("webshop/train")
UDID = "emulator-5554"
TAP = Action.tap(0.02, 0.5)
"""On the status bar: nothing happens."""
HOME_OR_NOT = Action.tap(0.2, 0.15)
"""On an app of the home screen: another screen opens."""


@pytest.fixture
def ready(bench):
    bench.device.reset(TASKS[0], seed=0)
    bench.did.clear()
    bench.double.executed.clear()
    return bench


def log_of(bench):
    return bench.device.recovery.log


def test_session_lost_while_reading(ready):
    ready.double.inject("session_lost", on="screenshot")
    ready.device.execute(TAP)
    assert ready.did == ["new_session"] and log_of(ready).kinds == {"session_lost": 1}
    assert len(ready.double.executed) == 1
    assert ready.device.report.sent == "executed" and ready.device.report.faults == 1


def test_session_lost_before_an_action_sends_it_in_the_new_session(ready):
    ready.double.inject("session_lost", on="actions")
    ready.device.execute(TAP)
    assert len(ready.double.executed) == 1 and ready.counts("actions") == 2
    assert ready.device.report.sent == "executed"


def test_instrumentation_dead(ready):
    ready.double.inject("instrumentation_dead", on="actions")
    ready.device.execute(HOME_OR_NOT)
    assert ready.did == ["new_session"] and len(ready.double.executed) == 1
    assert log_of(ready).kinds == {"instrumentation_dead": 1}


class ImpatientTaps(UiAutomator2):
    """Waits for a tap's answer for a fifth of a second only, and for all others as long as it takes."""

    def tap(self, driver, at):
        config = driver.command_executor.client_config
        patience, config.timeout = config.timeout, 0.2
        try:
            super().tap(driver, at)
        finally:
            config.timeout = patience


def test_server_slow_after_the_tap_has_happened(make_bench):
    bench = make_bench(dialect=ImpatientTaps(UDID))
    bench.device.reset(TASKS[0], seed=0)
    bench.double.executed.clear()
    bench.double.inject("server_slow", on="actions", executed=True)
    bench.device.execute(HOME_OR_NOT)
    assert len(bench.double.executed) == 1 == bench.counts("actions")
    assert bench.device.report.sent == "maybe_executed"
    assert log_of(bench).kinds == {"server_slow": 1} and log_of(bench).done["maybe_executed"] == 1
    assert bench.device.observe().activity == bench.double.phone.observe().activity


def test_server_dead_before_and_after_a_tap(ready):
    for executed in (False, True):
        ready.double.executed.clear()
        ready.double.inject("server_dead", on="actions", executed=executed)
        ready.device.execute(TAP)
        assert ready.device.report.sent == "maybe_executed", "nobody can know whether it was executed"
        assert len(ready.double.executed) == executed
    assert ready.did == ["new_session"] * 2 and log_of(ready).kinds["server_dead"] == 2


def test_a_server_that_refuses_connections_is_started_again(ready):
    ready.double.stop()
    ready.device.execute(TAP)
    assert ready.did == ["new_session"] and len(ready.double.executed) == 1
    assert ready.device.report.sent == "executed", "a refused connection proves that nothing was begun"


def test_malformed_response(ready):
    ready.double.inject("malformed_response", on="screenshot")
    ready.device.execute(TAP)
    assert log_of(ready).done == {"RETRY_READ": 1} and log_of(ready).kinds == {"malformed_response": 1}
    ready.double.inject("malformed_response", on="actions", executed=True)
    ready.device.execute(TAP)
    assert ready.device.report.sent == "maybe_executed" and len(ready.double.executed) == 2
    ready.double.inject("malformed_response", on="source", times=3)
    assert ready.device.observe().ui_elements.startswith("[")
    assert ready.did == ["new_session"]


@pytest.mark.parametrize("kind", ["screenshot_failed", "screenshot_black"])
def test_screenshot_failed_or_black(ready, kind):
    ready.double.inject(kind, times=2)
    assert ready.device.observe().screenshot.any()
    assert log_of(ready).done == {"RETRY_READ": 2} and ready.did == []
    ready.double.inject(kind, times=99)
    with pytest.raises(DeviceFault) as caught:
        ready.device.observe()
    assert type(caught.value) is KINDS[kind] and ready.did == ["new_session"] * 2


def test_a_moving_screen_is_recorded(make_bench):
    bench = make_bench(settle=SettleConfig(poll_s=1, cap_s=5, stable_polls=1))
    bench.device.reset(TASKS[0], seed=0)
    bench.double.inject("settle_timeout", times=99)
    bench.device.execute(TAP)
    assert bench.device.report.timed_out and bench.device.report.settle_s == 5
    assert log_of(bench).kinds == {}


def test_settle_timeout_where_a_screen_may_not_move(make_bench):
    config = SettleConfig(poll_s=1, cap_s=5, stable_polls=1, allow_moving=False)
    bench = make_bench(settle=config)
    bench.device.reset(TASKS[0], seed=0)
    bench.double.inject("settle_timeout", times=8)
    bench.device.execute(TAP)
    assert log_of(bench).kinds == {"settle_timeout": 1} and not bench.device.report.timed_out
    bench.double.inject("settle_timeout", times=999)
    with pytest.raises(SettleTimeout):
        bench.device.execute(TAP)


def test_wrong_screen_size_ends_the_episode_and_loads_the_snapshot(ready):
    ready.double.inject("wrong_screen_size")
    with pytest.raises(WrongScreenSize, match=r"\(192, 320\)"):
        ready.device.observe()
    ready.device.reset(TASKS[0], seed=0)
    assert ready.did == ["snapshot"]


def test_adb_offline_ends_the_episode_and_loads_the_snapshot(ready):
    ready.double.inject("adb_offline", on="actions")
    with pytest.raises(AdbOffline, match="never restarted"):
        ready.device.execute(TAP)
    assert ready.double.executed == [] and ready.counts("actions") == 1
    assert ready.device.reset(TASKS[0], seed=0).goal == TASKS[0].goal
    assert ready.did == ["snapshot"]


def test_emulator_dead_ends_the_episode_and_reboots(ready):
    ready.double.inject("emulator_dead", on="screenshot")
    with pytest.raises(EmulatorDead):
        ready.device.execute(TAP)
    ready.device.reset(TASKS[0], seed=0)
    assert ready.did == ["reboot"]


def test_command_failed(ready):
    ready.double.inject("command_failed", on="execute/sync")
    ready.device.execute(Action.back())
    assert ready.device.report.sent == "maybe_executed" and ready.double.executed == []
    ready.double.inject("command_failed", times=99)
    with pytest.raises(CommandFailed):
        ready.device.observe()


def test_a_device_that_nothing_mends_is_given_up(ready):
    ready.double.inject("command_failed", on="session", times=99)
    ready.device.close()
    with pytest.raises(Quarantined, match="command_failed"):
        ready.device.reset(TASKS[0], seed=0)
    sessions = ready.counts("session")
    with pytest.raises(Quarantined):
        ready.device.reset(TASKS[0], seed=0)
    assert ready.counts("session") == sessions, "a device that is given up is left alone"


def test_a_bug_in_a_dialect_is_no_fault(ready, monkeypatch):
    def buggy(self, driver):
        raise TypeError("a bug")

    monkeypatch.setattr(type(ready.device.dialect), "screenshot", buggy)
    with pytest.raises(TypeError, match="a bug"):
        ready.device.observe()


def judged_by(bench, verdicts):
    def judge(moment):
        verdict = verdicts.pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    env = AndroidEnv(bench.device, TASKS, judge=judge)
    env.reset(seed=0, options={"task": TASKS[0]})
    return env


def test_a_judge_is_asked_again_and_the_action_is_not(ready):
    env = judged_by(ready, [JudgeError("no answer"), JudgeError("no answer"), "success"])
    ready.double.executed.clear()
    assert env.step(TAP)[4]["outcome"] == "success" and len(ready.double.executed) == 1
    assert env.faults is ready.device.faults and env.faults.kinds["judge_error"] == 2
    assert [event.step for event in env.faults.events] == ["judge"] * 2


def test_a_judge_that_never_answers_is_a_judge_error(ready):
    env = judged_by(ready, [JudgeError("no answer")] * 9)
    with pytest.raises(JudgeError, match="judged again"):
        env.step(TAP)


@pytest.mark.parametrize("seed", range(3))
def test_episodes_go_on_under_a_rain_of_faults(bench, seed):
    """Faults that leave the phone alone must leave the episode alone: same screens, each action at most once."""
    gentle = [k for k in INJECTABLE if k.startswith(("screenshot", "malformed", "session", "instrument"))]
    reads = ("screenshot", "source")
    env = AndroidEnv(bench.device, TASKS, judge=lambda _: bench.double.phone.verdict())
    _, info = env.reset(seed=seed, options={"task": TASKS[seed]})
    rng, chance = random.Random(seed), np.random.default_rng(seed)
    steps = 0
    while not info["outcome"]:
        for _ in range(2):
            kind = rng.choice(gentle)
            on = "screenshot" if kind.startswith("screenshot") else rng.choice(reads)
            bench.double.inject(kind, on=on, after=rng.randrange(3))
        before = len(bench.double.executed)
        *_, info = env.step(draw(SCRIPTED["oracle"](bench.double.phone.display), chance)[0])
        assert len(bench.double.executed) - before == 1
        steps += 1
    assert info["outcome"] == "success" and sum(bench.double.faults.values()) >= steps
