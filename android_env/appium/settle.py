"""Waits until the screen has stopped changing.

Two screenshots count as the same if few enough pixels differ, because a blinking cursor must not keep an episode
waiting. The status bar is left out, because its clock and icons change by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from android_env.clock import Clock, SystemClock
from android_env.faults import SettleTimeout


@dataclass(frozen=True)
class SettleConfig:
    """When a screen counts as settled.

    Raises:
        ValueError: a value is out of its range.
    """

    poll_s: float = 0.2
    """Pause between two screenshots, seconds."""
    stable_polls: int = 2
    """How many screenshots in a row must show the same as the one before, at least 1."""
    cap_s: float = 10.0
    """Longest wait, seconds."""
    status_bar: float = 0.05
    """Share of the height, from the top, that is ignored; in [0, 1)."""
    tolerance: int = 12
    """Channel values (0 to 255) that differ by at most this count as equal."""
    changed_share: float = 0.001
    """Screens count as the same if at most this share of the pixels differs."""
    allow_moving: bool = True
    """Whether a screen that never settles is noted and used as it is; False makes it a fault."""

    def __post_init__(self) -> None:
        if self.poll_s < 0 or self.cap_s < 0 or self.stable_polls < 1 or not 0 <= self.status_bar < 1:
            raise ValueError(
                f"{self}: poll_s and cap_s must be at least 0, stable_polls at least 1, status_bar in [0, 1)."
            )


SETTLE = SettleConfig()
"""The default configuration."""


@dataclass(frozen=True, eq=False)
class Settled:
    """The result of a wait."""

    screenshot: np.ndarray
    """uint8[H, W, 3], the last one taken."""
    wait_s: float
    """How long it took, seconds, screenshots included."""
    polls: int
    """Screenshots taken."""
    timed_out: bool
    """Whether the screen was still changing at the cap."""


def same_screen(a: np.ndarray, b: np.ndarray, config: SettleConfig = SETTLE) -> bool:
    """Whether two screenshots, uint8[H, W, 3], show the same below the status bar; never if their sizes differ."""
    if a.shape != b.shape:
        return False
    top = round(config.status_bar * a.shape[0])
    differs = np.abs(a[top:].astype(np.int16) - b[top:]).max(axis=-1) > config.tolerance
    return bool(np.mean(differs) <= config.changed_share)


def settle(
    take: Callable[[], np.ndarray], config: SettleConfig = SETTLE, clock: Clock | None = None
) -> Settled:
    """Takes screenshots until `stable_polls` in a row show the same as the one before.

    Raises:
        SettleTimeout: `allow_moving` is False and the screen did not settle within `cap_s`.
    """
    clock = clock or SystemClock()
    start = clock.now()
    last, polls, stable = take(), 1, 0
    while stable < config.stable_polls:
        if clock.now() - start >= config.cap_s:
            if not config.allow_moving:
                raise SettleTimeout(
                    f"the screen is still changing after {config.cap_s:g} s and {polls} screenshots"
                )
            return Settled(last, clock.now() - start, polls, True)
        clock.sleep(config.poll_s)
        new = take()
        polls += 1
        stable = stable + 1 if same_screen(last, new, config) else 0
        last = new
    return Settled(last, clock.now() - start, polls, False)
