"""The server's life: a port and a process group of its own, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from android_env.appium.chromium import Chromium
from android_env.appium.device import connect
from android_env.appium.server import HOST, AppiumServer
from android_env.faults import ServerDead
from tests.appium.conftest import OnePage, gone, group


def bound_to(port: int) -> list[str]:
    """Addresses, as /proc has them, of which this port is listened on."""
    lines = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [row.split()[1] for row in lines.splitlines() if f":{port:04X} " in row and " 0A " in row]
    return [address.partition(":")[0] for address in rows]


LOOPBACK = "0100007F"


def session(server: AppiumServer):
    return connect(server.url, Chromium(OnePage("http://127.0.0.1:1")).capabilities(), timeout_s=60)


@pytest.fixture
def own(installed: None, tmp_path):
    server = AppiumServer(log=tmp_path / "appium.log")
    yield server
    server.stop()


def test_it_listens_on_loopback_only_in_a_group_of_its_own(own):
    with own:
        leader = own._process.pid
        assert os.getpgid(leader) == leader != os.getpgid(0)
        assert bound_to(own.port) == [LOOPBACK]


def test_stopping_ends_its_browsers_and_nobody_else(own, server):
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        with own:
            leader = own._process.pid
            session(own)
            assert len(group(leader)) > 3
        assert gone(leader) and not own.alive
        assert bystander.poll() is None and server.alive and group(server._process.pid)
        own.stop()  # again: nothing to do
    finally:
        bystander.kill()
        bystander.wait()


def test_a_killed_server_leaves_no_browser_and_starts_again_on_its_port(own):
    own.start()
    leader, port = own._process.pid, own.port
    session(own)
    os.kill(leader, signal.SIGKILL)
    end = time.monotonic() + 30
    while own.alive and time.monotonic() < end:
        time.sleep(0.05)
    assert not own.alive and gone(leader)
    own.start()
    assert own.port == port and own.alive
    assert own.start() is own and own._process.pid != leader


STARTER = """
import os, signal, sys
from android_env.appium.server import AppiumServer
server = AppiumServer(log=sys.argv[1]).start()
print(server._process.pid, flush=True)
signal.pause()
"""


def test_it_does_not_outlive_who_started_it(installed, tmp_path):
    log = str(tmp_path / "appium.log")
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, log],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a killed starter tidies nothing up
    )
    leader = int(starter.stdout.readline())
    assert group(leader)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert gone(leader)


def test_config_files_neither_allow_the_shell_nor_open_the_server_to_others(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where Appium looks for one
    careless = {"server": {"relaxed-security": True, "address": "0.0.0.0"}}
    (tmp_path / ".appiumrc.json").write_text(json.dumps(careless))
    with AppiumServer(log=tmp_path / "appium.log") as server:
        assert bound_to(server.port) == [LOOPBACK]
        session(server).quit()
    said = (tmp_path / "appium.log").read_text()
    assert "Enabling relaxed security" in said, "the file was read"
    assert "Explicitly disabling insecure features for this session" in said and "*:adb_shell" in said


def test_browsers_start_however_long_the_path_of_temporary_files_is(installed, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with AppiumServer(log=tmp_path / "appium.log") as server:
        session(server).quit()
        folder = server._folder
    assert not folder.exists()


def test_a_port_in_use_is_said_with_the_logs_last_line(installed, tmp_path):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        server = AppiumServer(port=taken.getsockname()[1], log=tmp_path / "appium.log")
        with pytest.raises(ServerDead, match=str(tmp_path / "appium.log")):
            server.start()
        assert not server.alive
    assert "EADDRINUSE" in (tmp_path / "appium.log").read_text()
