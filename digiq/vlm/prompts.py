"""The VLM's prompts: one for an (observation, action) pair and one for an observation, from a template file.

A critic does not read the VLM's answer; it reads hidden states over named spans of the prompt. A template is a text
file with the prompts and their spans, selected by name or by path:

- ``general``: for any app; asks what is under the action, whether it serves the goal and whether the screen changes.
- ``paper``: the paper's; asks whether the action changes the screen, without goal or history.
- ``readout``: the embedded model's; a row of short questions, with the answer in the hidden state at the end of each.

The place of a tap is shown in one of three ways: ``cursor``, drawn on the screenshot (upstream's click icon); ``text``,
as coordinates in the prompt; or ``crop``, as coordinates plus, after the words for the action, a small picture of the
place with the cursor in it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from android_env.actions import Action, ActionType
from digiq.errors import ConfigError

Grounding = Literal["cursor", "text", "crop"]
Pooling = Literal["last", "mean", "both"]
"""Pooling of a span's hidden states: the last, the mean, or both as two layers."""

TEMPLATES: dict[str, Path] = {
    "general": Path(__file__).parent / "templates" / "general.txt",
    "paper": Path(__file__).parent / "templates" / "paper.txt",
    "readout": Path(__file__).parent / "tiny" / "readout.txt",
}
"""Template files by name. The embedded model's lies beside that model."""
_DATA = ("goal", "history", "action")
_PIECE = re.compile(r"\{(\w+)(?:: ([^{}]*))?\}|([^{}]+)|([{}])")
_SECTIONS = ("observation", "pair")

_BEFORE = "The first picture is the screen before the last action, the second is the screen now."
CROP_SIDE = 112
"""Side of a crop as passed to the VLM, in pixels."""
_CROP_SHARE = 0.4  # fraction of the screen's shorter side that a crop shows
CURSOR_RADIUS = 8
"""Radius of the tap mark, in pixels."""
_MAGENTA = (255, 0, 200)
_CYAN = (0, 200, 255)


@dataclass(frozen=True)
class Prompt:
    """A prompt without image placeholders or chat template; a backbone adds both.

    ``spans`` maps a name to (start, end) character offsets in ``text``: ``goal``, ``action`` and ``history`` if they
    occur in the prompt, one for each question, ``questions`` (from the first to the last of them), and ``all``. The
    span ``answer`` is not listed: it is always the last token of the model's input, template included, where the answer
    would begin. No span includes tokens of a picture.
    """

    text: str
    spans: dict[str, tuple[int, int]]
    pictures: tuple[int, ...] = (0,)
    """Offset in ``text`` of the character after each picture, in order; 0: in front of everything."""

    @property
    def in_front(self) -> int:
        """Number of pictures before the text."""
        return sum(place == 0 for place in self.pictures)


@dataclass(frozen=True)
class Template:
    """A parsed prompt file.

    The file begins with comment lines (``#``). Among them, ``# pair:``, ``# observation:`` and ``# pooling:`` give the
    default spans and pooling. Then come ``[observation]`` and ``[pair]``, each followed by a text. ``{goal}``,
    ``{action}`` and ``{history}`` stand for data, ``{name: words}`` for words that form a span called ``name``. A line
    with ``{history}`` is left out if there is no history.
    """

    name: str
    text: str
    pair: tuple[str, ...]
    """Default spans of the pair prompt."""
    observation: tuple[str, ...]
    """Default spans of the observation prompt."""
    pooling: Pooling
    lines: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = dataclasses.field(repr=False, hash=False)
    """Lines of each section as (span, words); a span of data has no words, and words without a span have no name."""

    @property
    def has_history(self) -> bool:
        """Whether previous actions have a place in both prompts."""
        return all(any(n == "history" for line in lines for n, _ in line) for lines in self.lines.values())

    def questions(self, section: str) -> dict[str, str]:
        """The words of a section's questions by name, in order."""
        return {name: words for line in self.lines[section] for name, words in line if name and words}

    def prompt(
        self,
        goal: str,
        action: Action | None,
        *,
        grounding: Grounding,
        history: str = "",
        before: bool = False,
    ) -> Prompt:
        """The pair prompt of ``action``, or the observation prompt when ``action`` is None.

        With ``before``, the screenshot before the last action is a picture of its own in front of the current one.
        """
        data = {"goal": goal, "history": history}
        if action is not None:
            data["action"] = describe_action(action, grounding=grounding)
        section = "observation" if action is None else "pair"
        text, spans, asked = _BEFORE if before else "", {}, []
        for line in self.lines[section]:
            if not history and any(name == "history" for name, _ in line):
                continue
            text += "\n" if text else ""
            for name, words in line:
                piece = words or data[name]
                if name:
                    spans[name] = (len(text), len(text) + len(piece))
                if name and words:
                    asked.append(spans[name])
                text += piece
        if asked:
            spans["questions"] = (asked[0][0], asked[-1][1])
        pictures = (0, 0) if before else (0,)
        if is_cropped(action, grounding):
            pictures += (spans["action"][1],)
        return Prompt(text, {**spans, "all": (0, len(text))}, pictures)


def load_template(prompt: str | Path) -> Template:
    """Loads a template by its name or by the path of its file.

    Raises:
      ConfigError: there is no such template, or it lacks something required.
    """
    path = TEMPLATES.get(str(prompt), Path(prompt))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(
            f"prompt '{prompt}': neither one of {', '.join(TEMPLATES)} nor a readable file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it as UTF-8.") from None
    return parse_template(text, str(prompt))


@functools.lru_cache(maxsize=16)
def parse_template(text: str, name: str) -> Template:
    """Parses a template from its text; see :class:`Template`. ``name`` is for error messages."""
    said: dict[str, str] = {}
    raw: dict[str, list[str]] = {}
    section = None
    for line in text.splitlines():
        if line.startswith("#"):
            key, _, value = line[1:].partition(":")
            said[key.strip()] = value.strip()
        elif line.strip() in {f"[{known}]" for known in _SECTIONS}:
            section = line.strip()[1:-1]
            raw[section] = []
        elif section is not None:
            raw[section].append(line.rstrip())
        elif line.strip():
            raise ConfigError(f"prompt {name}: '{line.strip()[:40]}' comes before [observation] or [pair].")
    lines = {}
    for section in _SECTIONS:
        kept = raw.get(section, [])
        while kept and not kept[-1]:
            kept.pop()
        if not any(kept):
            raise ConfigError(f"prompt {name}: no text under [{section}].")
        lines[section] = tuple(_pieces(line, section, name) for line in kept)
        names = [n for line in lines[section] for n, _ in line if n]
        twice = next((n for n in names if names.count(n) > 1 or n in ("questions", "all", "answer")), None)
        if twice:
            raise ConfigError(
                f"prompt {name}: [{section}] has two spans '{twice}', or that name is reserved."
            )
    if not any(span == "action" for line in lines["pair"] for span, _ in line):
        raise ConfigError(f"prompt {name}: [pair] has no {{action}}, so all actions would be alike.")
    pooling = said.get("pooling", "mean")
    if pooling not in ("last", "mean", "both"):
        raise ConfigError(f"prompt {name}: pooling is '{pooling}'; use last, mean or both.")
    spans = {kind: tuple(said.get(kind, "answer").split()) for kind in _SECTIONS}
    return Template(name, text, spans["pair"], spans["observation"], pooling, lines)


def _pieces(line: str, section: str, name: str) -> tuple[tuple[str, str], ...]:
    pieces = []
    for span, words, plain, brace in _PIECE.findall(line):
        if brace or (span and not words and span not in _DATA) or (words and span in _DATA):
            raise ConfigError(
                f"prompt {name}: '{brace or span}' in '{line[:60]}'; write {{goal}}, {{history}}, {{action}} or {{name: words}}."
            )
        if span == "action" and section == "observation":
            raise ConfigError(f"prompt {name}: [observation] has no action to name.")
        pieces.append((span, words) if span else ("", plain))
    return tuple(pieces)


def default_prompt(vlm: str | Path) -> str:
    """Name of the template for a model directory: ``readout`` if its tokeniser has the embedded model's questions as
    tokens, the form in which that model was trained on them; else ``general``."""
    file = Path(vlm) / "tokenizer.json"
    first = next(iter(load_template("readout").questions("pair").values())).lower()
    try:
        return "readout" if f'\\n{first}"' in file.read_text(encoding="utf-8") else "general"
    except (OSError, UnicodeDecodeError):
        return "general"


def prompt_file(prompt: str) -> Path | None:
    """The user's own prompt file, if a config names one; its content is then part of the identity of the results."""
    return None if prompt == "auto" or prompt in TEMPLATES else Path(prompt)


def build_prompt(
    goal: str,
    action: Action | None,
    *,
    grounding: Grounding = "cursor",
    template: Template | None = None,
    history: str = "",
    before: bool = False,
) -> Prompt:
    """The pair prompt of ``action``, or the observation prompt when ``action`` is None; from ``readout`` by default."""
    chosen = load_template("readout") if template is None else template
    return chosen.prompt(goal, action, grounding=grounding, history=history, before=before)


def describe_history(actions: Sequence[Action], k: int) -> str:
    """The last ``k`` actions in words, oldest first, with coordinates, as no screen shows them; empty without any."""
    return "; ".join(describe_action(a, grounding="text") for a in list(actions)[-k:]) if k else ""


def describe_action(action: Action, *, grounding: Grounding) -> str:
    """The action in words. Except under ``cursor``, a touch point is (row, column) in percent of the screen."""
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


def pictures(
    screenshot: np.ndarray, action: Action | None, grounding: Grounding, before: np.ndarray | None = None
) -> list[np.ndarray]:
    """The pictures of a prompt, in the order of :attr:`Prompt.pictures`.

    Args:
      screenshot: uint8 [H, W, 3]; not modified.
      action: the next action, for the prompt of a pair.
      grounding: how its place is shown.
      before: the screenshot before the last action, if the prompt mentions it.
    """
    shown = draw_cursor(screenshot, action) if grounding == "cursor" else screenshot
    found = [shown] if before is None else [before, shown]
    if action is not None and is_cropped(action, grounding):
        found.append(crop(screenshot, action))
    return found


def is_cropped(action: Action | None, grounding: Grounding) -> bool:
    """Whether the action gets a picture of its place; only taps have a single place."""
    return (
        grounding == "crop" and action is not None and action.type == ActionType.DUAL_POINT and action.is_tap
    )


def crop(screenshot: np.ndarray, tap: Action) -> np.ndarray:
    """The surroundings of a tap with the cursor drawn; uint8 [CROP_SIDE, CROP_SIDE, 3].

    It shows a square of 40 % of the screen's shorter side. The square stays on the screen, so near an edge the cursor
    is off-centre.
    """
    height, width = screenshot.shape[:2]
    side = max(1, round(_CROP_SHARE * min(height, width)))
    top, left = (
        min(max(0, round(share * length - side / 2)), length - side)
        for share, length in zip(tap.touch_yx, (height, width), strict=True)
    )
    marked = draw_cursor(screenshot, tap)[top : top + side, left : left + side]
    return np.asarray(Image.fromarray(marked).resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BICUBIC))


def draw_cursor(screenshot: np.ndarray, action: Action | None) -> np.ndarray:
    """Marks where an action lands: a translucent disc for a tap, an arrow for a swipe, nothing for other actions.

    Args:
      screenshot: uint8 [H, W, 3]; not modified.
      action: the next action; None leaves the screenshot unmarked.
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
    """Colour [S, S, 3] and opacity [S, S, 1] of the tap mark: a white-rimmed magenta ring that keeps text legible."""
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
    """The main direction of the finger's movement."""
    dy, dx = action.lift_yx[0] - action.touch_yx[0], action.lift_yx[1] - action.touch_yx[1]
    if abs(dy) >= abs(dx):
        return "down" if dy > 0 else "up"
    return "right" if dx > 0 else "left"
