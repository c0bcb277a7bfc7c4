"""Episodes as strips of screenshots with actions drawn on them: view models for the report's templates."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from android_env.actions import Action
from digiq.data.schema import Episode, Step, element_boxes

MAX_HEIGHT = 480  # pixels kept of a screenshot; a strip shows it at 320


@dataclasses.dataclass(frozen=True)
class Mark:
    """A mark on a screenshot: a tap (``x2`` is None) or the arrow of a swipe, in pixels of a frame ``width`` wide."""

    x: float
    y: float
    x2: float | None
    y2: float | None
    label: str
    chosen: bool
    logged: bool
    strength: float
    """0 for the worst candidate of the state, 1 for the best."""


@dataclasses.dataclass(frozen=True)
class CandidateLine:
    """A distinct candidate in the list below a screenshot, best first."""

    rank: int
    text: str
    copies: int
    """How many of the N candidates are this action."""
    q: float
    strength: float
    chosen: bool
    logged: bool
    usable: bool = True
    """False if extraction leaves it out, because the behaviour policy hardly ever takes it."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One observation of a strip."""

    number: int
    image: str
    """Data URI of the screenshot."""
    width: int
    height: int
    marks: tuple[Mark, ...]
    candidates: tuple[CandidateLine, ...]
    v: float | None
    advantage: float | None
    kept: bool | None
    """Whether the advantage passes the extraction's threshold; None without a threshold."""
    caption: str
    """The executed action in words, if there are no candidates to show."""


@dataclasses.dataclass(frozen=True)
class Strip:
    """An episode ready to be shown."""

    title: str
    goal: str
    outcome: str
    frames: tuple[Frame, ...]

    @property
    def scored(self) -> bool:
        """Whether the frames have candidates with Q."""
        return any(frame.candidates for frame in self.frames)

    @property
    def end(self) -> str:
        """How the episode ended, in words."""
        actions = len(self.frames) - 1
        return f"{self.outcome.replace('_', ' ')} after {actions} action{'s' if actions != 1 else ''}"

    @property
    def gated(self) -> bool:
        """Whether the frames say what passes the extraction's threshold."""
        return any(frame.kept is not None for frame in self.frames)


def candidate_strip(
    episode: Episode,
    candidates: Sequence[Sequence[Action | None]],
    q: np.ndarray,
    v: np.ndarray,
    *,
    title: str,
    threshold: float | None = None,
    usable: np.ndarray | None = None,
) -> Strip:
    """An episode with the stored candidates of each of its states, their Q, V and the one that extraction chooses.

    Args:
      episode: T actions and T + 1 observations.
      candidates: for each non-terminal observation N actions, None where invalid; column 0 is the logged action.
      q: float[rows, N].
      v: float[rows], the baseline that extraction compares with.
      title: title of the strip.
      threshold: least Q - V at which extraction keeps a state.
      usable: bool[rows, N], the candidates that extraction chooses from; None for all.
    """
    usable = np.ones_like(q, bool) if usable is None else usable
    frames = []
    for number, step in enumerate(episode.steps):
        if number >= len(candidates):
            frames.append(_frame(step.screenshot, "", number))
            continue
        lines, marks = _rank(candidates[number], q[number], usable[number], step)
        best = next((line.q for line in lines if line.chosen), None)
        advantage = None if best is None else best - float(v[number])
        kept = None if threshold is None or advantage is None else advantage > threshold
        frames.append(_frame(step.screenshot, "", number, lines, marks, float(v[number]), advantage, kept))
    return Strip(title, episode.goal, episode.outcome, tuple(frames))


def plain_strip(
    screens: Sequence[bytes],
    actions: Sequence[Action | None],
    *,
    captions: Sequence[str],
    goal: str,
    outcome: str,
    title: str,
) -> Strip:
    """Screenshots with only the executed actions drawn on them.

    Args:
      screens: PNG bytes.
      actions: the action after each screen; None, or missing at the end, if there is none.
      captions: the same in words.
      goal: goal of the episode.
      outcome: outcome of the episode.
      title: title of the strip.
    """
    frames = []
    for number, screen in enumerate(screens):
        action = actions[number] if number < len(actions) else None
        mark = _mark(screen, action, "", chosen=True, logged=False, strength=1.0)
        caption = captions[number] if number < len(captions) else ""
        frames.append(_frame(screen, caption, number, marks=(mark,) if mark else ()))
    return Strip(title, goal, outcome, tuple(frames))


def _rank(
    candidates: Sequence[Action | None], q: np.ndarray, usable: np.ndarray, step: Step
) -> tuple[tuple[CandidateLine, ...], tuple[Mark, ...]]:
    """Distinct candidates by falling Q, and the marks of those that can be drawn (best last, so that it is on top)."""
    best: dict[Action, float] = {}
    copies: dict[Action, int] = {}
    for action, value in zip(candidates, q, strict=True):
        if action is not None:
            best[action] = float(value)
            copies[action] = copies.get(action, 0) + 1
    ordered = sorted(best, key=lambda action: -best[action])
    allowed = {a for a, may in zip(candidates, usable, strict=True) if may}
    choice = next((action for action in ordered if action in allowed), None)
    values = [best[action] for action in ordered]
    span = (values[0] - values[-1]) or 1.0 if values else 1.0
    lines, marks = [], []
    for position, action in enumerate(ordered):
        strength = (values[position] - values[-1]) / span if len(values) > 1 else 1.0
        chosen, logged = action == choice, action == candidates[0]
        lines.append(
            CandidateLine(
                position + 1,
                describe(action, step.ui_elements),
                copies[action],
                values[position],
                strength,
                chosen,
                logged,
                action in allowed,
            )
        )
        mark = _mark(
            step.screenshot, action, str(position + 1), chosen=chosen, logged=logged, strength=strength
        )
        if mark is not None:
            marks.append(mark)
    return tuple(lines), tuple(reversed(marks))


def describe(action: Action, ui_elements: str = "[]") -> str:
    """An action as a short text: ``tap “Browser”``, ``tap y 0.42 x 0.10``, ``swipe up``, ``type “tea”``, ``back``.

    Args:
      action: the action.
      ui_elements: the screen's elements as in an observation; a tap is named by the smallest element that holds it.
    """
    if action.is_tap:
        name = _element_at(action.touch_yx, ui_elements)
        y, x = action.touch_yx
        return f"tap {name}" if name else f"tap y {y:.2f} x {x:.2f}"
    if action.swipe_direction:
        return f"swipe {action.swipe_direction}"
    if action.text:
        return f"type “{action.text}”"
    return action.type.words


def _element_at(point: tuple[float, float], ui_elements: str) -> str:
    """Text or role of the smallest element that holds the point; empty if there is none."""
    holding = []
    for element, (y, x, height, width) in element_boxes(ui_elements):
        if y <= point[0] <= y + height and x <= point[1] <= x + width:
            holding.append((height * width, element))
    if not holding:
        return ""
    element = min(holding, key=lambda item: item[0])[1]
    return f"“{element['text']}”" if element.get("text") else str(element.get("role", "")).replace("_", " ")


def _mark(
    screen: bytes, action: Action | None, label: str, *, chosen: bool, logged: bool, strength: float
) -> Mark | None:
    if action is None or not (action.is_tap or action.is_swipe):
        return None
    height, width = _shown_size(screen)
    (y, x), (y2, x2) = action.touch_yx, action.lift_yx
    lift = (x2 * width, y2 * height) if action.is_swipe else (None, None)
    return Mark(x * width, y * height, *lift, label, chosen, logged, strength)


def _frame(
    screen: bytes,
    caption: str,
    number: int,
    lines: tuple[CandidateLine, ...] = (),
    marks: tuple[Mark, ...] = (),
    v: float | None = None,
    advantage: float | None = None,
    kept: bool | None = None,
) -> Frame:
    height, width = _shown_size(screen)
    if v is not None and math.isnan(v):
        v = advantage = kept = None
    return Frame(number, image_uri(screen), width, height, marks, lines, v, advantage, kept, caption)


def _shown_size(screen: bytes) -> tuple[int, int]:
    """Height and width of the frame that a screenshot is drawn in: 320 pixels high, with its aspect ratio."""
    with Image.open(io.BytesIO(screen)) as image:
        return 320, max(1, round(320 * image.width / image.height))


def image_uri(png: bytes) -> str:
    """A screenshot as a data URI; a large one is scaled down and stored as JPEG."""
    with Image.open(io.BytesIO(png)) as image:
        if image.height <= MAX_HEIGHT:
            return "data:image/png;base64," + base64.b64encode(png).decode()
        size = (max(1, round(image.width * MAX_HEIGHT / image.height)), MAX_HEIGHT)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
