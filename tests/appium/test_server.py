"""The server's life: a port and a process group of its own, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from android_env.appium_server import HOST, AppiumServer
from android_env.devices.appium import connect
from android_env.devices.chromium import Chromium
from android_env.faults import ServerDead
from tests.appium.conftest import OnePage


def group(leader: int) -> list[int]:
    """Processes of a group that are not dead, by /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == leader and state not in "ZX":
            found.append(int(entry.parent.name))
    return found


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
        lines = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        bound = [row.split()[1] for row in lines.splitlines() if f":{own.port:04X} " in row and " 0A " in row]
        assert [address.partition(":")[0] for address in bound] == ["0100007F"]  # 127.0.0.1 alone


def test_stopping_ends_its_browsers_and_nobody_else(own, server):
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        with own:
            leader = own._process.pid
            session(own)
            assert len(group(leader)) > 3
        assert not group(leader) and not own.alive
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
    end = time.monotonic() + 10
    while (own.alive or group(leader)) and time.monotonic() < end:  # a killed process takes a moment to go
        time.sleep(0.05)
    assert not own.alive and not group(leader)
    own.start()
    assert own.port == port and own.alive
    assert own.start() is own and own._process.pid != leader


STARTER = """
import os, signal, sys
from android_env.appium_server import AppiumServer
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
    end = time.monotonic() + 10
    while group(leader) and time.monotonic() < end:
        time.sleep(0.05)
    assert not group(leader)


def test_a_port_in_use_is_said_with_the_logs_last_line(installed, tmp_path):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        server = AppiumServer(port=taken.getsockname()[1], log=tmp_path / "appium.log")
        with pytest.raises(ServerDead, match=str(tmp_path / "appium.log")):
            server.start()
        assert not server.alive
    assert "EADDRINUSE" in (tmp_path / "appium.log").read_text()
