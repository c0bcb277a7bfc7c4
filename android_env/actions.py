"""The action space of Android in the Wild (AitW), its text form, and AitW's matching of two actions.

Points are (y, x) in [0, 1]. A tap and a swipe are both a DUAL_POINT: the finger goes down at ``touch_yx`` and up at
``lift_yx``. Ids from 100 up are extensions that only some devices have.

Source: google-research/android_in_the_wild, ``action_type.py`` and ``action_matching.py``.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
UNUSED: Final[Point] = (-1.0, -1.0)
TAP_DISTANCE: Final = 0.04
"""A DUAL_POINT whose ends are at most so far apart is a tap (AitW ``_SWIPE_DISTANCE_THRESHOLD``)."""
MATCH_DISTANCE: Final = 0.14
"""Taps at most so far apart match (AitW ``_TAP_DISTANCE_THRESHOLD``)."""
BOX_ENLARGEMENT: Final = 1.4
"""Boxes grow by this fraction of their size, so to 2.4 times it (AitW ``ANNOTATION_*_AUGMENT_FRACTION``)."""


class ActionType(enum.IntEnum):
    """AitW's ids, then extensions."""

    TYPE = 3
    DUAL_POINT = 4
    PRESS_BACK = 5
    PRESS_HOME = 6
    PRESS_ENTER = 7
    STATUS_TASK_COMPLETE = 10
    STATUS_TASK_IMPOSSIBLE = 11
    LONG_PRESS = 100
    OPEN_APP = 101
    WAIT = 102
    ANSWER = 103


AITW_TYPES: Final = tuple(t for t in ActionType if t < 100)
_TOUCHING = (ActionType.DUAL_POINT, ActionType.LONG_PRESS)
_WORDED = (ActionType.TYPE, ActionType.OPEN_APP, ActionType.ANSWER)
# Where a swipe starts and ends: the finger moves half a screen through the middle.
_SWIPES: Final[dict[str, tuple[Point, Point]]] = {
    "up": ((0.75, 0.5), (0.25, 0.5)),
    "down": ((0.25, 0.5), (0.75, 0.5)),
    "left": ((0.5, 0.75), (0.5, 0.25)),
    "right": ((0.5, 0.25), (0.5, 0.75)),
}


@dataclasses.dataclass(frozen=True)
class Action:
    """One action; build it with the constructors below.

    ``touch_yx`` and ``lift_yx`` are float32 values in [0, 1], or (-1, -1) where the type has no point. ``text`` is
    what TYPE types (it never presses ENTER), OPEN_APP opens or ANSWER answers.

    Raises:
      ValueError: a point outside the screen, or a point or text where the type has none.
    """

    type: ActionType
    touch_yx: Point = UNUSED
    lift_yx: Point = UNUSED
    text: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", ActionType(self.type))
        for name in ("touch_yx", "lift_yx"):
            y, x = (float(np.float32(v)) for v in getattr(self, name))
            object.__setattr__(self, name, (y, x))
            inside = 0.0 <= y <= 1.0 and 0.0 <= x <= 1.0
            if self.type in _TOUCHING and not inside:
                raise ValueError(f"{self.type.name}: {name} = {(y, x)} is outside the screen; use [0, 1].")
            if self.type not in _TOUCHING and (y, x) != UNUSED:
                raise ValueError(f"{self.type.name} has no point, but {name} = {(y, x)}.")
        if self.text and self.type not in _WORDED:
            raise ValueError(f"{self.type.name} has no text, but text = {self.text!r}.")

    @classmethod
    def tap(cls, y: float, x: float) -> Action:
        """A tap at (y, x)."""
        return cls(ActionType.DUAL_POINT, (y, x), (y, x))

    @classmethod
    def swipe(cls, direction: str) -> Action:
        """The finger moves ``up``, ``down``, ``left`` or ``right`` (so ``up`` scrolls a list forward)."""
        if direction not in _SWIPES:
            raise ValueError(f"swipe direction {direction!r} is unknown; use one of {', '.join(_SWIPES)}.")
        return cls(ActionType.DUAL_POINT, *_SWIPES[direction])

    @classmethod
    def type_text(cls, text: str) -> Action:
        """Types ``text`` into the focused field."""
        return cls(ActionType.TYPE, text=text)

    @classmethod
    def back(cls) -> Action:
        return cls(ActionType.PRESS_BACK)

    @classmethod
    def home(cls) -> Action:
        return cls(ActionType.PRESS_HOME)

    @classmethod
    def enter(cls) -> Action:
        return cls(ActionType.PRESS_ENTER)

    @classmethod
    def complete(cls) -> Action:
        return cls(ActionType.STATUS_TASK_COMPLETE)

    @classmethod
    def impossible(cls) -> Action:
        return cls(ActionType.STATUS_TASK_IMPOSSIBLE)

    @property
    def is_tap(self) -> bool:
        """A DUAL_POINT whose ends are within ``TAP_DISTANCE``."""
        return self.type is ActionType.DUAL_POINT and math.dist(self.touch_yx, self.lift_yx) <= TAP_DISTANCE

    @property
    def is_swipe(self) -> bool:
        """A DUAL_POINT that is no tap."""
        return self.type is ActionType.DUAL_POINT and not self.is_tap

    @property
    def swipe_direction(self) -> str:
        """The main axis and sense of a swipe: ``up``, ``down``, ``left`` or ``right``.

        Raises:
          ValueError: the action is no swipe.
        """
        if not self.is_swipe:
            raise ValueError(f"{format_action(self)} is not a swipe, so it has no direction.")
        dy, dx = self.lift_yx[0] - self.touch_yx[0], self.lift_yx[1] - self.touch_yx[1]
        if abs(dy) > abs(dx):
            return "up" if dy < 0 else "down"
        return "left" if dx < 0 else "right"


@dataclasses.dataclass(frozen=True)
class ParseError:
    """Why a string is no action. A value, because an agent's bad output is data."""

    text: str
    reason: str


def format_action(action: Action) -> str:
    """The text of an action, e.g. ``DUAL_POINT touch=(0.5, 0.25) lift=(0.5, 0.25)`` or ``TYPE "cheap, red"``."""
    if action.type in _TOUCHING:
        (ty, tx), (ly, lx) = action.touch_yx, action.lift_yx
        return f"{action.type.name} touch=({_number(ty)}, {_number(tx)}) lift=({_number(ly)}, {_number(lx)})"
    if action.type in _WORDED:
        return f"{action.type.name} {json.dumps(action.text)}"
    return action.type.name


_NUMBER = r"([0-9.eE+-]+)"
_POINTS = re.compile(rf"touch=\({_NUMBER}, *{_NUMBER}\) +lift=\({_NUMBER}, *{_NUMBER}\)")


def parse_action(text: str) -> Action | ParseError:
    """Reads what :func:`format_action` writes; anything else gives a :class:`ParseError` that says why."""
    name, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if name not in ActionType.__members__:
        return ParseError(
            text, f"{name[:40]!r} is not an action type; known: {', '.join(ActionType.__members__)}"
        )
    kind = ActionType[name]
    try:
        if kind in _TOUCHING:
            match = _POINTS.fullmatch(rest)
            if match is None:
                return ParseError(text, f"{name} needs 'touch=(y, x) lift=(y, x)', got {rest[:60]!r}")
            ty, tx, ly, lx = map(float, match.groups())
            return Action(kind, (ty, tx), (ly, lx))
        if kind in _WORDED:
            value = json.loads(rest) if rest else None
            if not isinstance(value, str):
                return ParseError(text, f'{name} needs a quoted text, e.g. {name} "hello", got {rest[:60]!r}')
            return Action(kind, text=value)
    except (ValueError, OverflowError, RecursionError) as error:
        return ParseError(text, f"{name}: {error}")
    return Action(kind) if not rest else ParseError(text, f"{name} takes nothing, got {rest[:60]!r}")


def actions_match(a: Action, b: Action, boxes_yxhw: npt.ArrayLike | Sequence[Sequence[float]] = ()) -> bool:
    """AitW's ``check_actions_match``: whether two actions count as the same.

    Other types match on the type alone. Two taps match when they are within 0.14 of each other, or when both lie in
    one UI box enlarged to 2.4 times its size. Two swipes match when their main axes (touch to lift) agree.

    Args:
      a, b: the actions.
      boxes_yxhw: UI boxes [N, 4] as (y, x, height, width), normalised.
    """
    if a.type is not b.type:
        return False
    if a.type not in _TOUCHING:
        return True
    if a.is_swipe != b.is_swipe:
        return False
    if a.is_swipe:
        return _main_axis(a) == _main_axis(b)
    if math.dist(a.touch_yx, b.touch_yx) <= MATCH_DISTANCE:
        return True
    boxes = np.asarray(boxes_yxhw, np.float64).reshape(-1, 4)
    top = np.maximum(0, boxes[:, 0] - boxes[:, 2] * BOX_ENLARGEMENT / 2)
    left = np.maximum(0, boxes[:, 1] - boxes[:, 3] * BOX_ENLARGEMENT / 2)
    bottom = np.minimum(1, top + boxes[:, 2] * (1 + BOX_ENLARGEMENT))
    right = np.minimum(1, left + boxes[:, 3] * (1 + BOX_ENLARGEMENT))

    def inside(point: Point) -> npt.NDArray[np.bool_]:
        y, x = point
        return (top <= y) & (y <= bottom) & (left <= x) & (x <= right)

    return bool(np.any(inside(a.touch_yx) & inside(b.touch_yx)))


def _main_axis(action: Action) -> str:
    dy = abs(action.lift_yx[0] - action.touch_yx[0])
    dx = abs(action.lift_yx[1] - action.touch_yx[1])
    return "vertical" if dy > dx else "horizontal"


def _number(value: float) -> str:
    # Nine significant digits give every float32 back.
    return f"{value:.9g}"
