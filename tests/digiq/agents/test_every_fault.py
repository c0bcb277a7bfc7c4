"""Every kind of fault end to end: shown by a double, on a script and at a rate, mended by its own rung, counted, said in
the log; and every scheduled episode ends with a result all the same."""

from __future__ import annotations

import json
import logging

import pytest

pytest.importorskip("appium", reason="pip install 'digiq[appium]'")

from android_env.appium.chromium import Chromium, Viewport
from android_env.appium.device import AppiumDevice
from android_env.appium.settle import SettleConfig
from android_env.appium.uiautomator2 import UiAutomator2
from android_env.clock import SystemClock
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.emulators.emulator import EmulatorConfig
from android_env.emulators.fleet import Fleet
from android_env.env import AndroidEnv
from android_env.faults import KINDS, FaultLog, Rung
from android_env.tasks import load_tasks
from android_env.testing.appium import INJECTABLE, AppiumDouble
from android_env.testing.clock import FakeClock
from android_env.testing.commands import CommandDoubles
from android_env.testing.judge import JudgeDouble
from digiq.agents.agent import Decision
from digiq.agents.rollout import plan_episodes, rollout

TASKS = load_tasks("webshop/train").where(level=1)
LIFE_CYCLE = {
    "boot_timeout": "boot_hangs",
    "snapshot_missing": "load_fails",
    "fingerprint_mismatch": "wrong_package",
    "avd_busy": "busy",
}
"""Kinds of an emulator's life, and what its double calls them."""
SERVER_SLOW_S = 2.0
DERIVED = ("quarantined", "task_refused", "app_refused")
"""What the ladder and the task bring about; `test_fleet_in_the_field` shows them."""
RATES = {
    "settle_timeout": 0.5,
    "screenshot_black": 0.6,
    **dict.fromkeys(("adb_offline", "emulator_dead", "browser_gone", "server_slow"), 0.02),
}
"""Of every command; low for what ends an episode."""


class Oracle:
    """Knows the phone behind each server, whatever stands between."""

    name = "oracle"
    reads_device = True

    def __init__(self, doubles):
        self.phones = {double.url: double.phone for double in doubles}

    def act(self, turns):
        best = (SCRIPTED["oracle"](self.phones[turn.device.url].display) for turn in turns)
        return [Decision(draw(choice, turn.rng)[0]) for choice, turn in zip(best, turns, strict=True)]


def phone_verdict(double):
    return lambda moment: double.phone.verdict()


def play(envs, doubles, episodes, *, retries=8):
    """The results of so many episodes on these devices."""
    specs = plan_episodes(TASKS, episodes, seed=0)
    make = iter(envs).__next__
    return list(rollout(Oracle(doubles), specs, make, batch_size=len(envs), infra_retries=retries))


class OnePhone:
    """The double as one page of a browser."""

    home = "http://phone/"

    def url(self, task, seed):
        return f"http://phone/{seed}"

    def goal(self, driver):
        return "the task's"

    def verdict(self, driver):
        return None


def device_for(kind, double, log):
    """A device on the double, with what shows this kind soonest."""
    repairs = {
        Rung.NEW_SESSION: double.start,
        Rung.LOAD_SNAPSHOT: lambda: None,
        Rung.REBOOT: double.heal,
        Rung.REBUILD: double.heal,
    }
    height, width = double.phone.screen_hw
    browser = Chromium(OnePhone(), viewport=Viewport(height, width, 1.0), programs=("/b", "/d"))
    return AppiumDevice(
        double.url,
        browser if kind == "browser_gone" else UiAutomator2("emulator-5554"),
        settle=SettleConfig(poll_s=1, cap_s=4, stable_polls=1, allow_moving=kind != "settle_timeout"),
        timeout_s=SERVER_SLOW_S if kind == "server_slow" else 120.0,
        restore=double.load,
        repairs=repairs,
        screen_hw=(height, width),
        clock=FakeClock(),
        log=log,
    )


@pytest.fixture
def double():
    with AppiumDouble() as made:
        yield made


def check(kind, log, caplog):
    """The kind's own rung was taken first, it was counted, and each event was said in one line."""
    assert log.kinds[kind] >= 1
    done = [event.done for event in log.events if event.kind == kind]
    mends = [name for name in done if name in Rung.__members__]
    assert mends[0] == KINDS[kind].rung.name and log.done[mends[0]] >= 1
    for event in log.events:
        assert str(event) in caplog.messages
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [row["kind"] for row in rows] == [event.kind for event in log.events]
    assert KINDS[kind].mend in next(row["message"] for row in rows if row["kind"] == kind)


def test_every_kind_has_its_test_here():
    shown = {*INJECTABLE, *LIFE_CYCLE, "judge_error"}
    assert shown | set(DERIVED) == set(KINDS) and len(shown) == 20


@pytest.mark.parametrize("kind", INJECTABLE)
@pytest.mark.parametrize("how", ["script", "rate"])
def test_faults_of_server_phone_and_session(kind, how, double, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "android_env.faults")
    log = FaultLog(tmp_path / "faults.jsonl")
    env = AndroidEnv(device_for(kind, double, log), TASKS, judge=phone_verdict(double))
    if how == "script":
        on, after = {
            "command_failed": ("actions", 1),
            "screenshot_black": ("screenshot", 0),  # later it is what the agent has brought up
        }.get(kind, ("screenshot", 5))
        double.inject(
            kind, on=on, after=after, times={"settle_timeout": 8, "screenshot_black": 3}.get(kind, 1)
        )
    else:
        double.inject_at_rate(RATES.get(kind, 0.05), seed=1, kinds=[kind])
    runs = play([env], [double], 2 if how == "script" else 6)
    assert double.faults[kind] >= 1 and set(double.faults) == {kind}
    check(kind, log, caplog)
    if how == "script":
        assert [run.outcome for run in runs] == ["success"] * 2
    else:  # an action that failed for good was none, so an episode may need more than its budget
        assert {run.outcome for run in runs} <= {"success", "truncated"} and len(runs) == 6


@pytest.mark.parametrize("how", ["script", "rate"])
def test_a_judge_that_does_not_answer(how, double, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "android_env.faults")
    log = FaultLog(tmp_path / "faults.jsonl")
    judge = JudgeDouble(phone_verdict(double))
    env = AndroidEnv(device_for("judge_error", double, log), TASKS, judge=judge)
    if how == "script":
        judge.inject(2)
    else:
        judge.inject_at_rate(0.3, seed=1)
    runs = play([env], [double], 3)
    assert {run.outcome for run in runs} == {"success"} and log.kinds["judge_error"] == judge.shown >= 2
    check("judge_error", log, caplog)


def test_a_judge_that_never_answers_ends_as_a_judge_error_and_is_counted(double, tmp_path):
    log = FaultLog(tmp_path / "faults.jsonl")
    judge = JudgeDouble(phone_verdict(double))
    judge.inject_at_rate(1.0, seed=0)
    env = AndroidEnv(device_for("judge_error", double, log), TASKS, judge=judge)
    (run,) = play([env], [double], 1, retries=1)
    assert run.outcome == "judge_error" and judge.shown == log.kinds["judge_error"] == 6
    assert log.done == {"RETRY_READ": 4, "raised": 2}


class ImpatientClock(SystemClock):
    """Time, of which much passes at once while a boot hangs."""

    def __init__(self, doubles):
        self.doubles, self.ahead = doubles, 0.0

    def now(self):
        return super().now() + self.ahead

    def sleep(self, seconds):
        super().sleep(seconds)
        if any(phone["polls"] < 0 for phone in self.doubles.running.values()):
            self.ahead += 1000.0


class Doctored(FaultLog):
    """Ends the command double's rate at the first fault of a kind: what mends it must not meet it for ever."""

    doubles: CommandDoubles
    until: str

    def add(self, event):
        super().add(event)
        if event.kind == self.until:
            self.doubles.inject_at_rate(0.0, seed=0, kinds=[])


@pytest.mark.parametrize("how", ["script", "rate"])
@pytest.mark.parametrize("kind", LIFE_CYCLE)
def test_faults_of_an_emulators_life(kind, how, tmp_path, caplog):
    """An emulator meets the fault when it is put back to its snapshot."""
    caplog.set_level(logging.WARNING, "android_env.faults")
    name = LIFE_CYCLE[kind]
    config = EmulatorConfig(poll_s=0.05, boot_cap_s=300, clock_slack_s=1e12)
    with (
        CommandDoubles(tmp_path / "sdk", boot_polls=1) as doubles,
        AppiumDouble() as one,
        AppiumDouble() as two,
    ):
        options = {"config": config, "first": 56, "clock": ImpatientClock(doubles)}
        with Fleet(doubles.sdk, "template", 2, tmp_path / "run", **options) as fleet:
            fleet.start()
            log = Doctored(tmp_path / "faults.jsonl")
            log.doubles, log.until = doubles, kind
            envs = [env_on(fleet, double, log) for double in (one, two)]
            if how == "script":
                doubles.inject(name)
            else:
                doubles.inject_at_rate(0.9, seed=1, kinds=[name])
            if kind == "boot_timeout":
                doubles.end(fleet.members[0].emulator.pid)
            elif kind == "avd_busy":
                doubles.inject("wrong_package")  # for which the emulator is rebooted
            runs = play(envs, [one, two], 4)
            assert doubles.faults[name] >= 1
            assert [run.outcome for run in runs] == ["success"] * 4
            check(kind, log, caplog)
            lost = kind == "avd_busy"
            assert [member.fault is not None for member in fleet.members] == [lost, False]
            assert (log.done["QUARANTINE"] > 0) == lost


def env_on(fleet, double, log):
    """An environment on a member of the fleet; the snapshot brings the double's phone back too."""
    device = fleet.device(
        double.url,
        screen_hw=double.phone.screen_hw,
        clock=FakeClock(),
        settle=SettleConfig(stable_polls=1),
        log=log,
    )
    load = device._restore
    device._restore = lambda task, seed: (load(task, seed), double.load(task, seed))
    return AndroidEnv(device, TASKS, judge=phone_verdict(double))


def test_the_doubles_rates_come_from_their_seeds(tmp_path):
    with (
        CommandDoubles(tmp_path / "sdk") as doubles,
        pytest.raises(ValueError, match="cannot inject 'nonsense'"),
    ):
        doubles.inject_at_rate(0.5, seed=0, kinds=["nonsense"])
    shown = []
    for _ in range(2):
        judge = JudgeDouble(lambda *_: None)
        judge.inject_at_rate(0.5, seed=7)
        shown.append([_fails(judge) for _ in range(40)])
    assert shown[0] == shown[1] and 8 < sum(shown[0]) < 32


def _fails(judge):
    try:
        judge(None)
    except KINDS["judge_error"]:
        return True
    return False
