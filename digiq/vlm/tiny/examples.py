"""Training examples: a screen with or without a cursor, prompts with their answers, and labels for every patch.

Labels of patches teach the vision tower to read before the language model asks anything: which widget a patch lies in,
which letters it contains and where, and whether the cursor points at its widget. Pages of pure text teach the letters
fastest. Each screen comes with questions under several goals, which differ only in names. Labels of the goal's letters
teach comparison: each says whether the pair of letters that ends there occurs in the text in question. (A whole name
agrees if all its pairs do, and a single pair can be found in one look.) Where a tap is told in coordinates instead of
shown, the label of the last coordinate is the widget there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from android_env.actions import Action, ActionType
from android_env.devices.simulated.layout import layout
from android_env.devices.simulated.renderer import render
from android_env.devices.simulated.screen import PANEL_ROLES, ROLES, SCREEN_HW, Box, Element
from android_env.devices.simulated.themes import PRETRAIN_THEMES
from android_env.devices.simulated.widgets import Canvas, TextRun, record_text
from digiq.vlm.prompts import Grounding, build_prompt, draw_cursor, format_point
from digiq.vlm.tiny.architecture import (
    CHARACTERS,
    GRID,
    IMAGE_SIZE,
    KINDS,
    OBSERVATION_QUESTIONS,
    PAIR_QUESTIONS,
    answer_token,
)
from digiq.vlm.tiny.questions import observation_answers, pair_answers
from digiq.vlm.tiny.screens import Goal, Scene, make_scene, rename
from digiq.vlm.tiny.words import Words

NAME_QUESTION = " what is at the cursor?"
POINT_QUESTION = " what is at the point?"
FIELD_QUESTION = " what does the field say?"
ROLE_IDS = {role: i for i, role in enumerate(("", *ROLES))}
CHARACTER_IDS = {c: i + 1 for i, c in enumerate(CHARACTERS)}
LETTER_GRID = (2, 4)
"""Cells for a letter's centre in a patch, down and across, fine enough to separate narrow letters and two lines."""
LETTERS_PER_PATCH = LETTER_GRID[0] * LETTER_GRID[1]
IGNORE = -100
_LONGEST_NAME = 20


@dataclasses.dataclass(frozen=True)
class Asked:
    """One prompt about a screen."""

    text: str
    """The prompt and, if a name is to be spelled, the question for it."""
    answers: dict[str, str]
    """By question."""
    name: str = ""
    """The name spelled at the end; empty if there is none."""
    compared: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names in the prompt, each with the texts that it may match."""
    point: str = ""
    """The coordinates of a tap, as written in the prompt; empty unless the prompt tells them."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A screen, the prompts about it, and labels; P = GRID² patches, row-major."""

    pixels: npt.NDArray[np.uint8]
    """[IMAGE_SIZE, IMAGE_SIZE, 3], as squashed by the image processor."""
    asked: tuple[Asked, ...]
    """The prompt under the screen's own goal comes first; only there is a name spelled."""
    roles: npt.NDArray[np.int64]
    """[P] index into ROLE_IDS."""
    letters: npt.NDArray[np.int64]
    """[P, LETTERS_PER_PATCH] index into CHARACTER_IDS of the letter centred there, 0 for none; row-major."""
    pointed: npt.NDArray[np.int64]
    """[P] 1 on the cursor's widget; IGNORE everywhere if there is no cursor."""
    located: npt.NDArray[np.int64]
    """[P] 1 on the widget at the coordinates that the prompts tell; IGNORE everywhere if they tell none."""
    is_named_tap: bool = False
    """Whether it is a tap on a named widget; naming and matching accuracy are measured on those."""


def make_example(
    rng: np.random.Generator, *, unseen: bool = False, goals: int = 1, text: float = 0.0
) -> Example:
    """One random screen with prompts under ``goals`` goals: two in three about an action, the others without one.

    ``text`` is the share of actions whose place is told in coordinates; in the others a cursor shows it.
    """
    words = Words(rng, unseen=unseen)
    scene = make_scene(words)
    boxes = layout(scene.screen, layout_seed=int(rng.integers(1 << 30)))
    theme = PRETRAIN_THEMES[int(rng.integers(len(PRETRAIN_THEMES)))]
    with record_text() as runs:
        screenshot = render(scene.screen, boxes, theme)
    shown = {name: box for name, box in boxes.items() if name in scene.elements}
    action, pointed, named = None, None, False
    grounding: Grounding = "cursor"
    if rng.random() < 0.33:
        field = scene.field_element
        name = _spelled(field.text) if field and field.text else "=none"
        question = FIELD_QUESTION
    else:
        action, pointed = _choose(scene, shown, words)
        if text and rng.random() < text:  # without ``text``, the draws of earlier versions
            grounding = "text"
        else:
            screenshot = draw_cursor(screenshot, action)
        name = _name(scene, pointed) if action.is_tap else "=none"
        question = NAME_QUESTION if grounding == "cursor" else POINT_QUESTION
        named = action.is_tap and not name.startswith("=") and not scene.screen.loading
    first = _ask(scene, action, pointed, grounding)
    asked = [dataclasses.replace(first, text=first.text + question, name=name)]
    for _ in range(goals - 1):
        other = dataclasses.replace(scene, goal=_other_goal(scene, action, pointed, words))
        asked.append(_ask(other, action, pointed, grounding))
    widget = _pointed_grid(shown, pointed)
    nothing = np.full_like(widget, IGNORE)
    return Example(
        pixels=squash(screenshot),
        asked=tuple(asked),
        roles=_role_grid(scene, shown),
        letters=_letter_grid(_visible(runs, scene, boxes)),
        pointed=widget if grounding == "cursor" else nothing,
        located=widget if grounding == "text" else nothing,
        is_named_tap=named,
    )


def _ask(scene: Scene, action: Action | None, pointed: Element | None, grounding: Grounding) -> Asked:
    """The prompt of an action, or of the screen alone, with its answers."""
    text = build_prompt(scene.goal.text, action, grounding=grounding).text
    goal = tuple(name for name in (scene.goal.place, scene.goal.query) if name)
    if action is None:
        field = scene.field_element
        typed = field.text if field else ""
        shown = {scene.goal.place: (scene.address, typed), scene.goal.query: (scene.query, typed)}
        compared = tuple((name, shown[name]) for name in goal if any(shown[name]))
        return Asked(text, observation_answers(scene), compared=compared)
    answers = pair_answers(scene, action, pointed)
    if action.type is ActionType.TYPE:  # the goal is read before the typed text
        return Asked(text, answers, compared=((action.text, goal),))
    there = _texts_there(scene, action, pointed)
    return Asked(
        text,
        answers,
        compared=tuple((name, there) for name in goal) if any(there) else (),
        point=format_point(action.touch_yx) if action.is_tap and grounding == "text" else "",
    )


def _texts_there(scene: Scene, action: Action, pointed: Element | None) -> tuple[str, ...]:
    """The texts that an action's goal is compared with: those at the cursor, or in the field that Enter submits."""
    field = scene.field_element
    if action.type is ActionType.PRESS_ENTER and field is not None:
        return (field.text,)
    if not action.is_tap or pointed is None or scene.screen.loading:
        return ()
    return (pointed.text, pointed.detail) if pointed.role == "result_row" else (pointed.text,)


def _other_goal(scene: Scene, action: Action | None, pointed: Element | None, w: Words) -> Goal:
    """The goal with other names: those that the action touches or the screen shows, similar ones, or any."""
    goal, field = scene.goal, scene.field_element
    touched = _texts_there(scene, action, pointed) if action is not None else ()
    if action is not None and action.type is ActionType.TYPE:
        touched = (action.text,)
    typed = (field.text,) if field else ()
    if "." in goal.place:
        seen = [t.lower() for t in (*touched, scene.address, *typed) if "." in t and " " not in t]
        place = _another(goal.place, seen, w.site, w)
    else:
        place = _another(goal.place, [t.lower() for t in touched if t.isalpha()], w.app, w)
    seen = [t.lower() for t in (*touched, *typed, scene.query) if t and "." not in t and len(t) <= 20]
    return rename(goal, place, _another(goal.query, seen, w.thing, w))


def _another(name: str, seen: list[str], invent: Callable[[], str], w: Words) -> str:
    p = w.rng.random()
    if seen and p < 0.5:
        return w.pick(seen)
    if p < 0.8:
        return w.near(w.pick(seen) if seen else name or invent())
    return name if p < 0.9 else invent()


def make_page(rng: np.random.Generator) -> Example:
    """A page of pure text, in every size and colour of a theme; only its letters are labelled."""
    words = Words(rng)
    theme = PRETRAIN_THEMES[int(rng.integers(len(PRETRAIN_THEMES)))]
    canvas = Canvas(theme)
    height, width = SCREEN_HW
    inks = (
        (theme.background, theme.text), (theme.background, theme.muted), (theme.surface, theme.text),
        (theme.background, theme.primary), (theme.primary, theme.on_primary), (theme.accent, theme.on_accent),
        (theme.bar, theme.on_bar),
    )  # fmt: skip
    with record_text() as runs:
        y = int(rng.integers(0, 14))
        while y < height:
            ground, ink = words.pick(inks)
            size, bold = int(rng.integers(-3, 3)), words.chance(0.35)
            step = int(rng.integers(15, 21)) + max(size, 0)
            canvas.rectangle((y, 0, y + step, width), ground)
            x = float(rng.integers(0, 24))
            while x < width - 12:
                style = words.pick((str.title, str.capitalize, str.lower, str.lower))
                text = style(words.pick((words.word, words.word, words.site, words.price))())
                end = canvas.text(text, y + step / 2, x, ink, width=int(width - x), bold=bold, size=size)
                x = end + float(rng.integers(4, 12))
            y += step
    nothing = np.full(GRID * GRID, IGNORE, np.int64)
    return Example(
        pixels=squash(np.asarray(canvas.image)),
        asked=(),
        roles=nothing,
        letters=_letter_grid(runs),
        pointed=nothing,
        located=nothing,
    )


def squash(screenshot: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image processor's resize."""
    image = Image.fromarray(screenshot).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _choose(scene: Scene, boxes: dict[str, Box], w: Words) -> tuple[Action, Element | None]:
    """An action worth a prompt, and the widget under its point."""
    p = w.rng.random()
    if p < 0.12:
        goal = scene.goal
        options = [name for name in (goal.place, goal.query) if name]
        text = w.pick(options) if options and w.chance(0.55) else w.thing()
        if options and w.chance(0.25):
            text = w.near(w.pick(options))
        return Action.type_text(text), None
    if p < 0.24:
        return w.pick((Action.enter(), Action.enter(), Action.complete(), Action.complete(), Action.back(),
                       Action.home(), Action.swipe("up"), Action.swipe("down"))), None  # fmt: skip
    modal = scene.screen.modal
    reachable = [n for n in boxes if not modal or scene.elements[n] in scene.screen.overlay]
    if p < 0.9 and reachable:
        fitting = [n for n in reachable if _fits(scene, scene.elements[n])]
        name = w.pick(fitting) if fitting and w.chance(0.65) else w.pick(reachable)
        box = boxes[name]
        y = box.y0 + (0.2 + 0.6 * w.rng.random()) * box.height
        x = box.x0 + (0.1 + 0.8 * w.rng.random()) * box.width
    else:
        y, x = w.rng.random() * SCREEN_HW[0], w.rng.random() * SCREEN_HW[1]
    y, x = min(max(y, 0), SCREEN_HW[0] - 1), min(max(x, 0), SCREEN_HW[1] - 1)
    return Action.tap(y / SCREEN_HW[0], x / SCREEN_HW[1]), _topmost(scene, boxes, y, x)


def _fits(scene: Scene, element: Element) -> bool:
    center = Action.tap(0.5, 0.5)
    return pair_answers(scene, center, element)["fits"] == "yes"


def _topmost(scene: Scene, boxes: dict[str, Box], y: float, x: float) -> Element | None:
    """The last drawn widget at a point; with a modal panel, only the panel's own widgets count."""
    overlay = {element.id for element in scene.screen.overlay}
    hit = None
    for name, box in boxes.items():
        if box.contains(y, x) and (not scene.screen.modal or name in overlay):
            hit = scene.elements[name]
    return hit


def _name(scene: Scene, element: Element | None) -> str:
    if scene.screen.loading:
        return f"={KINDS['loading']}"
    if element is None:
        return f"={KINDS['']}"
    drawn = element.role != "icon_button" and element.text
    return _spelled(element.text) if drawn else f"={KINDS[element.role]}"


def _spelled(text: str) -> str:
    return text.lower()[:_LONGEST_NAME]


def _role_grid(scene: Scene, boxes: dict[str, Box]) -> npt.NDArray[np.int64]:
    grid = np.zeros((GRID, GRID), np.int64)
    for name, box in boxes.items():
        rows, columns = _cells(box)
        grid[rows, columns] = ROLE_IDS[scene.elements[name].role]
    return grid.reshape(-1)


def _visible(runs: list[TextRun], scene: Scene, boxes: dict[str, Any]) -> list[TextRun]:
    """The lines of text with nothing drawn over them."""
    panel = boxes.get("_panel")
    if panel is None:
        return runs
    said = " ".join(text for element in scene.screen.overlay for text in (element.text, element.detail))
    return [run for run in runs if not panel.contains(run.row, panel.x0) or run.text.rstrip("…. ") in said]


def _letter_grid(runs: list[TextRun]) -> npt.NDArray[np.int64]:
    down, across = LETTER_GRID
    rows, columns = GRID * down, GRID * across
    grid = np.zeros((rows, columns), np.int64)
    for run in runs:
        row = int(run.row * rows / SCREEN_HW[0])
        if not 0 <= row < rows:
            continue
        for character, x in zip(run.text.lower(), run.columns, strict=True):
            column = int(x * columns / SCREEN_HW[1])
            if 0 <= column < columns and character != " ":
                grid[row, column] = CHARACTER_IDS.get(character, 0)
    patches = grid.reshape(GRID, down, GRID, across).swapaxes(1, 2)
    return patches.reshape(GRID * GRID, LETTERS_PER_PATCH)


def _pointed_grid(boxes: dict[str, Box], pointed: Element | None) -> npt.NDArray[np.int64]:
    grid = np.full((GRID, GRID), IGNORE, np.int64)
    if pointed is not None and pointed.role not in PANEL_ROLES:
        rows, columns = _cells(boxes[pointed.id])
        grid[:] = 0
        grid[rows, columns] = 1
    return grid.reshape(-1)


def _cells(box: Box) -> tuple[slice, slice]:
    """Patches whose centre lies in the box, at least one."""
    scale_y, scale_x = GRID / SCREEN_HW[0], GRID / SCREEN_HW[1]

    def span(low: float, high: float) -> slice:
        first = round(low)
        return slice(min(first, GRID - 1), max(round(high), min(first, GRID - 1) + 1))

    return span(box.y0 * scale_y, box.y1 * scale_y), span(box.x0 * scale_x, box.x1 * scale_x)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids of an example's prompts after its image, with labels; all lists have the same length.

    The label at a position is what the model must say *after* it, so no further shift is needed.
    """

    ids: list[int]
    segments: list[int]
    """0 for the image, then 1, 2, ... for the prompts: each attends to the image and itself."""
    positions: list[int]
    """Positions; they restart after the image for every prompt."""
    readout: list[int]
    """At a question's last token, the token of its answer, which is never fed back."""
    spelled: list[int]
    """Ordinary next tokens of the name."""
    agrees: list[int]
    """At each letter of a compared name except the first, 1 if it and the one before occur in one of the texts."""
    told: list[int]
    """1 at the last token of a tap's coordinates, elsewhere 0."""


class Encoder:
    """Turns an example's prompts into token ids and labels."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._ids = tokenizer.get_vocab()
        self._image = [self._ids["<image>"]] * (GRID * GRID)
        self._eos = tokenizer.eos_token_id
        questions = {**PAIR_QUESTIONS, **OBSERVATION_QUESTIONS}
        self._question_ids = {name: self._last_token(text) for name, text in questions.items()}

    def _last_token(self, question: str) -> set[int]:
        return {
            self._tokenizer(prefix + question, add_special_tokens=False)["input_ids"][-1]
            for prefix in (" ", "\n")
        }

    def __call__(self, example: Example) -> Encoded:
        patches = len(self._image)
        blank = [IGNORE] * patches
        out = Encoded(
            ids=list(self._image),
            segments=[0] * patches,
            positions=list(range(patches)),
            readout=list(blank),
            spelled=list(blank),
            agrees=list(blank),
            told=[0] * patches,
        )
        for segment, asked in enumerate(example.asked, 1):
            ids, readout, spelled, agrees, told = self._prompt(asked)
            out.ids.extend(ids)
            out.segments.extend([segment] * len(ids))
            out.positions.extend(range(patches, patches + len(ids)))
            out.readout.extend(readout)
            out.spelled.extend(spelled)
            out.agrees.extend(agrees)
            out.told.extend(told)
        return out

    def _prompt(self, asked: Asked) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        prompt = self._tokenizer(asked.text, add_special_tokens=False)["input_ids"]
        name = [self._ids[asked.name]] if asked.name.startswith("=") else self._spell(asked.name)
        ids = prompt + name
        readout, spelled, agrees = ([IGNORE] * len(ids) for _ in range(3))
        for question, answer in asked.answers.items():
            position = max(i for i, token in enumerate(prompt) if token in self._question_ids[question])
            readout[position] = self._ids[answer_token(answer)]
        for offset, token in enumerate([*name, self._eos] if name else []):
            spelled[len(prompt) - 1 + offset] = token
        for written, texts in asked.compared:
            letters = written.lower()
            for offset, position in enumerate(self._letters_of(written, prompt)):
                if offset:
                    pair = letters[offset - 1 : offset + 1]
                    agrees[position] = int(any(pair in text.lower() for text in texts))
        told = [0] * len(ids)
        if asked.point:
            column = asked.point.split()[-1]  # row and column are one token each
            told[max(i for i, token in enumerate(prompt) if token == self._ids[column])] = 1
        return ids, readout, spelled, agrees, told

    def _spell(self, text: str) -> list[int]:
        return [self._ids.get(c, self._ids["<unk>"]) for c in text]

    def _letters_of(self, name: str, prompt: list[int]) -> list[int]:
        """Positions of the letters of a name's last occurrence in the prompt, as far as each letter is a token."""
        wanted = self._spell(name.lower().removesuffix(".com"))
        for start in range(len(prompt) - len(wanted), -1, -1):
            if prompt[start : start + len(wanted)] == wanted:
                return list(range(start, start + len(wanted)))
        return []
