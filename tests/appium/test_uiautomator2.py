"""The real UiAutomator2 driver behind a real Appium server and a real adb; the phone alone is a double."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from android_env.actions import Action
from android_env.appium.device import AppiumDevice, connect
from android_env.appium.server import AppiumServer, find_appium, free_port
from android_env.appium.uiautomator2 import UiAutomator2
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.env import AndroidEnv
from android_env.errors import SetupError
from android_env.faults import EmulatorDead, InstrumentationDead, PortBusy, classify
from android_env.tasks import load_tasks
from android_env.testing.adbd import AdbdDouble
from android_env.testing.appium import AppiumDouble

TASKS = load_tasks("general/train").where(level=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppiumServer]:
    """One that finds adb where Debian has it."""
    adb = shutil.which("adb")
    if adb is None:
        pytest.skip("there is no adb on PATH; 'make appium' gets it")
    try:
        _, home = find_appium()
    except SetupError as error:
        pytest.skip(str(error))
    if home is None or not (home / "node_modules" / "appium-uiautomator2-driver").is_dir():
        pytest.skip("there is no UiAutomator2 driver; 'make appium' gets it")
    patch = pytest.MonkeyPatch()
    patch.setenv("ANDROID_HOME", str(Path(os.path.realpath(adb)).parents[1]))
    log = tmp_path_factory.mktemp("appium") / "appium.log"
    with AppiumServer(log=log) as server:
        yield server
    patch.undo()


@pytest.fixture(scope="module")
def adb_port() -> Iterator[int]:
    """Of an adb server of these tests' own."""
    port = free_port()
    yield port
    subprocess.run(["adb", "-P", str(port), "kill-server"], check=False, capture_output=True)


@pytest.fixture
def double() -> Iterator[AppiumDouble]:
    with AppiumDouble() as double:
        yield double


@pytest.fixture
def daemon(double: AppiumDouble, adb_port: int) -> Iterator[AdbdDouble]:
    with AdbdDouble(double) as daemon:
        command = ["adb", "-P", str(adb_port), "connect", daemon.serial]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        assert "connected" in said
        yield daemon


def dialect(daemon_or_serial, adb_port: int, **ports: int) -> UiAutomator2:
    serial = getattr(daemon_or_serial, "serial", daemon_or_serial)
    free = {name: free_port() for name in ("system_port", "mjpeg_port", "chromedriver_port")}
    return UiAutomator2(serial, **{**free, **ports}, capabilities_besides={"appium:adbPort": adb_port})


def test_a_session_shows_the_screen_and_a_tap_reaches_the_phone(server, daemon, double, adb_port):
    device = AppiumDevice(server.url, dialect(daemon, adb_port), restore=double.load)
    try:
        seen = device.reset(TASKS[0], seed=0)
        assert np.array_equal(seen.screenshot, double.phone.observe().screenshot)
        assert device.screen_hw == double.phone.screen_hw and "Settings" in seen.ui_elements
        assert len([path for path in daemon.pushed if path.endswith(".apk")]) == 3, "the driver's helpers"
        double.executed.clear()
        device.execute(Action.tap(0.25, 0.5))
        (tap,) = double.executed
        assert np.allclose(tap.touch_yx, (0.25, 0.5), atol=0.01) and double.gestures[-1].kind == "tap"
        device.execute(Action.home())
        assert double.executed[-1] == Action.home()
        assert not device.faults.kinds
    finally:
        device.close()


def test_an_oracle_solves_tasks_through_all_of_it(server, daemon, double, adb_port):
    device = AppiumDevice(server.url, dialect(daemon, adb_port), restore=double.load)
    env = AndroidEnv(device, TASKS, judge=lambda moment: double.phone.verdict())
    rng = np.random.default_rng(0)
    try:
        for task in TASKS[:2]:
            env.reset(seed=1, options={"task": task})
            info = {"outcome": ""}
            while not info["outcome"]:
                *_, info = env.step(draw(SCRIPTED["oracle"](double.phone.display), rng)[0])
            assert info["outcome"] == "success", task.task_id
    finally:
        env.close()


TEXTS = (
    "usb cable",
    "café 日本語 😀",
    "R&D; $(reboot) `id` | \"a\" 'b' <c> \\d ~ * # (e)",
    "two\nlines",
)


def test_what_an_agent_types_reaches_the_phone_and_no_shell(server, daemon, double, adb_port):
    device = AppiumDevice(server.url, dialect(daemon, adb_port), restore=double.load)
    try:
        device.reset(TASKS[0], seed=0)
        for text in TEXTS:
            double.executed.clear()
            device.execute(Action.type_text(text))
            assert double.executed == [Action.type_text(text.replace("\n", " "))]
            assert device.report.sent == "executed"
        assert daemon.keyboard.startswith("com.android"), "the phone has its own keyboard back"
        assert not device.faults.kinds
    finally:
        device.close()


def test_what_its_driver_says_is_classed(server, daemon, adb_port):
    def said(dialect: UiAutomator2):
        with pytest.raises(Exception) as caught:
            connect(server.url, dialect.capabilities(), timeout_s=60)
        return classify(caught.value)

    assert isinstance(said(dialect("127.0.0.1:9", adb_port)), EmulatorDead)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = dialect(daemon, adb_port, system_port=taken.getsockname()[1])
        assert isinstance(said(busy), PortBusy)


def test_a_helper_that_dies_is_started_again(server, daemon, double, adb_port):
    device = AppiumDevice(server.url, dialect(daemon, adb_port), restore=double.load)
    try:
        device.reset(TASKS[0], seed=0)
        daemon.crash()
        assert device.observe().screenshot.any()
        assert device.faults.kinds[InstrumentationDead.kind]
    finally:
        device.close()
