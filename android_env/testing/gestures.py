"""How Android interprets a finger: tap, double tap, long press, drag, swipe or fling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

LONG_PRESS_MS = 400.0
"""A finger that has not moved for this long makes a long press (`ViewConfiguration.getLongPressTimeout`)."""
TOUCH_SLOP_DP = 8.0
"""A finger that stays within this distance has not moved (`ViewConfiguration.getScaledTouchSlop`)."""
FLING_DP_PER_S = 50.0
"""A finger that lifts at least this fast makes a fling (`getScaledMinimumFlingVelocity`)."""
VELOCITY_WINDOW_MS = 100.0
"""The last part of the path, over which the speed at the lift is measured (`VelocityTracker`)."""

DOUBLE_TAP_MS = 300.0
"""A second tap that begins within this time makes a double tap (`getDoubleTapTimeout`)."""

_FRAME_MS = 10.0


@dataclass(frozen=True)
class Gesture:
    """The gesture of one finger, from touch to lift."""

    kind: Literal["tap", "double_tap", "long_press", "drag", "swipe", "fling"]
    touch_yx: tuple[float, float]
    """Where it touched, pixels."""
    lift_yx: tuple[float, float]
    held_ms: float
    """Time from touch to lift."""


def read_gesture(sources: list[dict[str, Any]], *, pixels_per_dp: float) -> Gesture:
    """The gesture of a W3C `actions` list with one pointer that touches and lifts once, or twice for a double tap.

    Raises:
        ValueError: it is not such a list; the message says what is wrong, as a server would.
    """
    pointers = [source for source in sources if source.get("type") == "pointer"]
    if len(pointers) != 1:
        raise ValueError(f"expected one pointer, got {len(pointers)}")
    now = x = y = 0.0
    path: list[tuple[float, float, float]] = []  # (ms, y, x) while the finger is down
    lifted = False
    steps = list(pointers[0]["actions"])
    ups = [number for number, step in enumerate(steps) if step.get("type") == "pointerUp"]
    if len(ups) > 1:
        first, second = steps[: ups[0] + 1], steps[ups[0] + 1 :]
        between = 0.0
        for step in second:
            if step.get("type") == "pointerDown":
                break
            between += float(step.get("duration") or 0)
        begun = read_gesture([{**pointers[0], "actions": first}], pixels_per_dp=pixels_per_dp)
        if len(ups) > 2 or begun.kind != "tap" or between > DOUBLE_TAP_MS:
            raise ValueError("the pointer goes down more than once without a double tap")
        return Gesture("double_tap", begun.touch_yx, begun.touch_yx, begun.held_ms)
    for step in steps:
        duration = float(step.get("duration") or 0)
        match step.get("type"):
            case "pointerDown":
                path.append((now, y, x))
            case "pointerUp":
                lifted = True
                path.append((now, y, x))
            case "pause":
                now += duration
            case "pointerMove":
                if step.get("origin", "viewport") not in ("viewport", "pointer"):
                    raise ValueError(f"unknown origin {step['origin']!r}")
                relative = step.get("origin") == "pointer"
                to_y, to_x = step["y"] + relative * y, step["x"] + relative * x
                frames = max(1, round(duration / _FRAME_MS)) if path else 1
                for frame in range(1, frames + 1):
                    if path:
                        share = frame / frames
                        at = now + share * duration
                        path.append((at, y + share * (to_y - y), x + share * (to_x - x)))
                now, y, x = now + duration, to_y, to_x
            case other:
                raise ValueError(f"unknown pointer action {other!r}")
        if lifted:
            break
    if not lifted or len(path) < 2:
        raise ValueError("the pointer never came down and up")
    return _judge(path, pixels_per_dp)


def _judge(path: list[tuple[float, float, float]], pixels_per_dp: float) -> Gesture:
    (start, y0, x0), (end, y1, x1) = path[0], path[-1]
    slop = TOUCH_SLOP_DP * pixels_per_dp
    moved_at = next((t for t, y, x in path if ((y - y0) ** 2 + (x - x0) ** 2) ** 0.5 > slop), None)
    kind: Literal["tap", "double_tap", "long_press", "drag", "swipe", "fling"]
    if moved_at is None:
        kind = "tap" if end - start < LONG_PRESS_MS else "long_press"
    elif moved_at - start >= LONG_PRESS_MS:
        kind = "drag"
    else:
        since = next((t, y, x) for t, y, x in path if t >= end - VELOCITY_WINDOW_MS)
        distance = ((y1 - since[1]) ** 2 + (x1 - since[2]) ** 2) ** 0.5
        speed = distance / max(end - since[0], 1.0) * 1000
        kind = "fling" if speed >= FLING_DP_PER_S * pixels_per_dp else "swipe"
    return Gesture(kind, (y0, x0), (y1, x1), end - start)
