"""Processes that stages are forked from, which keep the modules that their stages import."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from digiq.processes import TERMINATED

_LOOK_EVERY = 0.5  # seconds


def serve(work: Callable[[str], None], starter: int) -> None:
    """Handles each line of standard input in a child process of its own, and prints the child's exit status.

    This process also imports the modules that a child has imported, so the next child has them already: a new
    interpreter spends two or three seconds on JAX, torch and SciPy. Children are forked, so this process must neither
    start threads nor touch a backend of JAX; it only imports. For Linux: on macOS, libraries may not survive a fork.

    Args:
      work: handles one line.
      starter: id of the process that started this one, as that process gave it; when it is gone, child and server end.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    for line in sys.stdin:
        known = set(sys.modules)
        gc.freeze()  # otherwise a child's collector would write to, and so copy, every page of the imported modules
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(reading)
            work(line.rstrip("\n"))
            with open(writing, "w", encoding="utf-8") as report:
                report.write("\n".join(name for name in sys.modules if name not in known))
            return
        os.close(writing)
        try:
            with open(reading, encoding="utf-8") as report:
                # The pipe closes when the child ends, in whatever way.
                while not select.select([report], [], [], _LOOK_EVERY)[0]:
                    if os.getppid() != starter:
                        sys.exit(1)
                imported = report.read().splitlines()
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        for name in imported:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


class Server:
    """The client of a process that runs :func:`serve`, with the methods of ``Popen`` for one request."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.returncode: int | None = None

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, line: str) -> None:
        """Starts one request; the previous one must have ended."""
        assert self._process.stdin is not None
        self.returncode = None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def poll(self) -> int | None:
        """The exit status of the request, or of the server if the server has ended; None while the request runs."""
        answers = self._process.stdout
        assert answers is not None
        if self.returncode is None and select.select([answers], [], [], 0)[0]:
            self.returncode = int(answers.readline() or self._process.wait() or 1)
        return self.returncode

    def terminate(self) -> None:
        """Ends the server and its running request."""
        self._process.terminate()

    def wait(self) -> int:
        """Waits for the end of the server."""
        return self._process.wait()
