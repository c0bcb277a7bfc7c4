"""Processes that work for another one."""

import os
import threading
import time

_LOOK_EVERY = 0.5  # seconds


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
