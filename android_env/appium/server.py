"""`AppiumServer`: a private Appium server, for as long as it is needed.

The server listens on a free port of the loopback interface only. It has its own process group: stopping it, or the end
of the process that started it, ends that group with every browser in it, and nothing else. It gives nobody a shell on a
phone (`adb_shell`), whatever Appium's own config files say, unless `allow_insecure` names that feature.
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
"""The feature of Appium's drivers that gives clients a shell on the phone."""
# If this process is killed, its end of the pipe closes, and the watcher kills the server's group, itself included.
_WATCHED = 'exec 3<&0; { read _ <&3; kill -KILL 0; } & exec "$@" 3<&- </dev/null'
GRACE_S = 5.0
"""How long a server may take to exit by itself before its group is killed, seconds."""


def find_appium(home: str | Path | None = None) -> tuple[list[str], Path | None]:
    """The command that starts Appium, and the folder (`APPIUM_HOME`) with its drivers; None keeps Appium's own folder.

    Searched in order: `home`, `$APPIUM_HOME`, `.appium` in the working directory and in this checkout (where
    `make appium` puts it), PATH.

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
    """An Appium server, run as a context manager or by `start` and `stop`.

    Args:
        home: where Appium and its drivers are; see `find_appium`.
        port: the port to listen on; None takes a free one at the first start and keeps it.
        log: the file that the server's output is appended to; None keeps it in a temporary folder, which remains if
            the server failed.
        start_cap_s: how long the server may take to come up, seconds.
        allow_insecure: Appium's `--allow-insecure`: features that are off by default, each with its driver, for example
            `uiautomator2:adb_shell`. None is needed here.

    Raises:
        SetupError: Appium is not installed.
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
        """The port; 0 before the first start if none was given."""

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The file with the server's output.

        Raises:
            SetupError: the server was never started, so there is no log.
        """
        if self._wanted_log is not None:
            return self._wanted_log
        if self._folder is None:
            raise SetupError("the Appium server has no log yet; start() it first.")
        return self._folder / "appium.log"

    @property
    def alive(self) -> bool:
        """Whether the process runs; if it is dead, this also ends whatever it left running."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()  # at once, since its id may be reused later
        return self._process is not None

    def start(self) -> AppiumServer:
        """Starts the server if it does not run, and waits until it accepts sessions.

        Raises:
            ServerDead: it exited at once; the message has the last line of its log.
            ServerSlow: it did not come up in time.
        """
        if self.alive:
            return self
        self.stop()
        # Browsers put their socket here, and Chromium does not start if its path is longer than 107 bytes.
        short = len(os.fsencode(tempfile.gettempdir())) <= 40
        self._folder = Path(tempfile.mkdtemp(prefix="appium-", dir=None if short else "/tmp"))
        # Browsers keep their profiles here, so that a killed browser leaves nothing behind.
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
        """The arguments that `start` gives Appium; they take precedence over config files."""
        allowed = any(name.endswith(":adb_shell") for name in self.allow_insecure)
        return [
            *("server", "--address", HOST, "--port", str(self.port)),
            *("--log-no-colors", "--log-timestamp"),
            *(("--allow-insecure", ",".join(self.allow_insecure)) if self.allow_insecure else ()),
            *(() if allowed else ("--deny-insecure", DENIED)),
        ]

    def stop(self) -> None:
        """Ends the server and everything it started; does nothing if it does not run."""
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
    """A port of the loopback interface on which nothing listens now.

    It lies below the range from which the system assigns ports to connections, so that none takes it before it is used.

    Raises:
        SetupError: no free port was found in many tries.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise SetupError(f"no free port on {HOST} between 20000 and 32000; stop some servers.")


def _is_ready(url: str) -> bool:
    # Proxies from the environment must not be used on the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/status", timeout=2) as answer:
            return bool(json.load(answer)["value"]["ready"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, then kills what is left of its group, whose id is the process's."""
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
