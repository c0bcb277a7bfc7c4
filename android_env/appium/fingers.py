"""A finger on the screen, as W3C actions; all dialects speak them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from android_env.appium.device import command

DOWN = {"type": "pointerDown", "button": 0}
UP = {"type": "pointerUp", "button": 0}


def move(to: tuple[int, int], ms: int = 0) -> dict[str, Any]:
    """To (y, x) of the driver's own coordinates, in this time."""
    return {"type": "pointerMove", "duration": ms, "origin": "viewport", "y": to[0], "x": to[1]}


def pause(ms: int) -> dict[str, Any]:
    """Rests where it is."""
    return {"type": "pause", "duration": ms}


def finger(driver: Any, *steps: Mapping[str, Any]) -> None:
    """Makes one finger do the steps, in this order."""
    touch = {"pointerType": "touch"}
    steps_of_one = {"type": "pointer", "id": "finger", "parameters": touch, "actions": list(steps)}
    command(driver, "actions", {"actions": [steps_of_one]})
