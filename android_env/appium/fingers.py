"""A finger on the screen, as W3C actions, which all dialects use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from android_env.appium.device import command

DOWN = {"type": "pointerDown", "button": 0}
UP = {"type": "pointerUp", "button": 0}


def move(to: tuple[int, int], ms: int = 0) -> dict[str, Any]:
    """Moves to (y, x), in the driver's own coordinates, within this time."""
    return {"type": "pointerMove", "duration": ms, "origin": "viewport", "y": to[0], "x": to[1]}


def pause(ms: int) -> dict[str, Any]:
    """Stays where it is for this time."""
    return {"type": "pause", "duration": ms}


def finger(driver: Any, *steps: Mapping[str, Any]) -> None:
    """Makes one finger perform the steps in order."""
    touch = {"pointerType": "touch"}
    steps_of_one = {"type": "pointer", "id": "finger", "parameters": touch, "actions": list(steps)}
    command(driver, "actions", {"actions": [steps_of_one]})
