"""Faults: which exceptions they come from, how the ladder is climbed, and that no action is sent again blindly."""

from __future__ import annotations

import json
import logging

import pytest
import urllib3.exceptions as http
from selenium.common import exceptions as client

from android_env.errors import ActionError, DeviceFault
from android_env.faults import (
    CAPS,
    KINDS,
    AdbOffline,
    AppRefused,
    EmulatorDead,
    Fault,
    FaultLog,
    InstrumentationDead,
    MalformedResponse,
    Quarantined,
    Recovery,
    Rung,
    ScreenshotFailed,
    ServerDead,
    ServerSlow,
    SessionLost,
    TaskRefused,
    classify,
)
from android_env.testing.clock import FakeClock

NOT_RUNNING = (
    "An unknown server-side error occurred while processing the command. Original error: 'POST /actions' cannot be "
    "proxied to UiAutomator2 server because the instrumentation process is not running (probably crashed). Check ..."
)
REFUSED = "HTTPConnectionPool(host='127.0.0.1', port=4723): Max retries exceeded"


class Phone:
    """Calls that fail by script; what happened to it, in order."""

    def __init__(self, *script: Exception | None, rungs=tuple(Rung)[1:5], **options):
        self.script = list(script)
        self.did: list[str] = []
        self.screen = "a"
        repairs = {rung: lambda rung=rung: self.did.append(rung.name) for rung in rungs}
        self.recovery = Recovery(repairs, device="phone", **options)

    def call(self):
        self.did.append("call")
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        return "fine"

    def unchanged(self):
        self.did.append("look")
        return self.screen == "a"


def test_there_are_at_least_twelve_kinds_each_with_its_rung_and_mend():
    assert len(KINDS) >= 12 and len(set(KINDS)) == len(KINDS)
    for kind, cls in KINDS.items():
        assert issubclass(cls, DeviceFault) and cls.kind == kind and isinstance(cls.rung, Rung)
        assert cls.mend.endswith(".") and "\n" not in str(cls("it broke."))
        assert str(cls("it broke.")) == f"it broke; {cls.mend}"


@pytest.mark.parametrize(
    ("error", "kind", "begun"),
    [
        (
            client.InvalidSessionIdException("A session is either terminated or not started"),
            SessionLost,
            False,
        ),
        (client.WebDriverException(NOT_RUNNING), InstrumentationDead, False),
        (
            client.WebDriverException("Could not proxy command to the remote server. socket hang up"),
            InstrumentationDead,
            True,
        ),
        (
            client.WebDriverException("Error executing adbExec. stderr: 'adb: device offline'"),
            AdbOffline,
            True,
        ),
        (client.WebDriverException("adb: device 'emulator-5554' not found"), EmulatorDead, True),
        (client.ScreenshotException("Unable to capture screen"), ScreenshotFailed, True),
        (
            client.SessionNotCreatedException("A valid W3C session creation response must be"),
            MalformedResponse,
            True,
        ),
        (client.WebDriverException("Error: ADB ping failed; device is not ready"), AdbOffline, True),
        (
            client.WebDriverException("java.lang.IllegalStateException: UiAutomation not connected"),
            InstrumentationDead,
            True,
        ),
        (
            client.SessionNotCreatedException("The port #8201 is busy. Use another"),
            KINDS["port_busy"],
            False,
        ),
        (client.WebDriverException("Error: 'com.typo' is not installed"), AppRefused, True),
        (
            client.WebDriverException("waiting for the root AccessibilityNodeInfo in the active window"),
            KINDS["app_not_responding"],
            True,
        ),
        (client.WebDriverException("something else"), KINDS["command_failed"], True),
        (http.MaxRetryError(None, "/", http.NewConnectionError(None, "refused")), ServerDead, False),
        (http.MaxRetryError(None, "/", http.ReadTimeoutError(None, "/", "slow")), ServerSlow, True),
        (http.ReadTimeoutError(None, "/", "Read timed out. (read timeout=1)"), ServerSlow, True),
        (http.ProtocolError("Connection aborted."), ServerDead, True),
        (ConnectionRefusedError(111, "Connection refused"), ServerDead, False),
        (json.JSONDecodeError("Expecting value", "<html>", 0), MalformedResponse, True),
    ],
)
def test_client_and_http_errors_become_faults(error, kind, begun):
    fault = classify(error)
    assert type(fault) is kind and fault.begun is begun


def test_faults_pass_through_and_bugs_stay_bugs():
    fault = AdbOffline("offline")
    assert classify(fault) is fault
    assert all(
        classify(bug) is None for bug in (TypeError("x"), KeyError("y"), ActionError("z"), ValueError("w"))
    )
    with pytest.raises(TypeError, match="a bug"):
        Phone(TypeError("a bug")).recovery.read(lambda: (_ for _ in ()).throw(TypeError("a bug")))


def test_a_failed_read_is_asked_again_then_in_a_new_session():
    phone = Phone(*[ScreenshotFailed("none")] * 3)
    assert phone.recovery.read(phone.call) == "fine"
    assert phone.did == ["call", "call", "call", "NEW_SESSION", "call"]
    assert phone.recovery.log.kinds == {"screenshot_failed": 3}
    assert phone.recovery.log.done == {"RETRY_READ": 2, "NEW_SESSION": 1}


def test_while_an_episode_runs_nothing_beyond_a_new_session_is_done():
    phone = Phone(*[EmulatorDead("gone")] * 9)
    with pytest.raises(EmulatorDead):
        phone.recovery.read(phone.call)
    assert phone.did == ["call"]
    phone = Phone(*[SessionLost("gone")] * 9)
    with pytest.raises(SessionLost):
        phone.recovery.read(phone.call)
    assert phone.did == ["call", "NEW_SESSION", "call", "NEW_SESSION", "call"]


def test_the_next_reset_begins_with_the_rung_that_the_fault_needs():
    phone = Phone(EmulatorDead("gone"))
    with pytest.raises(EmulatorDead):
        phone.recovery.read(phone.call)
    assert phone.recovery.reset(phone.call) == "fine"
    assert phone.did == ["call", "REBOOT", "call"]


def test_reset_climbs_the_whole_ladder_and_then_gives_up():
    phone = Phone(*[SessionLost("gone")] * 99)
    with pytest.raises(Quarantined, match="session_lost"):
        phone.recovery.reset(phone.call)
    rungs = [step for step in phone.did if step != "call"]
    assert rungs == ["NEW_SESSION"] * 2 + ["LOAD_SNAPSHOT"] * 2 + ["REBOOT", "REBUILD"]
    assert len(rungs) == sum(CAPS.values()) - CAPS[Rung.RETRY_READ]
    phone.script.clear()
    with pytest.raises(Quarantined, match="in quarantine"):
        phone.recovery.reset(phone.call)


def test_rungs_a_device_does_not_have_are_passed_over():
    phone = Phone(EmulatorDead("gone"), rungs=[Rung.NEW_SESSION, Rung.REBUILD])
    assert phone.recovery.reset(phone.call) == "fine"
    assert phone.did == ["call", "REBUILD", "call"]
    phone = Phone(EmulatorDead("gone"), rungs=[Rung.NEW_SESSION])
    with pytest.raises(Quarantined):
        phone.recovery.reset(phone.call)


def test_a_repair_that_fails_leads_to_the_next_rung():
    phone = Phone(SessionLost("gone"))
    phone.recovery.repairs[Rung.NEW_SESSION] = lambda: (_ for _ in ()).throw(ServerDead("refused"))
    assert phone.recovery.reset(phone.call) == "fine"
    assert phone.did == ["call", "LOAD_SNAPSHOT", "call"]
    assert phone.recovery.log.kinds == {"session_lost": 1, "server_dead": 2}


def test_a_device_whose_episodes_keep_ending_in_faults_is_given_up():
    phone = Phone(strikes=2)

    def broken_episode():
        phone.recovery.reset(phone.call)
        phone.script = [EmulatorDead("again")]
        with pytest.raises(EmulatorDead):
            phone.recovery.read(phone.call)

    for _ in range(7):
        broken_episode()
    # First what each fault asks for, then a rebuild, and only then the end.
    rungs = [step for step in phone.did if step != "call"]
    assert rungs == ["REBOOT"] * 4 + ["REBUILD", "REBOOT"]
    with pytest.raises(Quarantined):
        phone.recovery.reset(phone.call)


def test_a_device_that_works_otherwise_is_kept_and_the_task_is_charged():
    phone = Phone(*[KINDS["command_failed"]("this page never comes")] * 99)
    asked = []
    with pytest.raises(TaskRefused, match="command_failed: this page never comes"):
        phone.recovery.reset(phone.call, works=lambda: asked.append(1))
    assert "REBOOT" not in phone.did and "REBUILD" not in phone.did and asked == [1]
    phone.script.clear()
    assert phone.recovery.reset(phone.call) == "fine"


def test_a_device_that_does_not_work_is_given_up_whatever_the_task():
    phone = Phone(*[SessionLost("gone")] * 99)

    def works():
        raise ServerDead("nothing listens")

    with pytest.raises(Quarantined, match="server_dead"):
        phone.recovery.reset(phone.call, works=works)
    assert "REBUILD" in phone.did
    phone = Phone(*[EmulatorDead("gone")] * 99)
    with pytest.raises(Quarantined, match="emulator_dead"):  # it names the device by itself
        phone.recovery.reset(phone.call, works=lambda: None)


def test_an_app_that_a_device_has_not_costs_it_nothing():
    phone = Phone(AppRefused("cannot activate 'com.typo'"))
    with pytest.raises(AppRefused):
        phone.recovery.reset(phone.call)
    assert phone.did == ["call"] and not phone.recovery.quarantined
    phone = Phone(AppRefused("cannot activate 'com.typo'"))
    assert phone.recovery.act(phone.call, phone.unchanged) == "refused"
    assert phone.did == ["call"] and not phone.recovery.log.kinds


def test_mending_ends_at_its_cap():
    clock = FakeClock()
    phone = Phone(rungs=tuple(Rung)[1:5], clock=clock, reset_cap_s=500.0)

    def slow():
        phone.did.append("call")
        clock.sleep(200)
        raise ServerSlow("no answer")

    with pytest.raises(Quarantined):
        phone.recovery.reset(slow)
    assert phone.did.count("call") == 3 and clock.now() == 600


def test_a_device_that_was_given_up_is_tried_again_after_its_probation():
    clock, told = FakeClock(), []
    phone = Phone(
        *[SessionLost("gone")] * 7,
        clock=clock,
        probation_s=100.0,
        revived=lambda: told.append(clock.now()),
    )
    with pytest.raises(Quarantined):
        phone.recovery.reset(phone.call)
    calls = phone.did.count("call")
    clock.sleep(99)
    with pytest.raises(Quarantined, match="in quarantine"):
        phone.recovery.reset(phone.call)
    assert phone.did.count("call") == calls, "it is left alone until then"
    clock.sleep(1)
    assert phone.recovery.reset(phone.call) == "fine" and told == [100.0]
    phone.script = [SessionLost("gone")] * 99
    with pytest.raises(Quarantined):
        phone.recovery.reset(phone.call)
    assert phone.recovery.probation_s == 200.0


def test_a_sound_episode_clears_the_strikes():
    phone = Phone(strikes=1)
    for _ in range(4):
        phone.recovery.reset(phone.call)
        phone.script = [EmulatorDead("again")]
        with pytest.raises(EmulatorDead):
            phone.recovery.read(phone.call)
        phone.recovery.reset(phone.call)
        phone.recovery.reset(phone.call)
    assert not phone.recovery.quarantined


def test_an_action_that_may_have_begun_is_never_sent_again():
    for fault in (ServerSlow("no answer"), ServerDead("closed"), InstrumentationDead("socket hang up")):
        phone = Phone(fault)
        assert phone.recovery.act(phone.call, phone.unchanged) == "maybe_executed"
        assert phone.did.count("call") == 1 and phone.did[-1] == "look"
        assert phone.recovery.log.done["maybe_executed"] == 1


def test_an_action_that_was_never_begun_is_sent_again_on_the_same_screen_only():
    phone = Phone(SessionLost("gone", begun=False))
    assert phone.recovery.act(phone.call, phone.unchanged) == "executed"
    assert phone.did == ["call", "NEW_SESSION", "look", "call"]
    phone = Phone(SessionLost("gone", begun=False))
    phone.screen = "b"
    assert phone.recovery.act(phone.call, phone.unchanged) == "maybe_executed"
    assert phone.did == ["call", "NEW_SESSION", "look"]


def test_an_action_is_sent_again_at_most_once():
    phone = Phone(*[SessionLost("gone", begun=False)] * 5)
    assert phone.recovery.act(phone.call, phone.unchanged) == "maybe_executed"
    assert phone.did.count("call") == 2


def test_an_action_whose_fault_ends_the_episode_raises():
    phone = Phone(EmulatorDead("gone"))
    with pytest.raises(EmulatorDead):
        phone.recovery.act(phone.call, phone.unchanged)
    assert phone.did == ["call"]


def test_every_event_is_one_log_line_and_one_json_line(tmp_path, caplog):
    log = FaultLog(tmp_path / "faults.jsonl")
    phone = Phone(MalformedResponse("not\nJSON"), ServerDead("gone"), log=log)
    with caplog.at_level(logging.WARNING, "android_env.faults"):
        phone.recovery.read(phone.call)
    rows = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["done"]) for row in rows] == [
        ("malformed_response", "RETRY_READ"),
        ("server_dead", "NEW_SESSION"),
    ]
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("phone: server_dead during read, new_session: gone; start Appium")


def test_a_plain_device_fault_is_treated_like_a_lost_session():
    phone = Phone(DeviceFault("the cable fell out"))
    assert phone.recovery.reset(phone.call) == "fine"
    assert phone.did == ["call", "NEW_SESSION", "call"]
    assert isinstance(Fault("x"), DeviceFault)
