"""Every kind of fault through the real client: how it is told, what mends it, and what becomes of the episode."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

pytest.importorskip("appium", reason="pip install 'digiq[appium]'")

from android_env.actions import Action
from android_env.appium.settle import SettleConfig
from android_env.appium.uiautomator2 import UiAutomator2
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.env import AndroidEnv
from android_env.faults import (
    AdbOffline,
    AppRefused,
    CommandFailed,
    EmulatorDead,
    JudgeError,
    Quarantined,
    SettleTimeout,
    TaskRefused,
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
    ready.double.inject("malformed_response", on="source", times=2)
    seen = ready.device.observe()
    assert len(seen.ui_elements) > 2 and not seen.unread
    ready.double.inject("malformed_response", on="source", times=3)
    seen = ready.device.observe()
    assert seen.ui_elements == "[]" and seen.unread and ready.device.report.notes == ("unread",)
    assert ready.did == [], "few agents read the elements; nothing is mended for them"


def test_screenshots_that_fail_for_a_moment(ready):
    ready.double.inject("screenshot_failed", times=2)
    assert ready.device.observe().screenshot.any()
    assert log_of(ready).done == {"RETRY_READ": 2} and ready.did == []
    ready.double.inject("screenshot_black", times=2)
    assert ready.device.observe().screenshot.any()
    assert not log_of(ready).kinds["screenshot_black"], "after waking it was not black"


def play_on(ready, screen, steps=3):
    """Reports and observations of so many actions on a screen that the agent has brought up."""
    ready.double.screen_after = screen
    told = []
    for _ in range(steps):
        ready.device.execute(TAP)
        seen = ready.device.observe()
        told.append((ready.device.report, seen))
    return told


def test_a_black_screen_of_the_agents_choice_is_a_screen(ready):
    for report, seen in play_on(ready, "black"):
        assert report.notes == ("black",) and report.sent == "executed" and not seen.screenshot.any()
        assert len(seen.ui_elements) > 2
    assert not log_of(ready).kinds and ready.did == []
    assert len(ready.double.executed) == 3


def test_a_black_screen_where_an_episode_begins_is_a_fault(ready):
    ready.double.inject("screenshot_black", times=3)  # and so it is after waking, twice
    ready.device.reset(TASKS[0], seed=0)
    assert log_of(ready).kinds == {"screenshot_black": 1} and ready.did == []


def test_a_secure_window_is_a_screen_without_a_screenshot(ready):
    for report, seen in play_on(ready, "secure"):
        assert report.notes == ("no_screenshot",) and not seen.screenshot.any()
    assert not log_of(ready).kinds and ready.did == []


def test_a_screen_without_a_screenshot_for_no_known_reason_is_asked_for_once(ready):
    ready.double.inject("screenshot_failed", times=5)
    ready.device.execute(TAP)
    assert ready.device.report.notes == ("no_screenshot",) and ready.did == ["new_session"] * 2
    ready.device.execute(TAP)
    assert ready.did == ["new_session"] * 2, "the same screen again"
    ready.device.reset(TASKS[0], seed=0)
    assert ready.did == ["new_session"] * 2, "nothing was the device's"


def test_a_rotated_app_is_a_state_with_its_size(ready):
    height, width = ready.device.screen_hw
    env = AndroidEnv(ready.device, TASKS, judge=lambda _: None)
    env.reset(seed=0, options={"task": TASKS[0]})
    ready.double.screen_after = "rotated"
    seen = env.step(TAP)[0]
    assert ready.device.report.notes == ("rotated",) and seen["screenshot"].shape == (height, width, 3)
    assert ready.device.observe().screenshot.shape == (width, height, 3)
    assert ready.device._pixel((0.5, 0.75)) == (width // 2, int(0.75 * height))
    assert not log_of(ready).kinds


@pytest.mark.parametrize("screen", ["unreadable", "control"])
def test_elements_that_cannot_be_read_cost_nothing_but_themselves(ready, screen):
    for episode in range(8):
        for report, seen in play_on(ready, screen, steps=2):
            assert seen.screenshot.any() and seen.unread == (screen == "unreadable")
            assert ("unread" in report.notes or "unread" in ready.device.report.notes) == seen.unread
            if screen == "control":
                assert len(seen.ui_elements) > 2 and "\x1b" not in seen.ui_elements
        ready.device.reset(TASKS[0], seed=episode)
    assert ready.did == [] and not ready.device.recovery.quarantined


def test_a_task_that_no_device_begins_costs_no_reboot(make_bench):
    bench = make_bench()
    bench.double.installed = {"com.android.settings"}
    good, bad = (with_package(name) for name in ("com.android.settings", "com.android.setings"))
    bench.device.reset(good, seed=0)
    for _ in range(3):
        with pytest.raises(AppRefused, match=r"com\.android\.setings"):
            bench.device.reset(bad, seed=0)
    assert bench.did == []
    # The same of a fault that says nothing: the phone works, so the task is charged.
    for _ in range(2):
        bench.double.inject("command_failed", on="source", times=0)
        bench.device.dialect = NeverBegins(UDID)
        with pytest.raises(TaskRefused, match="command_failed"):
            bench.device.reset(good, seed=0)
        bench.device.dialect = UiAutomator2(UDID)
        bench.device.reset(good, seed=0)
    assert "reboot" not in bench.did and not bench.device.recovery.quarantined


def test_a_dead_device_is_given_up_within_its_cap(make_bench):
    bench = make_bench(recovery={"reset_cap_s": 600.0})
    bench.device.reset(TASKS[0], seed=0)
    bench.double.dead = True
    start = bench.clock.now()
    with pytest.raises(Quarantined):
        bench.device.reset(TASKS[0], seed=0)
    assert bench.clock.now() - start <= 600 + bench.device.timeout_s
    assert "reboot" in bench.did


def with_package(package):
    return dataclasses.replace(TASKS[0], params={**TASKS[0].params, "package": package})


class NeverBegins(UiAutomator2):
    def reset(self, driver, task, seed):
        raise CommandFailed("this one does not begin")


def test_the_helpers_of_a_session_are_in_the_snapshot_once_it_is_saved_after_one(bench):
    bench.device.reset(TASKS[0], seed=0)
    bench.device.reset(TASKS[0], seed=1)
    assert bench.double.installs == 6, "a snapshot from before any session has none of them"
    bench.double.saved = set(bench.double.helpers)
    bench.device.reset(TASKS[0], seed=2)
    assert bench.double.installs == 6


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
    with pytest.raises(WrongScreenSize, match=r"\(160, 96\)"):
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
