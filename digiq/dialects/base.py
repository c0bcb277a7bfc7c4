"""What dialects share: the protocol, conversion of coordinates, and the one place where named actions become ours."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from android_env.actions import Action, ActionType, Direction, ParseError, Point
from android_env.errors import ActionError

Coordinates = Literal["pixels", "thousandths", "fractions", "resized"]
"""``pixels`` of the screenshot, 0 to 1000, 0 to 1, or ``resized``: pixels of the image as Qwen2.5-VL's processor sizes it."""
SLIGHT = 0.005
"""A coordinate outside the screen by at most this fraction of it is moved onto the edge."""
_FACTOR, _MIN_PIXELS, _MAX_PIXELS = 28, 100 * 28 * 28, 16384 * 28 * 28
_OPPOSITE: dict[str, Direction] = {"up": "down", "down": "up", "left": "right", "right": "left"}
_REACH = 0.3  # fraction of the screen that a swipe from a point covers
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

Screen = tuple[int, int]
"""Height and width in pixels of the screenshot that the agent was shown."""


class Dialect(Protocol):
    """A member of :data:`digiq.dialects.DIALECTS`: a frozen config whose fields are its settings."""

    def parse(self, text: str, screen: Screen) -> Action | ParseError:
        """Parses an agent's answer into an action.

        Args:
          text: the agent's answer, including its thoughts.
          screen: height and width of the screenshot that it was shown, in pixels.

        Returns:
          The first action that the text names, or a ParseError that says why there is none. It never raises, whatever
          the text.
        """
        ...

    def write(self, action: Action, screen: Screen) -> str:
        """The action as an agent of this dialect writes it; :meth:`parse` can read it back.

        Raises:
          ActionError: the dialect has no word for it.
        """
        ...

    @property
    def manual(self) -> str:
        """Explains the dialect to an agent that does not know it: the available actions, and how to write them."""
        ...


class Unsaid(ValueError):
    """An answer that cannot become an action; the message gives the reason."""


def resized(screen: Screen) -> Screen:
    """Height and width that Qwen2.5-VL's processor gives an image (``smart_resize`` of qwen-vl-utils and UI-TARS)."""
    height, width = screen
    h, w = (max(_FACTOR, round(side / _FACTOR) * _FACTOR) for side in screen)
    if h * w > _MAX_PIXELS:
        scale = math.sqrt(height * width / _MAX_PIXELS)
        return tuple(max(_FACTOR, math.floor(s / scale / _FACTOR) * _FACTOR) for s in screen)  # type: ignore[return-value]
    if h * w < _MIN_PIXELS:
        scale = math.sqrt(_MIN_PIXELS / (height * width))
        return tuple(math.ceil(s * scale / _FACTOR) * _FACTOR for s in screen)  # type: ignore[return-value]
    return h, w


def unit(coordinates: Coordinates, screen: Screen) -> tuple[float, float]:
    """The extent of the whole screen in the units of ``coordinates``, (down, right)."""
    if coordinates == "resized":
        screen = resized(screen)
    return {"fractions": (1.0, 1.0), "thousandths": (1000.0, 1000.0)}.get(
        coordinates, (float(screen[0]), float(screen[1]))
    )


def numbers(value: Any) -> list[float]:
    """The numbers in a list or a text such as ``(1, 2)``, ``[1, 2, 3, 4]`` or ``<point>1 2</point>``."""
    if isinstance(value, str):
        return [float(found) for found in _NUMBER.findall(value)]
    if isinstance(value, Sequence) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in value
    ):
        return [float(v) for v in value]
    raise Unsaid(f"{_short(value)} is not a point")


def point(value: Any, coordinates: Coordinates, screen: Screen) -> Point:
    """(y, x) in [0, 1] of an (x, y), or the centre of an (x0, y0, x1, y1).

    Raises:
      Unsaid: there are not two or four numbers, or they are off the screen by more than :data:`SLIGHT`.
    """
    found = numbers(value)
    if len(found) == 4:
        found = [(found[0] + found[2]) / 2, (found[1] + found[3]) / 2]
    if len(found) != 2:
        raise Unsaid(f"{_short(value)} is not a point")
    down, right = unit(coordinates, screen)
    return on_screen(found[1] / down), on_screen(found[0] / right)


def on_screen(fraction: float) -> float:
    """The coordinate; if it is at most :data:`SLIGHT` outside [0, 1], it is moved onto the edge.

    Raises:
      Unsaid: it is further out, or not a number.
    """
    if not -SLIGHT <= fraction <= 1 + SLIGHT:
        raise Unsaid(f"a coordinate is at {fraction:.4g} of the screen, which is outside")
    return min(max(fraction, 0.0), 1.0)


def placed(point: Point, coordinates: Coordinates, screen: Screen) -> tuple[float, float]:
    """(x, y) in the dialect's units; whole numbers except for fractions."""
    down, right = unit(coordinates, screen)
    x, y = point[1] * right, point[0] * down
    return (round(x, 4), round(y, 4)) if coordinates == "fractions" else (round(x), round(y))


def swipe(finger: str, start: Point | None = None) -> Action:
    """A swipe of the finger by a third of the screen, from a point if one is given."""
    if finger not in _OPPOSITE:
        raise Unsaid(f"direction {_short(finger)} is not one of up, down, left, right")
    if start is None:
        return Action.swipe(finger)  # type: ignore[arg-type]
    y, x = start
    sign = 1 if finger in ("down", "right") else -1
    end = (y + sign * _REACH, x) if finger in ("up", "down") else (y, x + sign * _REACH)
    moved = Action(ActionType.DUAL_POINT, start, (min(max(end[0], 0.0), 1.0), min(max(end[1], 0.0), 1.0)))
    # A start near the edge towards which it moves would turn it into a tap.
    return moved if moved.is_swipe else Action.swipe(finger)  # type: ignore[arg-type]


def scroll(shows: str, start: Point | None = None) -> Action:
    """A scroll that reveals what lies in a direction; the finger moves the other way."""
    if shows not in _OPPOSITE:
        raise Unsaid(f"direction {_short(shows)} is not one of up, down, left, right")
    return swipe(_OPPOSITE[shows], start)


def act(
    name: str,
    *,
    at: Point | None = None,
    to: Point | None = None,
    text: str | None = None,
    direction: str | None = None,
    status: str | None = None,
) -> Action:
    """The action with a name, in whatever dialect: **the one place to extend** when there are more actions.

    Args:
      name: in lower case, as written in any of the dialects.
      at, to: (y, x) in [0, 1].
      text: text to type or to answer with, an app or a button.
      direction: the finger's for ``swipe``; for ``scroll``, the side whose content it reveals.
      status: status of a declared end.

    Raises:
      Unsaid: no device has such an action, or something is missing; the message says which.
    """

    def need(value: Any, what: str) -> Any:
        if value is None:
            raise Unsaid(f"'{name}' lacks {what}")
        return value

    match name:
        case "click" | "tap" | "left_click" | "touch":
            y, x = need(at, "a point")
            return Action.tap(y, x)
        case "double_tap" | "double_click":
            return Action.double_tap(*need(at, "a point"))
        case "long_press" | "long_tap" | "longpress":
            return Action(ActionType.LONG_PRESS, need(at, "a point"))
        case "drag":
            return Action.drag(need(at, "a point"), need(to, "an end"))
        case "swipe" | "scroll" if to is not None:
            return Action(ActionType.DUAL_POINT, need(at, "a point"), to)
        case "dual_point":
            start = need(at, "a point")
            return Action(ActionType.DUAL_POINT, start, start if to is None else to)
        case "swipe":
            return swipe(need(direction, "a direction or an end"), at)
        case "scroll":
            return scroll(need(direction, "a direction"), at)
        case "type" | "input_text" | "type_text" | "input":
            return Action.type_text(need(text, "a text"))
        case "open_app" | "open" | "launch" | "awake":
            return Action(ActionType.OPEN_APP, text=need(text, "the name of an app"))
        case "wait":
            return Action(ActionType.WAIT)
        case "answer":
            return Action(ActionType.ANSWER, text=need(text, "a text"))
        case "press_back" | "navigate_back" | "back":
            return Action.back()
        case "press_home" | "navigate_home" | "home":
            return Action.home()
        case "press_enter" | "keyboard_enter" | "enter":
            return Action.enter()
        case "recent_apps" | "recents" | "app_switch":
            return Action(ActionType.RECENT_APPS)
        case "status_task_complete" | "complete" | "done" | "finished":
            return Action.complete()
        case "status_task_impossible" | "impossible" | "infeasible":
            return Action.impossible()
        case "status" | "terminate":
            ended = need(status, "a status")
            if ended in ("success", "complete", "successful", "completed"):
                return Action.complete()
            if ended in ("failure", "fail", "infeasible", "impossible", "failed"):
                return Action.impossible()
            raise Unsaid(f"status {_short(ended)} says neither success nor failure")
        case "system_button" | "key" | "press":
            button = need(text, "a button").strip().lower()
            if button in ("back", "home", "enter", "recents"):
                return act(button)
            raise Unsaid(f"there is no button {_short(button)}")
        case _:
            raise Unsaid(f"there is no action {_short(name)}")


def attempt(text: str, make: Any) -> Action | ParseError:
    """The result of ``make()`` for a text, or the reason why the text is not an action."""
    try:
        return make()
    except (Unsaid, ActionError) as error:
        return ParseError(text, str(error))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        return ParseError(text, f"cannot be read: {error!r}")


def first_object(text: str) -> dict[str, Any]:
    """The first JSON object in a text.

    Raises:
      Unsaid: there is none.
    """
    decoder = json.JSONDecoder(strict=False)
    at = text.find("{")
    for _ in range(64):  # skips braces that open no object; a text with nothing else is not an answer
        if at < 0:
            break
        try:
            found, _ = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if isinstance(found, dict):
            return found
        break
    raise Unsaid("there is no JSON object in it")


def text_of(value: Any) -> str | None:
    """A text, or None; numbers become text, because agents do not always quote them.

    Raises:
      Unsaid: the value is something else.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise Unsaid(f"{_short(value)} is not a text")


def _short(value: Any) -> str:
    return repr(value)[:60]
