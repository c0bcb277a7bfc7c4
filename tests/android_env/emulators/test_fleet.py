"""Fleets: brought up together, lent out, given up one by one; whole episodes over emulators and Appium, doubled."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.appium.settle import SettleConfig
from android_env.appium.uiautomator2 import HELPERS
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.emulators.emulator import EmulatorConfig
from android_env.emulators.fleet import Fleet
from android_env.env import AndroidEnv
from android_env.errors import SetupError
from android_env.faults import AdbOffline, EmulatorDead, Quarantined
from android_env.tasks import load_tasks
from android_env.testing.appium import AppiumDouble
from android_env.testing.clock import FakeClock
from android_env.testing.commands import CommandDoubles

QUICK = EmulatorConfig(poll_s=0.05, boot_cap_s=60, clock_slack_s=1e12)
TASKS = load_tasks("webshop/train")


@pytest.fixture
def doubles(tmp_path):
    with CommandDoubles(tmp_path / "sdk", boot_polls=1) as made:
        yield made


@pytest.fixture
def make(doubles, tmp_path):
    made = []

    def one(count, **options):
        options = {"config": QUICK, "first": 44, **options}
        made.append(Fleet(doubles.sdk, "template", count, tmp_path / "run", **options))
        return made[-1]

    yield one
    for fleet in made:
        fleet.close()


def test_a_fleet_comes_up_each_on_its_own_clone_and_ports(doubles, make, tmp_path):
    told = []
    with make(3) as fleet:
        fleet.start(told.append)
        assert len(doubles.running) == len(fleet.healthy) == len(told) == 3
        assert {phone["avd"] for phone in doubles.running.values()} == {
            m.emulator.name for m in fleet.members
        }
        rows = json.loads((tmp_path / "run/fleet.json").read_text())
        assert [row["udid"] for row in rows] == [m.emulator.serial for m in fleet.members]
        assert all(row["fault"] is None and row["pid"] for row in rows)
    assert doubles.running == {}
    assert len(list(doubles.avd_home.glob("*.ini"))) == 4
    fleet.close(remove=True)
    assert [path.stem for path in doubles.avd_home.glob("*.ini")] == ["template"]


def test_one_that_fails_once_is_rebuilt(doubles, make):
    doubles.inject("start_fails")
    fleet = make(2).start()
    assert len(fleet.healthy) == 2
    assert fleet.log.kinds == {"emulator_dead": 1} and fleet.log.done == {"REBUILD": 1}


def test_one_that_nothing_mends_is_given_up_and_the_others_go_on(doubles, make, tmp_path):
    doubles.inject("save_fails", 2)
    fleet = make(2, boot_at_once=1).start()
    assert [member.fault is None for member in fleet.members] == [False, True]
    assert list(doubles.running) == [fleet.members[1].emulator.serial]
    rows = json.loads((tmp_path / "run/fleet.json").read_text())
    assert "given up after snapshot_missing" in rows[0]["fault"] and rows[0]["pid"] is None
    events = [json.loads(line)["done"] for line in (tmp_path / "run/faults.jsonl").read_text().splitlines()]
    assert events == ["REBUILD", "QUARANTINE"]


def test_a_fleet_of_which_none_comes_up_is_an_error_and_leaves_nothing_running(doubles, make):
    doubles.inject("start_fails", 9)
    with pytest.raises(Quarantined, match="none of 2"):
        make(2).start()
    assert doubles.running == {}


def test_lending(make):
    fleet = make(2)
    first, second = fleet.lend(), fleet.lend()
    assert first is not second
    with pytest.raises(Quarantined, match="2 of 2 are healthy, all of them lent"):
        fleet.lend()
    fleet.give_back(first)
    assert fleet.lend() is first
    fleet.quarantine(second, EmulatorDead("gone"))
    fleet.give_back(second)
    with pytest.raises(Quarantined, match="1 of 2 are healthy"):
        fleet.lend()
    with pytest.raises(ValueError, match="at least 1"):
        make(0)


def test_episodes_begin_from_the_snapshot_and_survive_a_dead_emulator(doubles, make):
    pytest.importorskip("appium", reason="pip install 'digiq[appium]'")
    fleet = make(1).start()
    emulator = fleet.members[0].emulator
    with AppiumDouble() as appium:
        device = fleet.device(
            appium.url,
            screen_hw=appium.phone.screen_hw,
            clock=FakeClock(),
            settle=SettleConfig(stable_polls=1),
        )
        assert device.dialect.udid == emulator.serial and device.dialect.system_port == 8244
        env = AndroidEnv(device, TASKS, judge=lambda _: appium.phone.verdict())

        def play():
            appium.load(TASKS[0], 0)
            _, info = env.reset(seed=0, options={"task": TASKS[0]})
            rng = np.random.default_rng(0)
            while not info["outcome"]:
                *_, info = env.step(draw(SCRIPTED["oracle"](appium.phone.display), rng)[0])
            return info["outcome"]

        assert play() == "success"
        doubles.set_phone(package="com.android.settings")
        assert play() == "success" and emulator.fingerprint().package == "com.android.launcher3"
        before = emulator.pid
        emulator.stop()
        assert play() == "success" and emulator.alive and emulator.pid != before
        log = device.recovery.log
        assert log.kinds == {"emulator_dead": 1} and log.done == {"REBOOT": 1}
        assert json.loads(fleet.log.path.read_text())["kind"] == "emulator_dead"
        env.close()
        assert fleet.lend().index == 44


def test_a_device_that_is_given_up_leaves_the_fleet(doubles, make):
    pytest.importorskip("appium", reason="pip install 'digiq[appium]'")
    fleet = make(1).start()
    with AppiumDouble() as appium:
        device = fleet.device(appium.url, screen_hw=appium.phone.screen_hw, clock=FakeClock())
        doubles.inject("start_fails", 9)
        fleet.members[0].emulator.stop()
        with pytest.raises(Quarantined):
            device.reset(TASKS[0], seed=0)
        device.close()
    assert fleet.healthy == [] and doubles.running == {}
    with pytest.raises(Quarantined, match="0 of 1 are healthy"):
        fleet.device(appium.url)


def test_an_emulator_that_ends_is_started_again_by_its_keeper(doubles, make):
    fleet = make(2).start()
    pids = [member.emulator.pid for member in fleet.members]
    fleet.supervise()
    assert [member.emulator.pid for member in fleet.members] == pids
    fleet.members[0].emulator._process.kill()
    fleet.members[0].emulator._process.wait()
    fleet.supervise()
    assert fleet.members[0].emulator.pid not in (None, pids[0]) and fleet.members[1].emulator.pid == pids[1]
    assert fleet.log.kinds == {}
    doubles.inject("start_fails", 9)
    fleet.members[0].emulator.stop()
    fleet.supervise()
    assert [member.fault is None for member in fleet.members] == [False, True]


def test_another_process_attaches_and_shares_nothing_twice(doubles, make, tmp_path):
    fleet = make(2).start()
    fleet.quarantine(fleet.members[0], EmulatorDead("gone"))
    file = tmp_path / "run/fleet.json"
    attached, other = (Fleet.attach(file, doubles.sdk, config=QUICK) for _ in range(2))
    assert [m.emulator.serial for m in attached.healthy] == [fleet.members[1].emulator.serial]
    member = attached.lend()
    with pytest.raises(Quarantined, match="all of them lent"):
        other.lend()
    attached.give_back(member)
    assert other.lend().index == member.index
    doubles.set_phone(package="com.android.settings")
    member.emulator.load_snapshot()
    assert member.emulator.fingerprint().package == "com.android.launcher3"
    attached.close()
    assert fleet.members[1].emulator.alive, "what another process keeps is not stopped from here"
    with pytest.raises(SetupError, match="digiq devices start"):
        Fleet.attach(tmp_path / "nothing.json", doubles.sdk)


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_attached_device_asks_its_keeper_for_a_reboot(doubles, make, tmp_path, comes_back):
    fleet = make(1).start()
    attached = Fleet.attach(tmp_path / "run/fleet.json", doubles.sdk, config=QUICK)
    before = fleet.members[0].emulator.pid
    doubles.inject("start_fails", 0 if comes_back else 9)
    stop = threading.Event()

    def keep():
        while not stop.wait(0.01):
            fleet.supervise()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        if comes_back:
            attached.ask_for_reboot(attached.members[0])
            assert fleet.members[0].emulator.pid not in (None, before)
            assert attached.members[0].emulator.fingerprint().package == "com.android.launcher3"
        else:
            with pytest.raises(Quarantined, match="given up after emulator_dead"):
                attached.ask_for_reboot(attached.members[0])
    finally:
        stop.set()
        keeper.join()


def helped_device(fleet, doubles, double, **options):
    """A device whose sessions put Appium's helpers onto the doubled emulators."""
    double.on_install = lambda: doubles.set_phone(packages=["android", "com.android.settings", *HELPERS])
    device = fleet.device(
        double.url,
        screen_hw=double.phone.screen_hw,
        clock=FakeClock(),
        settle=SettleConfig(stable_polls=1),
        **options,
    )
    emulator, load = fleet.members[0].emulator, device._restore

    def restore(task, seed):
        load(task, seed)
        double.load(task, seed)
        double.helpers = {name for name in emulator.packages() if name in HELPERS}

    device._restore = restore
    return device


def test_the_snapshot_holds_the_helpers_from_the_first_session_on(doubles, make):
    with make(1) as fleet, AppiumDouble() as double:
        fleet.start()
        device = helped_device(fleet, doubles, double)
        for seed in range(3):
            device.reset(TASKS[0], seed=seed)
        assert double.installs == len(HELPERS), "once, and not in every episode"
        saves = [call for call in doubles.calls if "save" in call]
        assert len(saves) == 2, "at the start, and once more with the helpers"


def test_capabilities_and_app_names_get_to_the_driver(doubles, make):
    with make(1) as fleet, AppiumDouble(installed={"org.example.notes"}) as double:
        fleet.start()
        device = helped_device(
            fleet, doubles, double,
            capabilities={"appium:adbExecTimeout": 60000}, apps={"my notes": "org.example.notes"},
        )  # fmt: skip
        device.reset(TASKS[0], seed=0)
        (session,) = double.sessions.values()
        assert session.capabilities["appium:adbExecTimeout"] == 60000
        device.execute(Action(ActionType.OPEN_APP, text="My Notes"))
        assert double.commands_of("mobile: activateApp") == [{"appId": "org.example.notes"}]


def test_apps_that_no_emulator_has_are_known_before_the_run(doubles, make):
    with make(2) as fleet:
        fleet.start()
        wanted = ["com.android.settings", "com.android.setings"]
        assert fleet.missing(wanted) == ["com.android.setings"]
        doubles.inject("offline", times=99)
        with pytest.raises(AdbOffline):
            fleet.missing(wanted)


def test_a_member_that_was_given_up_is_tried_again(doubles, make):
    clock = FakeClock()
    with make(2, clock=clock) as fleet:
        fleet.start()
        fleet.quarantine(fleet.members[0], EmulatorDead("gone"))
        fleet.supervise(retry_s=100.0)
        assert len(fleet.healthy) == 1
        clock.sleep(100)
        fleet.supervise(retry_s=100.0)
        assert len(fleet.healthy) == 2 and fleet.members[0].emulator.alive
