"""Qwen-VL's ``mobile_use`` tool: ``<tool_call>{"name": "mobile_use", "arguments": {...}}</tool_call>``.

Source: QwenLM/Qwen2.5-VL and Qwen3-VL, ``cookbooks/mobile_agent.ipynb`` and ``cookbooks/utils/agent_function_call.py``: the
actions key, click, long_press, swipe, type, system_button, open, wait, answer and terminate.
"""

from __future__ import annotations

import json
import re
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

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_BUTTONS = {ActionType.PRESS_BACK: "Back", ActionType.PRESS_HOME: "Home", ActionType.PRESS_ENTER: "Enter"}


@configclass
class MobileUse:
    """A tool call, alone or after a thought."""

    coordinates: Coordinates = "resized"
    """Unit of coordinates: ``resized`` as in Qwen2.5-VL, ``thousandths`` as in Qwen3-VL, ``pixels`` of the
    screenshot."""

    def parse(self, text: str, screen: Screen) -> Action | ParseError:
        """See :class:`digiq.dialects.base.Dialect`; of several calls, the first counts."""
        return attempt(text, lambda: self._read(text, screen))

    def _read(self, text: str, screen: Screen) -> Action:
        block = _BLOCK.search(text)
        said = first_object(text if block is None else block[1])
        arguments: Any = said.get("arguments", said)
        if isinstance(arguments, str):
            arguments = first_object(arguments)
        if not isinstance(arguments, dict):
            raise Unsaid("its arguments are not a JSON object")
        name = arguments.get("action")
        if not isinstance(name, str):
            raise Unsaid("its arguments name no action")
        start, end = (
            None if arguments.get(key) is None else point(arguments[key], self.coordinates, screen)
            for key in ("coordinate", "coordinate2")
        )
        return act(
            name.strip().lower(),
            at=start,
            to=end,
            text=text_of(arguments.get("button", arguments.get("text", arguments.get("app_name")))),
            direction=text_of(arguments.get("direction")),
            status=text_of(arguments.get("status")),
        )

    def write(self, action: Action, screen: Screen) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        arguments = self._arguments(action, screen)
        call = json.dumps({"name": "mobile_use", "arguments": arguments}, ensure_ascii=False)
        return f"<tool_call>\n{call}\n</tool_call>"

    def _arguments(self, action: Action, screen: Screen) -> dict[str, Any]:
        kind = action.type
        if kind in _BUTTONS:
            return {"action": "system_button", "button": _BUTTONS[kind]}
        if action.ends_episode:
            ended = "success" if kind is ActionType.STATUS_TASK_COMPLETE else "failure"
            return {"action": "terminate", "status": ended}
        if kind is ActionType.WAIT:
            return {"action": "wait", "time": 2}
        words = {ActionType.TYPE: "type", ActionType.ANSWER: "answer", ActionType.OPEN_APP: "open"}
        if kind in words:
            return {"action": words[kind], "text": action.text}
        if kind not in (ActionType.DUAL_POINT, ActionType.LONG_PRESS):
            raise ActionError(f"mobile_use has no word for {kind.name}.")
        at = list(placed(action.touch_yx, self.coordinates, screen))
        if action.is_swipe:
            to = list(placed(action.lift_yx, self.coordinates, screen))
            return {"action": "swipe", "coordinate": at, "coordinate2": to}
        return {"action": "click" if kind is ActionType.DUAL_POINT else "long_press", "coordinate": at}

    @property
    def manual(self) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        return (
            "Use the tool mobile_use: answer with one call,\n"
            '<tool_call>\n{"name": "mobile_use", "arguments": {...}}\n</tool_call>\nwhose arguments are one of:\n'
            '{"action": "click", "coordinate": [x, y]}\n'
            '{"action": "long_press", "coordinate": [x, y]}\n'
            '{"action": "swipe", "coordinate": [x, y], "coordinate2": [x, y]}\n'
            '{"action": "type", "text": "..."}\n'
            '{"action": "open", "text": "..."}\n'
            '{"action": "system_button", "button": "Back, Home or Enter"}\n'
            '{"action": "wait", "time": 2}\n'
            '{"action": "terminate", "status": "success or failure"}'
        )
