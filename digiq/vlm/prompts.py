"""What the VLM is asked: one prompt for an (observation, action) pair, one for an observation, both with read-outs.

A critic does not read the VLM's answer; it reads hidden states. So a prompt ends in a row of short questions, and
the hidden state at the end of each question is where a model that was trained on them (the embedded tiny LLaVA) holds
the answer. The last question, whether the action changes the screen, is also the one that actionability tuning trains,
with a generated Yes or No, as the paper does. The questions are plain English so that any VLM can be given the prompt.

Where a tap lands is shown in one of two ways: ``cursor``, drawn on the screenshot (upstream's click icon), or
``text``, coordinates in the prompt.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from android_env.actions import Action, ActionType

Grounding = Literal["cursor", "text"]

PAIR_QUESTIONS: dict[str, str] = {
    "kind": "What kind of element?",
    "part": "Which part of the goal?",
    "fits": "Does it fit the goal?",
    "changes": "Does the screen change?",
}
"""Read-outs of the pair prompt, in order; the last one is answered with Yes or No."""

OBSERVATION_QUESTIONS: dict[str, str] = {
    "screen": "Which screen is it?",
    "overlay": "What lies over it?",
    "field": "Is the field right?",
    "query": "Is the query right?",
    "address": "Is the address right?",
}
"""Read-outs of the observation prompt, in order."""

CURSOR_RADIUS = 8
"""Radius of the tap mark, in pixels."""
_MAGENTA = (255, 0, 200)
_CYAN = (0, 200, 255)


@dataclass(frozen=True)
class Prompt:
    """A prompt without image placeholder or chat template; a backbone adds both.

    ``spans`` maps a name to (start, end) character offsets in ``text``: ``goal``, ``action`` (pair prompts only), one
    for each question, ``questions`` (all of them), and ``all``. The span ``answer`` is not listed: it is always the last
    token of what the model is fed, template included, where the answer would begin.
    """

    text: str
    spans: dict[str, tuple[int, int]]


def build_prompt(goal: str, action: Action | None, *, grounding: Grounding = "cursor") -> Prompt:
    """The pair prompt of ``action``, or the observation prompt when ``action`` is None."""
    pieces = [("", "Goal: "), ("goal", goal), ("", "\n")]
    if action is None:
        questions = OBSERVATION_QUESTIONS
    else:
        questions = PAIR_QUESTIONS
        pieces += [("", "Action: "), ("action", describe_action(action, grounding=grounding)), ("", "\n")]
    for index, (name, question) in enumerate(questions.items()):
        pieces += [("", " "), (name, question)] if index else [(name, question)]
    text, spans = "", {}
    for name, piece in pieces:
        if name:
            spans[name] = (len(text), len(text) + len(piece))
        text += piece
    spans["questions"] = (spans[next(iter(questions))][0], len(text))
    spans["all"] = (0, len(text))
    return Prompt(text, spans)


def describe_action(action: Action, *, grounding: Grounding) -> str:
    """The action in words. Under ``text`` a touch point is given as (row, column) in percent of the screen."""
    if action.type == ActionType.TYPE:
        return f'type "{action.text}"'
    if action.type == ActionType.DUAL_POINT:
        if not action.is_tap:
            return f"swipe {_direction(action)}"
        return "tap at the cursor" if grounding == "cursor" else f"tap at {format_point(action.touch_yx)}"
    return _WORDS.get(action.type, action.type.name.lower().replace("_", " "))


_WORDS = {
    ActionType.PRESS_BACK: "press back",
    ActionType.PRESS_HOME: "press home",
    ActionType.PRESS_ENTER: "press enter",
    ActionType.STATUS_TASK_COMPLETE: "declare the task complete",
    ActionType.STATUS_TASK_IMPOSSIBLE: "declare the task impossible",
}


def format_point(yx: tuple[float, float]) -> str:
    """(row, column) of a point in [0, 1]², in two-digit percent."""
    y, x = (min(99, max(0, int(v * 100))) for v in yx)
    return f"({y:02d}, {x:02d})"


def draw_cursor(screenshot: np.ndarray, action: Action | None) -> np.ndarray:
    """Marks where an action lands: a see-through disc for a tap, an arrow for a swipe, nothing for the others.

    Args:
      screenshot: uint8 [H, W, 3]; not modified.
      action: what is about to be done; None leaves the screenshot as it is.
    """
    if action is None or action.type != ActionType.DUAL_POINT:
        return screenshot
    height, width = screenshot.shape[:2]
    start = (action.touch_yx[0] * height, action.touch_yx[1] * width)
    if action.is_tap:
        return stamp_cursor(screenshot, *start)
    end = (action.lift_yx[0] * height, action.lift_yx[1] * width)
    return _draw_arrow(screenshot, start, end)


def stamp_cursor(screenshot: np.ndarray, y: float, x: float) -> np.ndarray:
    """A copy of ``screenshot`` (uint8 [H, W, 3]) with the tap mark centred on pixel (y, x)."""
    height, width = screenshot.shape[:2]
    color, alpha = _stamp(max(CURSOR_RADIUS, round(CURSOR_RADIUS * min(width / 192, height / 320))))
    size = len(alpha)
    top, left = round(y) - size // 2, round(x) - size // 2
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + size, height), min(left + size, width)
    out = screenshot.copy()
    if y0 < y1 and x0 < x1:
        inside = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        patch = out[y0:y1, x0:x1]
        out[y0:y1, x0:x1] = np.rint(patch * (1 - alpha[inside]) + color[inside] * alpha[inside])
    return out


@functools.lru_cache(maxsize=16)
def _stamp(radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour [S, S, 3] and opacity [S, S, 1] of the tap mark: magenta ring, white rim, text stays legible inside."""
    scale = 4
    size = 2 * radius + 5
    image = Image.new("RGBA", (size * scale, size * scale), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    middle = size * scale / 2

    def disc(r: float, fill: tuple[int, ...]) -> None:
        r *= scale
        draw.ellipse((middle - r, middle - r, middle + r, middle + r), fill=fill)

    ring = max(1.5, radius / 5)
    disc(radius + ring / 2 + 0.75, (255, 255, 255, 230))
    disc(radius + ring / 2, (*_MAGENTA, 255))
    disc(radius - ring / 2, (*_MAGENTA, 64))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)
    return pixels[..., :3], pixels[..., 3:] / 255


def _draw_arrow(screenshot: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    image = Image.fromarray(screenshot)
    draw = ImageDraw.Draw(image)
    width = max(4, screenshot.shape[1] // 48)
    (y0, x0), (y1, x1) = start, end
    length = max(float(np.hypot(y1 - y0, x1 - x0)), 1e-6)
    uy, ux = (y1 - y0) / length, (x1 - x0) / length
    head = 3.5 * width
    neck = (x1 - ux * head, y1 - uy * head)
    tip = [(x1, y1), (neck[0] - uy * head * 0.6, neck[1] + ux * head * 0.6)]
    tip.append((neck[0] + uy * head * 0.6, neck[1] - ux * head * 0.6))
    for color, extra in (((255, 255, 255), 2), (_CYAN, 0)):
        draw.line([(x0, y0), neck], fill=color, width=width + extra)
        draw.polygon(tip, fill=color)
    return np.asarray(image)


def _direction(action: Action) -> str:
    """The finger's main direction."""
    dy, dx = action.lift_yx[0] - action.touch_yx[0], action.lift_yx[1] - action.touch_yx[1]
    if abs(dy) >= abs(dx):
        return "down" if dy > 0 else "up"
    return "right" if dx > 0 else "left"
