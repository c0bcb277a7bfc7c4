"""The emulator's life cycle, with real processes behind doubled commands."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace

import pytest

from android_env.emulators.avd import find_sdk, process_runs
from android_env.emulators.emulator import Emulator, EmulatorConfig, Fingerprint, Ports
from android_env.faults import (
    AdbOffline,
    AvdBusy,
    BootTimeout,
    CommandFailed,
    EmulatorDead,
    FingerprintMismatch,
    Recovery,
    Rung,
    SnapshotMissing,
)
from android_env.testing.clock import FakeClock
from android_env.testing.commands import CommandDoubles

PORTS = Ports.numbered(40)
QUICK = EmulatorConfig(poll_s=0.05, boot_cap_s=60)
SAVED_AT = 1_700_000_000


@pytest.fixture
def doubles(tmp_path):
    with CommandDoubles(tmp_path / "sdk") as made:
        yield made


@pytest.fixture
def make(doubles, tmp_path):
    made = []

    def one(config=QUICK, **options):
        options.setdefault("wall", lambda: SAVED_AT + 10_000_000.0)
        made.append(
            Emulator(doubles.sdk, "template", "clone", PORTS, tmp_path / "run", config=config, **options)
        )
        return made[-1]

    yield one
    for emulator in made:
        emulator.stop()


@pytest.fixture
def up(make):
    emulator = make()
    emulator.create()
    return emulator


def test_it_is_cloned_booted_without_a_window_and_saved(doubles, up):
    (running,) = doubles.running.values()
    assert running["avd"] == "clone" and running["pid"] == up.pid and up.serial in doubles.running
    line = next(call for call in doubles.calls if call[0] == "emulator")
    assert "-no-window" in line and line[line.index("-ports") + 1] == f"{PORTS.console},{PORTS.adb}"
    assert line[line.index("-grpc") + 1] == str(PORTS.grpc) and "-grpc-use-token" in line
    assert sum("sys.boot_completed" in str(call) for call in doubles.calls) >= 2
    shell = [call[4] for call in doubles.calls if call[3:4] == ["shell"]]
    assert shell.index("pm path android") < shell.index(QUICK.prepare[0]) < shell.index("wm size")


def test_it_has_a_process_group_of_its_own_and_stops_whole(doubles, up):
    pid = up.pid
    assert os.getpgid(pid) == pid != os.getpgid(0)
    up.stop()
    assert not process_runs(pid) and not up.alive and doubles.running == {}
    assert not list(doubles.sdk.avd_dir("clone").glob("*.lock"))
    up.stop()


def test_an_emulator_that_does_not_listen_to_adb_is_ended_by_its_group(doubles, make, monkeypatch):
    doubles.inject("ignores_kill")
    emulator = make()
    emulator.create()
    pid = emulator.pid
    monkeypatch.setattr(emulator._process, "wait", _impatient(emulator._process))
    emulator.stop()
    assert not process_runs(pid)


def _impatient(process):
    wait = process.wait
    return lambda timeout=None: wait(0.05 if timeout == 20.0 else timeout)


def test_no_program_is_killed_by_name_and_the_adb_server_is_never_stopped(doubles, up):
    up.load_snapshot()
    up.reboot()
    up.create()
    up.stop()
    words = {word for call in doubles.calls for word in call}
    assert not words & {"kill-server", "start-server", "pkill", "killall", "reconnect"}
    assert all(call[1:3] == ["-s", up.serial] for call in doubles.calls if call[0] == "adb")


def test_the_phones_shell_is_asked_for_its_state_and_told_what_the_settings_say(doubles, up):
    up.load_snapshot()
    up.reboot()
    up.stop()
    lines = {call[4] for call in doubles.calls if call[:1] == ["adb"] and call[3] == "shell"}
    asks = {"getprop sys.boot_completed", "pm path android", "dumpsys window displays", "wm size", "date +%s"}
    assert lines == asks | set(EmulatorConfig().prepare)
    assert {call[3] for call in doubles.calls if call[0] == "adb"} == {"shell", "emu"}


def test_a_snapshot_brings_the_phone_back(doubles, up):
    doubles.set_phone(package="com.android.settings", clock=SAVED_AT + 500)
    assert up.fingerprint().package == "com.android.settings"
    up.load_snapshot()
    assert up.fingerprint() == Fingerprint("com.android.launcher3", (2400, 1080), SAVED_AT)


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        ("load_fails", SnapshotMissing, "did not load: KO"),
        ("wrong_package", FingerprintMismatch, "com.android.crash is in front"),
        ("wrong_size", FingerprintMismatch, r"the screen is \(100, 100\)"),
        ("wrong_clock", FingerprintMismatch, "the clock says 0"),
    ],
)
def test_a_snapshot_that_does_not_come_back_is_a_fault(doubles, up, kind, fault, words):
    doubles.inject(kind)
    with pytest.raises(fault, match=words):
        up.load_snapshot()
    up.load_snapshot()


def test_a_snapshot_that_was_never_saved_is_missing(doubles, make):
    emulator = make()
    doubles.inject("save_fails")
    with pytest.raises(SnapshotMissing, match="did not save: KO: not enough disk"):
        emulator.create()
    with pytest.raises(SnapshotMissing, match="no snapshot was saved"):
        emulator.load_snapshot()


def test_a_boot_that_hangs_ends_at_the_cap(doubles, make):
    doubles.inject("boot_hangs")
    clock = FakeClock()
    emulator = make(EmulatorConfig(poll_s=10, boot_cap_s=30), clock=clock)
    with pytest.raises(BootTimeout, match="30 s passed"):
        emulator.create()
    assert clock.now() == 30
    emulator.stop()


def test_an_emulator_that_ends_at_once_says_its_last_words(doubles, make):
    doubles.inject("start_fails")
    with pytest.raises(EmulatorDead, match="not enough memory"):
        make().create()


def test_adb_that_is_offline_while_booting_is_waited_for_and_later_is_a_fault(doubles, make):
    doubles.inject("offline", 4)
    emulator = make()
    emulator.create()
    doubles.inject("offline")
    with pytest.raises(AdbOffline, match="device offline"):
        emulator.adb("shell", "wm size")
    with pytest.raises(CommandFailed, match="frobnicate"):
        emulator.adb("shell", "frobnicate")


def test_an_emulator_that_was_killed_leaves_locks_that_do_not_stand_in_the_way(doubles, up):
    os.killpg(up.pid, signal.SIGKILL)
    up._process.wait()
    with pytest.raises(EmulatorDead, match="not found"):
        up.adb("shell", "wm size")
    with pytest.raises(EmulatorDead, match="could not connect"):
        up.adb("emu", "avd", "snapshot", "load", "digiq")
    with pytest.raises(EmulatorDead, match="is not running"):
        up.load_snapshot()
    assert list(doubles.sdk.avd_dir("clone").glob("*.lock"))
    up.reboot()
    assert up.alive and up.fingerprint().package == "com.android.launcher3"


def test_a_second_emulator_on_the_same_clone_is_refused(doubles, up, tmp_path):
    other = Emulator(doubles.sdk, "template", "clone", Ports.numbered(41), tmp_path / "run", config=QUICK)
    with pytest.raises(AvdBusy):
        other.start()
    assert up.alive and len(doubles.running) == 1


def test_ports_that_others_listen_on_are_not_taken(doubles, tmp_path):
    ports = Ports.numbered(60)  # no other test's
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", ports.grpc))
        taken.listen()
        assert not ports.free
        with pytest.raises(EmulatorDead, match="taken by another program"):
            Emulator(doubles.sdk, "template", "clone", ports, tmp_path / "run").start()
    assert ports.free and doubles.calls == []
    every = [port for i in range(64) for port in vars(Ports.numbered(i)).values()]
    assert len(set(every)) == 3 * 64
    with pytest.raises(ValueError, match=r"0\.\.63"):
        Ports.numbered(64)


def test_the_ladder_climbs_through_the_life_cycle(doubles, up):
    recovery = Recovery(up.repairs(), device=up.serial)
    doubles.inject("load_fails")
    recovery.reset(up.load_snapshot)
    assert recovery.log.done == {"REBUILD": 1}, "a snapshot that is missing needs a new device"
    doubles.inject("wrong_package")
    recovery.reset(up.load_snapshot)
    assert recovery.log.done == {"REBUILD": 1, "REBOOT": 1}
    os.killpg(up.pid, signal.SIGKILL)
    up._process.wait()
    recovery.reset(up.load_snapshot)
    assert recovery.log.done["REBOOT"] == 2 and up.alive
    assert Rung.LOAD_SNAPSHOT in up.repairs()


def test_fingerprints():
    saved = Fingerprint("a.b", (2400, 1080), 1000.0)

    def differs(now=5000.0, **fields):
        return saved.mismatch(replace(saved, **fields), now_s=now, slack_s=100)

    assert differs() == differs(clock_s=1099.0) == differs(clock_s=5050.0) == ""
    assert "x.y" in differs(package="x.y") and "(1, 2)" in differs(screen_hw=(1, 2))
    assert "clock" in differs(clock_s=3000.0)


def test_senseless_configs_are_refused():
    for wrong in ({"memory_mb": 0}, {"boot_cap_s": 0}, {"poll_s": -1}, {"cores": 0}):
        with pytest.raises(ValueError, match="above 0"):
            EmulatorConfig(**wrong)


def test_the_doubles_are_what_find_sdk_finds(doubles):
    assert find_sdk(doubles.environ) == doubles.sdk
