"""UiAutomator2 over real HTTP: sessions, gestures, keys, texts, whole episodes."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("appium", reason="pip install 'digiq[appium]'")

from android_env.actions import Action, ActionType
from android_env.appium.device import AppiumDevice, connect, extension
from android_env.appium.settle import SettleConfig
from android_env.appium.uiautomator2 import UiAutomator2, elements_of
from android_env.devices import Reports, StepReport
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from android_env.env import AndroidEnv
from android_env.errors import EpisodeError, TaskError
from android_env.faults import CommandFailed, MalformedResponse, Quarantined, classify
from android_env.tasks import load_tasks
from android_env.testing.gestures import read_gesture

TASKS = load_tasks("webshop/train")
UDID = "emulator-5554"


def test_a_session_asks_for_what_parallel_and_slow_agents_need(bench):
    bench.device.reset(TASKS[0], seed=0)
    (session,) = bench.double.sessions.values()
    asked = session.capabilities
    assert asked["appium:udid"] == UDID and asked["appium:suppressKillServer"] is True
    assert asked["appium:newCommandTimeout"] >= 3600
    assert bench.double.settings["waitForIdleTimeout"] == 0
    ports = {
        asked[f"appium:{name}"]
        for index in range(100)
        for asked in [UiAutomator2.numbered(index, UDID).capabilities()]
        for name in ("systemPort", "mjpegServerPort", "chromedriverPort")
    }
    assert len(ports) == 300
    with pytest.raises(ValueError, match="must differ"):
        UiAutomator2(UDID, system_port=9200)
    with pytest.raises(ValueError, match=r"0\.\.99"):
        UiAutomator2.numbered(100, UDID)


def test_two_devices_on_one_port_are_refused_and_on_their_own_are_not(bench):
    bench.device.reset(TASKS[0], seed=0)
    options = {"screen_hw": bench.device.screen_hw, "restore": bench.double.load}
    clash = AppiumDevice(bench.double.url, UiAutomator2.numbered(0, "emulator-5556"), **options)
    with pytest.raises(Quarantined, match="systemPort 8200 is occupied"):
        clash.reset(TASKS[0], seed=0)
    beside = AppiumDevice(bench.double.url, UiAutomator2.numbered(1, "emulator-5556"), **options)
    beside.reset(TASKS[0], seed=0)
    assert len(bench.double.sessions) == 2
    beside.close()
    assert len(bench.double.sessions) == 1


def test_sessions_that_are_opened_at_the_same_moment_are_not_taken_for_one(bench):
    start = threading.Barrier(8)

    def open_one(index):
        dialect = UiAutomator2.numbered(index, f"emulator-{5554 + 2 * index}")
        start.wait()
        return connect(bench.double.url, dialect.capabilities(), timeout_s=60).session_id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(open_one, range(8)))) == len(bench.double.sessions) == 8


def test_an_agent_may_think_for_long_and_no_longer(make_bench):
    bench = make_bench(dialect=UiAutomator2(UDID, new_command_timeout_s=600))
    bench.device.reset(TASKS[0], seed=0)
    bench.clock.sleep(599)
    bench.device.execute(Action.back())
    assert bench.did == []
    bench.clock.sleep(601)
    bench.device.execute(Action.back())
    assert bench.did == ["new_session"] and bench.device.report.sent == "executed"


def test_it_shows_what_the_phone_shows(bench):
    seen = bench.device.reset(TASKS[0], seed=3)
    phone = SimulatedPhone(noise=NO_NOISE)
    truth = phone.reset(TASKS[0], seed=3)
    assert np.array_equal(seen.screenshot, truth.screenshot)
    assert (seen.goal, seen.activity) == (TASKS[0].goal, truth.activity)
    elements, true_elements = json.loads(seen.ui_elements), json.loads(truth.ui_elements)
    assert [e["text"] for e in elements] == [e["text"] for e in true_elements]
    for element, true in zip(elements, true_elements, strict=True):
        assert np.allclose(element["bounds"], true["bounds"], atol=0.01)


@pytest.mark.parametrize("point", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.25), (0.999, 0.001)])
def test_a_tap_is_a_tap_where_it_should_be(bench, point):
    bench.device.reset(TASKS[0], seed=0)
    bench.device.execute(Action.tap(*point))
    gesture = bench.double.gestures[-1]
    assert gesture.kind == "tap" and gesture.held_ms < 400
    height, width = bench.device.screen_hw
    assert abs(gesture.touch_yx[0] - point[0] * height) <= 1
    assert abs(gesture.touch_yx[1] - point[1] * width) <= 1


@pytest.mark.parametrize(
    ("touch", "lift"),
    [
        ((0.8, 0.5), (0.2, 0.5)),
        ((0.2, 0.5), (0.8, 0.5)),
        ((0.5, 0.95), (0.5, 0.05)),
        ((0.5, 0.5), (0.5, 0.545)),
        ((0.5, 0.5), (0.545, 0.5)),
        ((0.1, 0.1), (0.9, 0.9)),
    ],
)
def test_a_swipe_is_neither_a_long_press_nor_a_fling(bench, touch, lift):
    bench.device.reset(TASKS[0], seed=0)
    action = Action(ActionType.DUAL_POINT, touch, lift)
    bench.device.execute(action)
    assert [gesture.kind for gesture in bench.double.gestures] == ["swipe"]
    assert bench.double.executed[-1].swipe_direction == action.swipe_direction


def test_the_double_tells_gestures_apart():
    def kind(*steps):
        down, up = {"type": "pointerDown"}, {"type": "pointerUp"}
        start = {"type": "pointerMove", "x": 50, "y": 200}
        source = {"type": "pointer", "actions": [start, down, *steps, up]}
        return read_gesture([source], pixels_per_dp=0.5).kind

    def move(y, ms):
        return {"type": "pointerMove", "x": 50, "y": y, "duration": ms}

    def pause(ms):
        return {"type": "pause", "duration": ms}

    assert kind(pause(50)) == "tap" and kind(pause(450)) == "long_press"
    assert kind(move(100, 200)) == "fling" and kind(move(100, 200), pause(150)) == "swipe"
    assert kind(pause(500), move(100, 200)) == "drag"
    assert kind(move(202, 50)) == "tap"
    with pytest.raises(ValueError, match="never came down"):
        read_gesture([{"type": "pointer", "actions": []}], pixels_per_dp=1)


def test_keys_texts_and_long_presses(bench):
    bench.device.reset(TASKS[0], seed=0)
    actions = [Action.back(), Action.home(), Action.enter(), Action(ActionType.LONG_PRESS, (0.5, 0.5))]
    bench.double.executed.clear()
    for action in [*actions, Action.type_text("naïve 'quoted' \"text\", 100 % ☕")]:
        bench.device.execute(action)
    assert [a.type for a in bench.double.executed] == [*(a.type for a in actions), ActionType.TYPE]
    assert bench.double.executed[-1].text == "naïve 'quoted' \"text\", 100 % ☕"


def test_typing_never_presses_enter(bench):
    bench.device.reset(TASKS[0], seed=0)
    bench.device.execute(Action.type_text("two\nlines"))
    assert bench.double.executed[-1].text == "two lines"


def test_declarations_and_waiting_send_nothing(bench):
    bench.device.reset(TASKS[0], seed=0)
    before = len(bench.double.executed)
    for action in (Action.complete(), Action.impossible(), Action(ActionType.ANSWER, text="7")):
        bench.device.execute(action)
        assert bench.device.report == StepReport("nothing")
    bench.device.execute(Action(ActionType.WAIT))
    assert bench.device.report.polls > 0 and len(bench.double.executed) == before


def test_waiting_is_recorded_for_every_step(make_bench):
    bench = make_bench(settle=SettleConfig(poll_s=0.5, stable_polls=3))
    bench.device.reset(TASKS[0], seed=0)
    bench.device.execute(Action.back())
    assert isinstance(bench.device, Reports)
    assert bench.device.report == StepReport("executed", settle_s=1.5, polls=4)


@pytest.mark.parametrize("number", range(3))
def test_the_oracle_solves_a_task_through_the_whole_path(bench, number):
    env = AndroidEnv(bench.device, TASKS, judge=lambda _: bench.double.phone.verdict())
    _, info = env.reset(seed=number, options={"task": TASKS[number]})
    rng = np.random.default_rng(0)
    while not info["outcome"]:
        *_, info = env.step(draw(SCRIPTED["oracle"](bench.double.phone.display), rng)[0])
        assert info["report"].sent == "executed"
    assert info["outcome"] == "success"


def test_a_task_may_begin_in_an_app(bench):
    bench.device.reset(dataclasses.replace(TASKS[0], params={"package": "com.example"}), seed=0)
    sent = [body["script"] for name, body in bench.double.commands if name == "execute/sync"]
    assert sent[:3] == ["mobile: pressKey", "mobile: terminateApp", "mobile: activateApp"]


def test_the_shell_is_denied_by_the_server_and_never_asked_for(bench):
    bench.device.reset(TASKS[0], seed=0)
    for kind in ActionType:
        bench.device.execute(Action(kind, (0.5, 0.5), (0.5, 0.5), "x"))
    assert not any("shell" in str(body) for _, body in bench.double.commands)
    with pytest.raises(Exception, match="adb_shell") as caught:
        extension(bench.device._connected(), "mobile: shell", command="rm")
    assert isinstance(classify(caught.value), CommandFailed)


HOSTILE_NAMES = [
    "x; reboot",
    "com.a.b;id",
    "$(id)",
    "`id`",
    "com.a b",
    "--help",
    "../x",
    "com.a\nb",
    "Settings",
    "",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_nothing_but_a_package_name_gets_to_what_the_driver_hands_to_a_shell(bench, name):
    bench.device.reset(TASKS[0], seed=0)
    bench.device.execute(Action(ActionType.OPEN_APP, text=name))
    assert bench.device.report.faults == 0
    if name:
        with pytest.raises(TaskError, match="is not a package name"):
            bench.device.reset(dataclasses.replace(TASKS[0], params={"package": name}), seed=0)
    assert not any(
        "activateApp" in str(body) or "terminateApp" in str(body) for _, body in bench.double.commands
    )
    bench.device.execute(Action(ActionType.OPEN_APP, text="com.android.settings"))
    assert any("com.android.settings" in str(b) for _, b in bench.double.commands)


def test_the_screen_is_measured_where_nobody_says_its_size(make_bench):
    bench = make_bench(screen_hw=None)
    assert bench.device.screen_hw == bench.double.phone.screen_hw


def test_calls_out_of_order(bench):
    with pytest.raises(EpisodeError, match="reset"):
        bench.device.execute(Action.back())
    bench.device.close()
    bench.device.close()


def test_page_sources():
    source = (
        '<hierarchy width="100" height="200"><a.b.FrameLayout class="a.b.FrameLayout" bounds="[0,0][100,200]" text="">'
        '<a.b.Button text="" content-desc="Back" clickable="true" bounds="[10,20][30,60]" displayed="true"/>'
        '<a.b.Text class="a.b.Text" text="hidden" bounds="[0,0][1,1]" displayed="false"/></a.b.FrameLayout></hierarchy>'
    )
    expected = {"text": "Back", "role": "Button", "id": "", "bounds": [0.1, 0.1, 0.2, 0.2]}
    assert json.loads(elements_of(source)) == [expected]
    assert json.loads(elements_of(source, (400, 100)))[0]["bounds"] == [0.05, 0.1, 0.1, 0.2]
    for damaged in ("", "<html>", None, '<hierarchy width="0" height="0"/>x', source.replace("[10,20]", "")):
        with pytest.raises(MalformedResponse):
            elements_of(damaged)


def test_double_taps_drags_and_recent_apps(bench):
    bench.device.reset(TASKS[0], seed=0)
    bench.double.executed.clear()
    bench.device.execute(Action.double_tap(0.5, 0.25))
    bench.device.execute(Action.drag((0.2, 0.25), (0.8, 0.75)))
    bench.device.execute(Action.long_press(0.5, 0.5))
    kinds = [gesture.kind for gesture in bench.double.gestures[-3:]]
    assert kinds == ["double_tap", "drag", "long_press"]
    double, drag, long = bench.double.executed
    assert (double.type, drag.type, long.type) == (
        ActionType.DOUBLE_TAP, ActionType.DRAG, ActionType.LONG_PRESS,
    )  # fmt: skip
    assert np.allclose(drag.touch_yx, (0.2, 0.25), atol=0.01) and np.allclose(
        drag.lift_yx, (0.8, 0.75), atol=0.01
    )
    bench.device.execute(Action.recent_apps())
    assert bench.double.commands_of("mobile: pressKey")[-1] == {"keycode": 187}
    for idle in (Action.wait(), Action.answer("42")):
        bench.device.execute(idle)
    assert len(bench.double.executed) == 3


def test_apps_open_by_the_name_under_their_icon(bench):
    bench.device.reset(TASKS[0], seed=0)
    bench.double.installed = {"com.google.android.deskclock", "com.android.settings", "org.example.notes"}
    for name, package in (
        ("Clock", "com.google.android.deskclock"),
        ("settings", "com.android.settings"),
        ("Notes", "org.example.notes"),
        ("org.example.notes", "org.example.notes"),
    ):
        bench.device.execute(Action.open_app(name))
        assert bench.double.commands_of("mobile: activateApp")[-1] == {"appId": package}
        assert bench.device.report.sent == "executed"
    for name in ("Chrome", "No Such App", "com.not.installed"):
        bench.device.execute(Action.open_app(name))
        assert bench.device.report.sent == "nothing" and bench.device.report.notes == ("refused",)
