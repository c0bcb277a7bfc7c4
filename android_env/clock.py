"""The clock by which the code waits for devices."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A replaceable source of time, so that tests need not wait."""

    def now(self) -> float:
        """Seconds since an arbitrary moment; never decreases."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits this long."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
