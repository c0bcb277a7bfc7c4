"""What an Appium server is started with; that it runs is for tests/appium."""

from __future__ import annotations

import itertools

import pytest

from android_env.appium.server import HOST, AppiumServer, free_port
from android_env.emulators.emulator import port_is_free


@pytest.fixture
def home(tmp_path):
    script = tmp_path / "node_modules" / "appium" / "index.js"
    script.parent.mkdir(parents=True)
    script.touch()
    return tmp_path


@pytest.fixture(autouse=True)
def node(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "node"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def options(server: AppiumServer) -> dict[str, str]:
    words = server.arguments()
    return {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}


def test_a_shell_on_the_phone_is_denied_unless_it_is_named(home):
    denied = options(AppiumServer(home=home))
    assert denied["--deny-insecure"] == "*:adb_shell" and "--allow-insecure" not in denied
    other = options(AppiumServer(home=home, allow_insecure=["uiautomator2:chromedriver_autodownload"]))
    assert other["--allow-insecure"] == "uiautomator2:chromedriver_autodownload"
    assert other["--deny-insecure"] == "*:adb_shell"
    allowed = options(AppiumServer(home=home, allow_insecure=["uiautomator2:adb_shell", "*:x"]))
    assert allowed["--allow-insecure"] == "uiautomator2:adb_shell,*:x" and "--deny-insecure" not in allowed


def test_it_listens_on_loopback(home):
    assert options(AppiumServer(home=home, port=4723)) == {
        "--address": HOST,
        "--port": "4723",
        "--log-no-colors": "--log-timestamp",
        "--log-timestamp": "--deny-insecure",
        "--deny-insecure": "*:adb_shell",
    }
    assert HOST == "127.0.0.1"


def test_free_ports_are_none_that_connections_get():
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 10 and all(20_000 <= port < 32_000 and port_is_free(port) for port in ports)
