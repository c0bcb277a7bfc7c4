"""UI-TARS: ``Thought: ... Action: click(point='<point>x y</point>')``.

Source: bytedance/UI-TARS, ``codes/ui_tars/prompt.py`` (MOBILE_USE_DOUBAO) and ``action_parser.py``; older versions wrote
``start_box='<|box_start|>(x,y)<|box_end|>'``. Nothing is evaluated.
"""

from __future__ import annotations

import re

from android_env.actions import Action, ActionType, ParseError
from android_env.errors import ActionError
from digiq.config import configclass
from digiq.dialects.base import Coordinates, Screen, Unsaid, act, attempt, placed, point

_CALL = re.compile(r"\s*([a-z_]+)\s*\(", re.IGNORECASE)
_ARGUMENT = re.compile(r"([a-z_]+)\s*=\s*(['\"])(.*?)(?<!\\)\2", re.DOTALL | re.IGNORECASE)
_SPOKEN = {"type": "content", "finished": "content", "open_app": "app_name", "answer": "content"}
_AT = ("point", "start_point", "start_box")
_TO = ("end_point", "end_box")


@configclass
class UiTars:
    """Thoughts, then a call such as ``click(point='<point>500 300</point>')``."""

    coordinates: Coordinates = "thousandths"
    """Unit of points: ``thousandths`` in the Doubao and UI-TARS-1.0 models, ``resized`` in UI-TARS-1.5 (Qwen2.5-VL)."""

    def parse(self, text: str, screen: Screen) -> Action | ParseError:
        """See :class:`digiq.dialects.base.Dialect`; of several calls, the first counts."""
        return attempt(text, lambda: self._read(text, screen))

    def _read(self, text: str, screen: Screen) -> Action:
        _, marked, said = text.rpartition("Action:")
        if not marked and "(" not in text:
            raise Unsaid("there is no 'Action:' in it")
        call = _CALL.match(said.replace("[EOS]", ""))
        if call is None:
            raise Unsaid("what follows 'Action:' is not a call")
        name = call[1].lower()
        # Calls are separated by an empty line; a text to type may contain brackets and quotes.
        body = re.split(r"\)\s*\n\s*\n\s*(?=[a-z_]+\s*\()", said[call.end() :].strip())[0].rstrip()
        body = body.removesuffix(")")
        if name in _SPOKEN:
            return act(name, text=_quoted(body))
        arguments = {key.lower(): value for key, _, value in _ARGUMENT.findall(body)}
        if name in ("call_user", "right_single", "hotkey"):
            raise Unsaid(f"'{name}' is not something a phone can do")
        at = next((arguments[key] for key in _AT if arguments.get(key)), None)
        to = next((arguments[key] for key in _TO if arguments.get(key)), None)
        return act(
            {"left_double": "click", "select": "swipe", "drag": "swipe"}.get(name, name),
            at=None if at is None else point(at, self.coordinates, screen),
            to=None if to is None else point(to, self.coordinates, screen),
            direction=arguments.get("direction", "").strip().lower() or None,
        )

    def write(self, action: Action, screen: Screen) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        kind = action.type
        if action.is_swipe:
            call = f"drag(start_point='{self._at(action.touch_yx, screen)}', end_point='{self._at(action.lift_yx, screen)}')"
        elif kind in (ActionType.DUAL_POINT, ActionType.LONG_PRESS):
            name = "click" if kind is ActionType.DUAL_POINT else "long_press"
            call = f"{name}(point='{self._at(action.touch_yx, screen)}')"
        elif kind is ActionType.TYPE:
            call = f"type(content='{_escaped(action.text)}')"
        elif kind is ActionType.OPEN_APP:
            call = f"open_app(app_name='{_escaped(action.text)}')"
        else:
            names = {
                ActionType.PRESS_BACK: "press_back()",
                ActionType.PRESS_HOME: "press_home()",
                ActionType.PRESS_ENTER: "press_enter()",
                ActionType.WAIT: "wait()",
                ActionType.STATUS_TASK_COMPLETE: "finished(content='')",
            }
            if kind not in names:
                raise ActionError(f"ui_tars has no word for {kind.name}.")
            call = names[kind]
        return f"Action: {call}"

    def _at(self, where: tuple[float, float], screen: Screen) -> str:
        x, y = placed(where, self.coordinates, screen)
        return f"<point>{x:g} {y:g}</point>"

    @property
    def manual(self) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        return (
            "Answer in two lines:\nThought: ...\nAction: ...\nThe action is one of:\n"
            "click(point='<point>x y</point>')\n"
            "long_press(point='<point>x y</point>')\n"
            "drag(start_point='<point>x y</point>', end_point='<point>x y</point>')\n"
            "scroll(point='<point>x y</point>', direction='down, up, right or left')\n"
            "type(content='...')\nopen_app(app_name='...')\npress_home()\npress_back()\nfinished(content='...')"
        )


def _quoted(body: str) -> str:
    """The text between the first quote and the last of its kind, with escapes undone. A final newline, which requests
    Enter, is dropped, because TYPE never presses it."""
    match = re.search(r"=\s*(['\"])(.*)\1", body, re.DOTALL)
    if match is None:
        raise Unsaid("its text is not in quotes")
    plain = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
    said = re.sub(r"\\(.)", lambda m: plain.get(m[1], m[0]), match[2], flags=re.DOTALL)
    return said.rstrip("\n")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
