"""Scripted players of the MiniWoB++ tasks: one that knows every page, and one that acts at random."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files

import numpy as np

from android_env.actions import Action, ActionType, Direction
from android_env.appium.chromium import script
from android_env.appium.device import AppiumDevice

DIRECTIONS: tuple[Direction, ...] = ("up", "down", "left", "right")


def oracle(device: AppiumDevice, rng: np.random.Generator | None = None) -> Action:
    """The next action of a player that knows the page; it reads the page itself, never the observation.

    Raises:
        DeviceFault: the page does not answer, or does not belong to the task set.
    """
    source = (files("android_env.devices.miniwob") / "oracles.js").read_text(encoding="utf-8")
    found = device.ask(lambda driver: script(driver, source))
    match found:
        case {"tap": [y, x]}:
            return Action.tap(y, x)
        case {"swipe": [start, end]}:
            return Action(ActionType.DUAL_POINT, tuple(start), tuple(end))
        case {"type": text}:
            return Action.type_text(text)
        case _:
            return Action.enter()


def by_chance(device: AppiumDevice, rng: np.random.Generator) -> Action:
    """Taps anywhere (6 in 10), types a word of the goal (2 in 10), swipes, or presses a key; never declares the end."""
    draw = rng.random()
    if draw < 0.6:
        return Action.tap(*rng.random(2))
    if draw < 0.8:
        words = re.findall(r"[\w.@'-]+", device.goal) or [""]
        return Action.type_text(words[rng.integers(len(words))])
    if draw < 0.9:
        return Action.swipe(DIRECTIONS[rng.integers(4)])
    return (Action.enter(), Action.back(), Action.home())[rng.integers(3)]


SCRIPTED: dict[str, Callable[[AppiumDevice, np.random.Generator], Action]] = {
    "oracle": oracle,
    "random": by_chance,
}
"""The players by name; each chooses the next action."""
