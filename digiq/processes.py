"""Processes that work for another one, and the cores there are for them."""

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
"""Exit status of a process that SIGINT or SIGTERM ended: 128 and the signal's number, as shells have it."""
_LOOK_EVERY = 0.5  # seconds


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; all there are where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. Of a plain KeyboardInterrupt that passes through an ``exec`` on its way, as dataclasses have them, the
    interpreter remembers that nobody handled it, and in the end kills itself whatever status it was told."""


@contextlib.contextmanager
def exit_when_asked(say: Callable[[str], None]) -> Iterator[None]:
    """Has SIGTERM and SIGINT end this process as an exit does, with everything that cleans up, while the block runs:
    SystemExit (143) or :class:`Interrupted` is raised wherever it is.

    While a module is being imported the process ends at once instead: an exception in the middle of a library's native code
    aborts it. Ended either way, stages leave artefacts that they resume from. Outside the main thread it changes nothing,
    and a signal that is ignored, or that somebody else handles, stays so.

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
    """Ends this process soon after the one that started it is gone, however that ended.

    Args:
      parent: its number, as it says itself; where it does not, whoever is the parent now. A process that imports for
        seconds before it gets here may have lost its parent by then, and would take another for it.

    Otherwise what a killed run had started would go on writing beside the run that takes its place, and a pool's
    processes would wait for work for ever.
    """
    expected = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
