"""Child processes, and the cores available to them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
"""Exit status of a process that SIGINT or SIGTERM ended: 128 plus the signal's number, as in shells."""
_LOOK_EVERY = 0.5  # seconds


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; all cores if the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. If a plain KeyboardInterrupt passes through an ``exec``, as in dataclasses, the interpreter marks it as
    unhandled and in the end kills itself by SIGINT, whatever exit status it was given."""


@contextlib.contextmanager
def exit_when_asked(say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT end this process like an exit, with all its clean-up: they raise
    SystemExit (143) or :class:`Interrupted` wherever the process is.

    During the import of a module the process ends at once instead, because an exception in the middle of a library's
    native code aborts it. Either way, stages leave artefacts that they can resume from. Outside the main thread this
    has no effect, and a signal that is ignored or already handled stays so.

    Args:
      say: called with ``terminated`` or ``interrupted`` before the process ends at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            say("terminated")
            os._exit(TERMINATED)
        sys.exit(TERMINATED)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            say("interrupted")
            os._exit(INTERRUPTED)
        raise Interrupted

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported somewhere up the stack."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def end_with_parent(parent: int | None = None) -> None:
    """Ends this process soon after its parent is gone, however the parent ended.

    Otherwise children of a killed run would go on writing beside the run that replaces it, and the processes of a pool
    would wait for work for ever.

    Args:
      parent: process number of the parent, as the parent passed it; by default the current parent. A process that
        imports for seconds before it gets here may have lost its parent by then, and would watch another process.
    """
    expected = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
