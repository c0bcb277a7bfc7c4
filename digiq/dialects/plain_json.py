"""Plain JSON, as AndroidControl, AndroidWorld and most home-made agents write actions."""

from __future__ import annotations

import json
from typing import Any

from android_env.actions import Action, ActionType, ParseError
from android_env.errors import ActionError
from digiq.config import configclass
from digiq.dialects.base import (
    Coordinates,
    Screen,
    Unsaid,
    act,
    attempt,
    first_object,
    placed,
    point,
    text_of,
)

_NAMES = ("action_type", "action", "type", "name")
_AT = ("coordinate", "coordinates", "point", "touch_point", "start", "start_point", "position")
_TO = ("coordinate2", "end", "end_point", "lift_point", "end_coordinate")
_TEXT = ("text", "value", "content", "app_name", "app", "typed_text", "answer", "button", "key", "package")
_POINTED = {ActionType.LONG_PRESS: "long_press", ActionType.DOUBLE_TAP: "double_tap"}
_WORDS = {
    ActionType.PRESS_BACK: "navigate_back",
    ActionType.PRESS_HOME: "navigate_home",
    ActionType.PRESS_ENTER: "keyboard_enter",
    ActionType.WAIT: "wait",
    ActionType.RECENT_APPS: "recent_apps",
}


@configclass
class PlainJson:
    """One JSON object, such as ``{"action_type": "click", "x": 100, "y": 200}``, with or without words around it."""

    coordinates: Coordinates = "pixels"
    """Unit of x and y."""

    def parse(self, text: str, screen: Screen) -> Action | ParseError:
        """See :class:`digiq.dialects.base.Dialect`."""
        return attempt(text, lambda: self.read(first_object(text), screen))

    def read(self, fields: dict[str, Any], screen: Screen) -> Action:
        """The action of a parsed object.

        Raises:
          Unsaid: the object names no action.
        """
        name = next((fields[key] for key in _NAMES if isinstance(fields.get(key), str)), None)
        if name is None:
            raise Unsaid(f"none of {', '.join(_NAMES)} names the action")
        if "index" in fields and "x" not in fields and not any(key in fields for key in _AT):
            raise Unsaid("it points to an element by its index, which the screenshot alone does not tell")
        return act(
            name.strip().lower(),
            at=self._point(fields, _AT, ("x", "y"), screen),
            to=self._point(fields, _TO, ("x2", "y2"), screen),
            text=text_of(next((fields[key] for key in _TEXT if fields.get(key) is not None), None)),
            direction=text_of(fields.get("direction")),
            status=text_of(fields.get("goal_status", fields.get("status"))),
        )

    def _point(
        self, fields: dict[str, Any], names: tuple[str, ...], pair: tuple[str, str], screen: Screen
    ) -> Any:
        if fields.get(pair[0]) is not None and fields.get(pair[1]) is not None:
            return point([fields[pair[0]], fields[pair[1]]], self.coordinates, screen)
        value = next((fields[key] for key in names if fields.get(key) is not None), None)
        return None if value is None else point(value, self.coordinates, screen)

    def write(self, action: Action, screen: Screen) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        return json.dumps(self.fields(action, screen), ensure_ascii=False)

    def fields(self, action: Action, screen: Screen) -> dict[str, Any]:
        """The action as an object.

        Raises:
          ActionError: the dialect has no word for it.
        """
        kind = action.type
        if kind in _WORDS:
            return {"action_type": _WORDS[kind]}
        if action.ends_episode:
            ended = "complete" if kind is ActionType.STATUS_TASK_COMPLETE else "infeasible"
            return {"action_type": "status", "goal_status": ended}
        if kind in (ActionType.TYPE, ActionType.ANSWER):
            return {
                "action_type": "input_text" if kind is ActionType.TYPE else "answer",
                "text": action.text,
            }
        if kind is ActionType.OPEN_APP:
            return {"action_type": "open_app", "app_name": action.text}
        x, y = placed(action.touch_yx, self.coordinates, screen)
        if kind in _POINTED or action.is_tap:
            return {"action_type": _POINTED.get(kind, "click"), "x": x, "y": y}
        if kind in (ActionType.DUAL_POINT, ActionType.DRAG):
            x2, y2 = placed(action.lift_yx, self.coordinates, screen)
            name = "swipe" if kind is ActionType.DUAL_POINT else "drag"
            return {"action_type": name, "x": x, "y": y, "x2": x2, "y2": y2}
        raise ActionError(f"plain_json has no word for {kind.name}.")

    @property
    def manual(self) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        counted = {
            "fractions": "fractions of width and height between 0 and 1",
            "thousandths": "whole numbers from 0 to 1000 across the width and the height",
        }.get(self.coordinates, "pixels from the left and the top edge")
        return (
            "Answer with one JSON object, and nothing after it. It is one of:\n"
            '{"action_type": "click", "x": X, "y": Y}\n'
            '{"action_type": "swipe", "x": X, "y": Y, "x2": X, "y2": Y}\n'
            '{"action_type": "scroll", "direction": "up, down, left or right"}\n'
            '{"action_type": "input_text", "text": "..."}\n'
            '{"action_type": "keyboard_enter"}\n'
            '{"action_type": "navigate_back"}\n'
            '{"action_type": "navigate_home"}\n'
            '{"action_type": "status", "goal_status": "complete or infeasible"}\n'
            f"X and Y are {counted}."
        )
