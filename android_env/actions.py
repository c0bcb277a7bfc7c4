"""The action space of Android in the Wild (AitW), its text form, and its rule for when two actions match.

Ids, thresholds and matching are those of google-research/android_in_the_wild (`action_type.py`, `action_matching.py`).
All points are (y, x), as fractions of the screen's height and width in [0, 1].
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from android_env.errors import ActionError

Point = tuple[float, float]
"""(y, x), fractions of the screen; (-1, -1) where an action has no point."""

Direction = Literal["up", "down", "left", "right"]

NO_POINT: Point = (-1.0, -1.0)
SWIPE_DISTANCE = 0.04
"""A DUAL_POINT moving at most this far (fraction of the screen) is a tap (`_SWIPE_DISTANCE_THRESHOLD`)."""
TAP_MATCH_DISTANCE = 0.14
"""Taps at most this far apart match (`_TAP_DISTANCE_THRESHOLD`)."""
BOX_AUGMENT = 1.4
"""Boxes grow by this fraction of their size, that is, to 2.4 times it (`ANNOTATION_*_AUGMENT_FRACTION`)."""


class ActionType(IntEnum):
    """AitW ids; ids from 100 up are extensions, for devices that support them."""

    TYPE = 3
    """Sends text to the focused field; never presses enter."""
    DUAL_POINT = 4
    """A tap or a swipe."""
    PRESS_BACK = 5
    PRESS_HOME = 6
    PRESS_ENTER = 7
    STATUS_TASK_COMPLETE = 10
    STATUS_TASK_IMPOSSIBLE = 11
    LONG_PRESS = 100
    OPEN_APP = 101
    WAIT = 102
    """Only waits until the screen has settled."""
    ANSWER = 103
    """Gives an answer to the user; nothing happens on the screen."""
    RECENT_APPS = 104
    DOUBLE_TAP = 105
    DRAG = 106
    """Long-presses an element and drops it elsewhere; a DUAL_POINT with the same points would scroll."""

    @property
    def words(self) -> str:
        """Its name in running text: "back" for ``PRESS_BACK``, "task complete" for ``STATUS_TASK_COMPLETE``."""
        return self.name.lower().removeprefix("press_").removeprefix("status_").replace("_", " ")


AITW_TYPES = frozenset(kind for kind in ActionType if kind < 100)
"""The actions of Android in the Wild, which every device supports."""
TOUCH_TYPES = frozenset(
    {ActionType.DUAL_POINT, ActionType.LONG_PRESS, ActionType.DOUBLE_TAP, ActionType.DRAG}
)
_LIFTING = frozenset({ActionType.DUAL_POINT, ActionType.DRAG})
TEXT_TYPES = frozenset({ActionType.TYPE, ActionType.OPEN_APP, ActionType.ANSWER})

_FLOATS = struct.Struct("2f")
# Finger direction → touch and lift points, (y, x).
_SWIPES: dict[str, tuple[Point, Point]] = {
    "up": ((0.8, 0.5), (0.2, 0.5)),
    "down": ((0.2, 0.5), (0.8, 0.5)),
    "left": ((0.5, 0.8), (0.5, 0.2)),
    "right": ((0.5, 0.2), (0.5, 0.8)),
}


@dataclass(frozen=True, slots=True)
class Action:
    """One action of an agent.

    Coordinates are rounded to float32, and fields that the type does not use are reset to their defaults, so that
    equal actions compare and hash equal, also after storage. A LONG_PRESS and a DOUBLE_TAP lift where they touch.

    Raises:
        ActionError: the type is unknown, or a used point is not in [0, 1] × [0, 1].
    """

    type: ActionType
    touch_yx: Point = NO_POINT
    lift_yx: Point = NO_POINT
    text: str = ""

    def __post_init__(self) -> None:
        try:
            kind = ActionType(self.type)
        except ValueError:
            known = ", ".join(f"{t.value} {t.name}" for t in ActionType)
            raise ActionError(f"action type {self.type!r} is unknown; use one of: {known}.") from None
        touch = lift = NO_POINT
        if kind in TOUCH_TYPES:
            touch = _screen_point(self.touch_yx, "touch_yx")
            lift = _screen_point(self.lift_yx, "lift_yx") if kind in _LIFTING else touch
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "touch_yx", touch)
        object.__setattr__(self, "lift_yx", lift)
        text = str(self.text) if kind in TEXT_TYPES else ""
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            # Half a character, as in a model's truncated output: neither a file nor a screen can hold it.
            raise ActionError(f"the text {text!r} ends or breaks off inside a character (a lone surrogate).")
        object.__setattr__(self, "text", text)

    @classmethod
    def tap(cls, y: float, x: float) -> Action:
        """A tap at (y, x), fractions of the screen."""
        return cls(ActionType.DUAL_POINT, (y, x), (y, x))

    @classmethod
    def swipe(cls, direction: Direction) -> Action:
        """A swipe through the middle of the screen; `direction` is the finger's (up shows what lies below)."""
        if direction not in _SWIPES:
            raise ActionError(f"swipe direction {direction!r} is unknown; use one of: {', '.join(_SWIPES)}.")
        return cls(ActionType.DUAL_POINT, *_SWIPES[direction])

    @classmethod
    def type_text(cls, text: str) -> Action:
        """Types into the focused field."""
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
        """Declares the task done; ends the episode."""
        return cls(ActionType.STATUS_TASK_COMPLETE)

    @classmethod
    def impossible(cls) -> Action:
        """Declares the task impossible; ends the episode."""
        return cls(ActionType.STATUS_TASK_IMPOSSIBLE)

    @classmethod
    def long_press(cls, y: float, x: float) -> Action:
        """A finger held for a second at (y, x), fractions of the screen."""
        return cls(ActionType.LONG_PRESS, (y, x))

    @classmethod
    def double_tap(cls, y: float, x: float) -> Action:
        """Two taps in quick succession at (y, x), fractions of the screen."""
        return cls(ActionType.DOUBLE_TAP, (y, x))

    @classmethod
    def drag(cls, touch_yx: Point, lift_yx: Point) -> Action:
        """Long-presses one point, then drops what it holds at another."""
        return cls(ActionType.DRAG, touch_yx, lift_yx)

    @classmethod
    def open_app(cls, name: str) -> Action:
        """Opens an app by the name under its icon, or by its package."""
        return cls(ActionType.OPEN_APP, text=name)

    @classmethod
    def wait(cls) -> Action:
        return cls(ActionType.WAIT)

    @classmethod
    def answer(cls, text: str) -> Action:
        """Gives an answer to the user who set the task."""
        return cls(ActionType.ANSWER, text=text)

    @classmethod
    def recent_apps(cls) -> Action:
        return cls(ActionType.RECENT_APPS)

    @property
    def is_tap(self) -> bool:
        """A DUAL_POINT whose ends lie at most `SWIPE_DISTANCE` apart."""
        if self.type is not ActionType.DUAL_POINT:
            return False
        same = self.touch_yx == self.lift_yx
        return same or bool(_distance(self.touch_yx, self.lift_yx) <= np.float32(SWIPE_DISTANCE))

    @property
    def is_swipe(self) -> bool:
        """A DUAL_POINT that is not a tap."""
        return self.type is ActionType.DUAL_POINT and not self.is_tap

    @property
    def swipe_direction(self) -> Direction | None:
        """The finger's direction along the main axis; None if this is not a swipe."""
        if not self.is_swipe:
            return None
        dy, dx = _deltas(self.touch_yx, self.lift_yx)
        if abs(dy) >= abs(dx):
            return "up" if dy < 0 else "down"
        return "left" if dx < 0 else "right"

    @property
    def ends_episode(self) -> bool:
        """Whether this declares the task complete or impossible."""
        return self.type in (ActionType.STATUS_TASK_COMPLETE, ActionType.STATUS_TASK_IMPOSSIBLE)

    def __str__(self) -> str:
        return format_action(self)


@dataclass(frozen=True, slots=True)
class ParseError:
    """A string that is not an action. This is the agent's error, so it is not an exception."""

    string: str
    reason: str
    """What is wrong with it."""


def format_action(action: Action) -> str:
    """The action as text, in the notation of Auto-UI and DigiRL.

    For example `"action_type": "DUAL_POINT", "touch_point": "[0.5, 0.25]", "lift_point": "[0.5, 0.25]",
    "typed_text": ""`. Texts are escaped as in JSON; coordinates have the fewest digits that give the same float32.
    """
    return (
        f'"action_type": "{action.type.name}", '
        f'"touch_point": "{_format_point(action.touch_yx)}", '
        f'"lift_point": "{_format_point(action.lift_yx)}", '
        f'"typed_text": {json.dumps(action.text, ensure_ascii=False)}'
    )


def parse_action(string: str) -> Action | ParseError:
    """Reads what `format_action` writes, and what upstream models write in the same notation.

    It also accepts text before `Action Decision:`, fields in any order, points as lists instead of strings, a
    surrounding pair of braces, lower-case type names, missing points where the type needs none, and a final
    `typed_text` with unescaped quotes. Nothing is evaluated, and no string raises an exception.
    """
    rest = string.strip()
    if not rest.startswith(('"', "{")):
        _, decision, after = rest.partition("Action Decision:")
        if not decision:
            return ParseError(string, 'it does not start with "action_type" or hold "Action Decision:"')
        rest = after.strip()
    if rest.startswith("{") and rest.endswith("}"):
        rest = rest[1:-1].strip()
    fields = _parse_fields(rest)
    if isinstance(fields, str):
        return ParseError(string, fields)
    name = fields.get("action_type")
    if name is None:
        return ParseError(string, 'the field "action_type" is missing')
    if not isinstance(name, str) or name.upper() not in ActionType.__members__:
        return ParseError(string, f"the action type {name!r} is unknown")
    kind = ActionType[name.upper()]
    points = {}
    for key in ("touch_point", "lift_point"):
        value = fields.get(key, NO_POINT)
        point = _read_point(value) if isinstance(value, str) else value
        if point is None:
            return ParseError(string, f'"{key}" is not of the form "[y, x]"')
        points[key] = point
    text = fields.get("typed_text", "")
    if not isinstance(text, str):
        return ParseError(string, '"typed_text" is not a string')
    if kind in TOUCH_TYPES and "lift_point" not in fields:
        points["lift_point"] = points["touch_point"]
    try:
        return Action(kind, points["touch_point"], points["lift_point"], text)
    except ActionError as error:
        return ParseError(string, str(error))


def actions_match(a: Action, b: Action, boxes_yxhw: Sequence[Sequence[float]] | np.ndarray = ()) -> bool:
    """Whether two actions count as the same on one screen (`action_matching.check_actions_match` of AitW).

    If either is not a DUAL_POINT, only the types are compared, not the texts. Two taps match if they are within
    `TAP_MATCH_DISTANCE` or both lie inside one box grown to 2.4 times its size. Two swipes match if their main axes
    are the same, in either direction. A tap never matches a swipe.

    Args:
        a: one action.
        b: the other; the relation is symmetric.
        boxes_yxhw: [n, 4], boxes of the screen's elements as (top, left, height, width), fractions of the screen.
    """
    if a.type is not ActionType.DUAL_POINT or b.type is not ActionType.DUAL_POINT:
        return a.type == b.type
    if a.is_tap != b.is_tap:
        return False
    if a.is_swipe:
        return _main_axis(a) == _main_axis(b)
    if _distance(a.touch_yx, b.touch_yx) <= np.float32(TAP_MATCH_DISTANCE):
        return True
    boxes = np.asarray(boxes_yxhw, np.float32).reshape(-1, 4)
    grown = np.float32(BOX_AUGMENT) * boxes[:, 2:]
    start = np.maximum(0, boxes[:, :2] - grown / 2)
    # As upstream: the size, not the far edge, is clipped at 1.
    end = start + np.minimum(1, boxes[:, 2:] + grown)
    inside = [
        np.all((start <= p) & (p <= end), axis=1) for p in np.asarray([a.touch_yx, b.touch_yx], np.float32)
    ]
    return bool(np.any(inside[0] & inside[1]))


def _screen_point(point: Sequence[float], name: str) -> Point:
    try:
        y, x = _FLOATS.unpack(_FLOATS.pack(*point))
    except (struct.error, OverflowError, TypeError):
        y = x = math.nan
    if not (0.0 <= y <= 1.0 and 0.0 <= x <= 1.0):
        raise ActionError(f"{name} {point!r} is not (y, x) with both in [0, 1].")
    return y + 0.0, x + 0.0  # turns -0.0 into 0.0


def _deltas(a: Point, b: Point) -> tuple[np.float32, np.float32]:
    # In float32, as upstream, so that thresholds and ties fall the same way.
    return np.float32(b[0]) - np.float32(a[0]), np.float32(b[1]) - np.float32(a[1])


def _distance(a: Point, b: Point) -> np.float32:
    dy, dx = _deltas(a, b)
    return np.sqrt(dy * dy + dx * dx)


def _main_axis(action: Action) -> int:
    dy, dx = _deltas(action.touch_yx, action.lift_yx)
    return int(abs(dx) > abs(dy))


def _format_point(point: Point) -> str:
    y, x = (np.format_float_positional(np.float32(v), unique=True, trim="0") for v in point)
    return f"[{y}, {x}]"


_STRINGS = json.JSONDecoder(strict=False)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_POINT = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]", re.ASCII)
_KEY = re.compile(r'\s*"(action_type|touch_point|lift_point|typed_text)"\s*:\s*')
_SEPARATOR = re.compile(r"\s*(,|$)")


def _read_point(text: str) -> Point | None:
    match = _POINT.fullmatch(text.strip())
    return _point(match) if match else None


def _point(match: re.Match[str]) -> Point | None:
    y, x = float(match[1]), float(match[2])
    return (y, x) if math.isfinite(y) and math.isfinite(x) else None


def _parse_fields(text: str) -> dict[str, str | Point] | str:
    """The fields of `"key": value, ...`; on failure, a string that says what is wrong."""
    fields: dict[str, str | Point] = {}
    at = 0
    while at < len(text):
        key = _KEY.match(text, at)
        if not key:
            return f"expected one of the four field names at {text[at : at + 20]!r}"
        if key[1] in fields:
            return f'the field "{key[1]}" comes twice'
        value, at = _parse_value(text, key.end())
        separator = _SEPARATOR.match(text, at) if value is not None else None
        if separator is None and key[1] == "typed_text" and text[key.end() : key.end() + 1] == '"':
            # Upstream models do not escape quotes, so the last field ends at the string's last quote.
            end = text.rfind('"')
            if end > key.end() and not text[end + 1 :].strip():
                fields["typed_text"] = text[key.end() + 1 : end]
                return fields
        if value is None or separator is None:
            return f'the value of "{key[1]}" cannot be read'
        fields[key[1]], at = value, separator.end()
    return fields


def _parse_value(text: str, at: int) -> tuple[str | Point | None, int]:
    """The string or point that starts at `at`, or None if there is none, and where it ends."""
    if text[at : at + 1] == '"':
        try:
            return _STRINGS.raw_decode(text, at)
        except ValueError:
            return None, at
    match = _POINT.match(text, at)
    return (_point(match), match.end()) if match else (None, at)
