"""Checks that the machine is quiet enough to measure: another busy process may slow one contestant's turn only."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

import psutil

MOST = 0.1
"""Share of the machine's cores that other processes may use."""


class Quiet:
    """Measures what other processes use while a block runs; refuses a machine that is busy before or during it.

    Args:
      anyway: report the figures even so; they say how busy the machine was.
    """

    def __init__(self, anyway: bool = False):
        self._anyway = anyway
        self.busy = 0.0
        """Share of the cores that other processes used during the block; set when it ends."""

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
            f"other processes used {busy:.0%} of this machine {when}; figures need at most {MOST:.0%}.",
            file=sys.stderr,
        )
        if not self._anyway:
            raise SystemExit(
                "nothing is reported; try again when the machine is quiet, or add --anyway to see the figures."
            )


def _now() -> tuple[float, float, float]:
    """CPU seconds of all processes, CPU seconds of this one with its children (including ended ones), and the time."""
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
