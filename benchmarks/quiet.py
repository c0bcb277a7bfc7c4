"""Whether a machine is quiet enough for figures: another busy process falls on one contestant's turn and not on the other's."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

import psutil

MOST = 0.1
"""Share of the machine's cores that others may use."""


class Quiet:
    """Measures what other processes use while a block runs; a context manager that refuses a busy machine at both ends.

    Args:
      anyway: report all the same; the figures say how busy the machine was.
    """

    def __init__(self, anyway: bool = False):
        self._anyway = anyway
        self.busy = 0.0
        """Share of the cores that others used during the block, once it has ended."""

    def __enter__(self) -> Quiet:
        self._refuse(psutil.cpu_percent(interval=2.0) / 100, "before the first turn")
        self._start = _now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        total, ours, seconds = (b - a for a, b in zip(self._start, _now(), strict=True))
        self.busy = max(0.0, total - ours) / (seconds * (os.cpu_count() or 1))
        if kind is None:
            self._refuse(self.busy, "while it ran")

    def _refuse(self, busy: float, when: str) -> None:
        if busy <= MOST:
            return
        print(
            f"other processes used {busy:.0%} of this machine {when}; at most {MOST:.0%} gives figures.",
            file=sys.stderr,
        )
        if not self._anyway:
            raise SystemExit(
                "nothing is reported; try again when it is quiet, or add --anyway to look at the figures."
            )


def _now() -> tuple[float, float, float]:
    """CPU seconds of all processes, of this one with its children (those that ended included), and the time."""
    times = psutil.cpu_times()
    own = os.times()
    ours = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.Error:
            continue
        ours += used.user + used.system
    return times.user + times.nice + times.system, ours, time.monotonic()
