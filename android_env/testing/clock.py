"""Time that passes only when someone sleeps."""

from __future__ import annotations


class FakeClock:
    """Starts at 0; `sleep` advances it and returns at once."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
