"""Processes that work for another one, and the cores there are for them."""

import os
import threading
import time

_LOOK_EVERY = 0.5  # seconds


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; all there are where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def end_with_parent() -> None:
    """Ends this process soon after the one that started it is gone, however that ended.

    Otherwise what a killed run had started would go on writing beside the run that takes its place, and a pool's
    processes would wait for work for ever.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
