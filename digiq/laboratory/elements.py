"""Features without a VLM, for comparison: from the action alone, or from the device's elements.

``text`` sees no screen, only the goal's words, the kind of action, its position and the text that it types.
``elements`` reads the accessibility tree and the name of the screen, which no learned arm may do: it is an oracle of
perception, whose critic shows what better features could be worth. Words are hashed; nothing is learned, and nothing is
specific to an app.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from android_env.actions import Action, ActionType

Source = Literal["text", "elements"]
_GRID = (10, 6)
_TYPES = tuple(ActionType)
_WORD = re.compile(r"[^\s,]+")


def observation_features(
    source: Source, goal: str, activity: str, ui_elements: str
) -> npt.NDArray[np.float32]:
    """Features of a screen, float32[D].

    Args:
      source: which features.
      goal: the task in words.
      activity: activity of the observation; read only by ``elements``.
      ui_elements: JSON of the elements; likewise.
    """
    parts = [_words(goal, 64)]
    if source == "elements":
        app, _, screen = activity.partition("/")
        elements = json.loads(ui_elements)
        parts += [
            _words(screen, 32),
            [float(app in goal), len(elements) / 10],
            _bag((element["role"] for element in elements), 32),
            _bag((w for element in elements for w in _split(element["text"])), 64),
            [max((_overlap(element["text"], goal) for element in elements), default=0.0)],
        ]
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


def pair_features(
    source: Source, goal: str, action: Action, activity: str, ui_elements: str
) -> npt.NDArray[np.float32]:
    """Features of an action on a screen, float32[D]; arguments as for :func:`observation_features`."""
    if source == "text":
        return action_features(goal, action)
    shown = observation_features(source, goal, activity, ui_elements)
    return action_features(goal, action, shown, json.loads(ui_elements))


def action_features(
    goal: str,
    action: Action,
    shown: npt.NDArray[np.float32] | None = None,
    elements: Sequence[Mapping[str, Any]] = (),
) -> npt.NDArray[np.float32]:
    """:func:`pair_features` for a screen that has been read, given its :func:`observation_features` ``shown``, which
    are placed in the middle, and its elements. Without ``shown``, the features of the source ``text``."""
    kind = [float(action.type is t) for t in _TYPES]
    y, x = action.touch_yx if action.type is ActionType.DUAL_POINT else (0.0, 0.0)
    cell = np.zeros(_GRID[0] * _GRID[1], np.float32)
    is_tap = action.type is ActionType.DUAL_POINT and action.is_tap
    if is_tap:
        row, column = (min(int(v * n), n - 1) for v, n in zip((y, x), _GRID, strict=True))
        cell[row * _GRID[1] + column] = 1.0
    swipe = action.type is ActionType.DUAL_POINT and not is_tap
    parts = [
        _words(goal, 64),
        kind,
        [y, x, float(swipe and action.swipe_direction == "up")],
        cell,
        _typed(action.text, goal),
    ]
    if shown is not None:
        parts += [shown, _touched(goal, y, x, elements, is_tap)]
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


def _typed(text: str, goal: str) -> list[float]:
    words = _split(text)
    position = goal.find(text) / max(len(goal), 1) if text else 0.0
    return [len(words) / 4, position, float("." in text), float(bool(text) and goal.endswith(text))]


def _touched(
    goal: str, y: float, x: float, elements: Sequence[Mapping[str, Any]], is_tap: bool
) -> npt.NDArray[np.float32]:
    """Features of the target of a tap: the smallest element that contains the point."""
    under = [e for e in elements if is_tap and _holds(e["bounds"], y, x)]
    element = min(
        under, key=lambda e: e["bounds"][2] * e["bounds"][3], default={"text": "", "role": "nothing"}
    )
    same = [
        e for e in elements if e["role"] == element["role"] and e["bounds"][0] < element.get("bounds", [0])[0]
    ]
    return np.concatenate(
        [
            _bag([element["role"]], 32),
            _bag(_split(element["text"]), 64),
            np.array([_overlap(element["text"], goal), len(same) / 4, float(bool(under))], np.float32),
        ]
    )


def _holds(bounds: list[float], y: float, x: float) -> bool:
    top, left, height, width = bounds
    return top <= y <= top + height and left <= x <= left + width


def _overlap(text: str, goal: str) -> float:
    """Share of a text's words that occur in the goal."""
    words, wanted = _split(text), set(_split(goal))
    return sum(word in wanted for word in words) / len(words) if words else 0.0


def _split(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _words(text: str, size: int) -> npt.NDArray[np.float32]:
    return _bag(_split(text), size)


def _bag(words: Iterable[str], size: int) -> npt.NDArray[np.float32]:
    """Counts of hashed words."""
    counts = np.zeros(size, np.float32)
    for word in words:
        counts[zlib.crc32(word.encode()) % size] += 1.0
    return counts
