"""Processes that work for another one, and the cores there are for them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

TERMINATED = 143
"""Exit status of a process that SIGTERM ended: 128 and the signal's number, as shells have it."""
_LOOK_EVERY = 0.5  # seconds


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; all there are where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Has SIGTERM end this process as an exit does, with everything that cleans up, while the block runs.

    Ended so, stages leave artefacts that they resume from. Outside the main thread it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
