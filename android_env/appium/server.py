"""`AppiumServer`: an Appium server of one's own, for as long as it is needed.

The server listens on the loopback interface alone, on a port that was free, in a process group of its own; stopping it
ends that group, with every browser in it, and nothing else. So does the end of the process that started it. Nobody gets
a shell on a phone through it (`adb_shell`), whatever Appium's own config files say, unless `allow_insecure` names that.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from android_env.errors import SetupError
from android_env.faults import ServerDead, ServerSlow

HOST = "127.0.0.1"
POLL_S = 0.1
DENIED = "*:adb_shell"
"""The feature of Appium's drivers that gives its clients a shell on the phone."""
# Should this process be killed, its end of the pipe closes, and the watcher ends the server's group with it in it.
_WATCHED = 'exec 3<&0; { read _ <&3; kill -KILL 0; } & exec "$@" 3<&- </dev/null'
GRACE_S = 5.0
"""How long a server may take to end by itself before its group is killed, seconds."""


def find_appium(home: str | Path | None = None) -> tuple[list[str], Path | None]:
    """The command that starts Appium, and the folder (`APPIUM_HOME`) with its drivers; None leaves Appium's own.

    Looked for in `home`, else in `$APPIUM_HOME`, else in `.appium` of the working directory and of this checkout
    (`make appium` puts it there), else on PATH.

    Raises:
        SetupError: it is in none of these places.
    """
    checkout = Path(__file__).resolve().parents[2]
    named = home or os.environ.get("APPIUM_HOME")
    folders = [Path(named)] if named else [Path(".appium"), checkout / ".appium"]
    node = shutil.which("node")
    for folder in folders:
        script = folder.resolve() / "node_modules" / "appium" / "index.js"
        if script.is_file() and node:
            return [node, str(script)], folder.resolve()
    if home is None and (command := shutil.which("appium")):
        return [command], Path(named).resolve() if named else None
    places = " or ".join(map(str, folders))
    raise SetupError(f"Appium is not in {places}, nor on PATH; run 'make appium', or set APPIUM_HOME.")


class AppiumServer:
    """A running Appium server, as a context manager or by `start` and `stop`.

    Args:
        home: where Appium and its drivers are; see `find_appium`.
        port: to listen on; None takes a free one at the first start and keeps it.
        log: file that the server's output is appended to; None keeps it in a temporary folder, which stays where the
            server failed.
        start_cap_s: how long the server may take to come up, seconds.
        allow_insecure: Appium's `--allow-insecure`: features that are off by default, each with its driver, for example
            `uiautomator2:adb_shell`. None is needed here.

    Raises:
        SetupError: there is no Appium.
    """

    def __init__(
        self,
        *,
        home: str | Path | None = None,
        port: int | None = None,
        log: str | Path | None = None,
        start_cap_s: float = 120.0,
        allow_insecure: Sequence[str] = (),
    ) -> None:
        self._command, self._home = find_appium(home)
        self._wanted_log = None if log is None else Path(log)
        self._start_cap_s = start_cap_s
        self.allow_insecure = tuple(allow_insecure)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self.port = port or 0
        """0 before the first start."""

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The file with the server's output.

        Raises:
            SetupError: the server was never started, so that there is none.
        """
        if self._wanted_log is not None:
            return self._wanted_log
        if self._folder is None:
            raise SetupError("the Appium server has no log yet; start() it first.")
        return self._folder / "appium.log"

    @property
    def alive(self) -> bool:
        """Whether the process runs; what a dead one has left running is ended here."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()  # at once: later its id may be another's
        return self._process is not None

    def start(self) -> AppiumServer:
        """Starts the server, where it does not run, and waits until it takes sessions.

        Raises:
            ServerDead: it ended at once; the message has the last line of its log.
            ServerSlow: it did not come up in time.
        """
        if self.alive:
            return self
        self.stop()
        # A browser's socket lies in here, and Chromium does not start where its path is longer than 107 bytes.
        short = len(os.fsencode(tempfile.gettempdir())) <= 40
        self._folder = Path(tempfile.mkdtemp(prefix="appium-", dir=None if short else "/tmp"))
        # Browsers keep their profiles here, so that a killed one leaves nothing behind.
        (self._folder / "tmp").mkdir()
        self.port = self.port or free_port()
        environment = {**os.environ, "TMPDIR": str(self._folder / "tmp")}
        if self._home is not None:
            environment["APPIUM_HOME"] = str(self._home)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _WATCHED, "sh", *self._command, *self.arguments()],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.stop)
        self._wait_until_ready(self._process)
        return self

    def arguments(self) -> list[str]:
        """What `start` tells Appium; it goes before what config files say."""
        allowed = any(name.endswith(":adb_shell") for name in self.allow_insecure)
        return [
            *("server", "--address", HOST, "--port", str(self.port)),
            *("--log-no-colors", "--log-timestamp"),
            *(("--allow-insecure", ",".join(self.allow_insecure)) if self.allow_insecure else ()),
            *(() if allowed else ("--deny-insecure", DENIED)),
        ]

    def stop(self) -> None:
        """Ends the server and all that it started; a server that does not run is left as it is."""
        process, self._process = self._process, None
        if process is not None:
            atexit.unregister(self.stop)
            _end_group(process)
        if self._folder is not None:
            shutil.rmtree(self._folder / "tmp", ignore_errors=True)
            ended_well = process is not None and process.returncode in (0, -signal.SIGTERM)
            if ended_well or self._wanted_log is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> AppiumServer:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + self._start_cap_s
        try:
            while time.monotonic() < end:
                if process.poll() is not None:
                    raise ServerDead(
                        f"Appium ended with status {process.returncode}: {_last_line(self.log)} ({self.log})"
                    )
                if _is_ready(self.url):
                    return
                time.sleep(POLL_S)
            raise ServerSlow(f"Appium is not up after {self._start_cap_s:g} s ({self.log})")
        except BaseException:
            _end_group(process)
            raise


def free_port() -> int:
    """A port of the loopback interface on which nobody listens now.

    It lies below those that the system gives to connections, so that none takes it before it is listened on.

    Raises:
        SetupError: none of many was free.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise SetupError(f"no free port on {HOST} between 20000 and 32000; stop some servers.")


def _is_ready(url: str) -> bool:
    # Proxies of the environment have no business on the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/status", timeout=2) as answer:
            return bool(json.load(answer)["value"]["ready"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, then kills what is left of its group, which bears its id."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.terminate()
        process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
