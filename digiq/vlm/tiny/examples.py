"""Training examples: a screen with a cursor or without, a prompt with its answers, and labels for every patch.

Labels of patches teach the vision tower to read before the language model asks anything: which widget a patch lies in,
which two letters stand in it, and whether the cursor points at the widget that it belongs to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from android_env.actions import Action
from android_env.devices.simulated.layout import layout
from android_env.devices.simulated.renderer import render
from android_env.devices.simulated.screen import PANEL_ROLES, ROLES, SCREEN_HW, Box, Element
from android_env.devices.simulated.themes import PRETRAIN_THEMES
from android_env.devices.simulated.widgets import TextRun, record_text
from digiq.vlm.prompts import OBSERVATION_QUESTIONS, PAIR_QUESTIONS, build_prompt, draw_cursor
from digiq.vlm.tiny.architecture import CHARACTERS, GRID, IMAGE_SIZE, KINDS, PATCH_SIZE, answer_token
from digiq.vlm.tiny.questions import observation_answers, pair_answers
from digiq.vlm.tiny.screens import Scene, make_scene
from digiq.vlm.tiny.words import Words

NAME_QUESTION = " what is at the cursor?"
FIELD_QUESTION = " what does the field say?"
ROLE_IDS = {role: i for i, role in enumerate(("", *ROLES))}
CHARACTER_IDS = {c: i + 1 for i, c in enumerate(CHARACTERS)}
LETTERS_PER_PATCH = 2
IGNORE = -100
_LONGEST_NAME = 20


@dataclasses.dataclass(frozen=True)
class Example:
    """One training example; P = GRID² patches, row-major."""

    pixels: npt.NDArray[np.uint8]
    """[IMAGE_SIZE, IMAGE_SIZE, 3], as the image processor squashes it."""
    text: str
    """Prompt and, after the last question, the spelled name."""
    answers: dict[str, str]
    """By question."""
    name: str
    """What is spelled at the end."""
    roles: npt.NDArray[np.int64]
    """[P] index into ROLE_IDS."""
    letters: npt.NDArray[np.int64]
    """[P, 2] index into CHARACTER_IDS, 0 for none: left and right half."""
    pointed: npt.NDArray[np.int64]
    """[P] 1 where the cursor's widget is, IGNORE everywhere without a cursor."""
    is_named_tap: bool
    """A tap on a widget with a name: what naming and matching accuracy are measured on."""


def examples(seed: int, *, unseen: bool = False) -> Iterator[Example]:
    """An endless stream; ``unseen`` draws only words that training never shows."""
    rng = np.random.default_rng(seed)
    while True:
        yield make_example(rng, unseen=unseen)


def make_example(rng: np.random.Generator, *, unseen: bool = False) -> Example:
    """One random example: two in three are of an action, the others of the screen alone."""
    words = Words(rng, unseen=unseen)
    scene = make_scene(words)
    boxes = layout(scene.screen, layout_seed=int(rng.integers(1 << 30)))
    theme = PRETRAIN_THEMES[int(rng.integers(len(PRETRAIN_THEMES)))]
    with record_text() as runs:
        screenshot = render(scene.screen, boxes, theme)
    shown = {name: box for name, box in boxes.items() if name in scene.elements}
    if rng.random() < 0.33:
        prompt = build_prompt(scene.goal.text, None)
        answers = observation_answers(scene)
        field = scene.field_element
        name = _spelled(field.text) if field and field.text else "=none"
        pointed, text = None, prompt.text + FIELD_QUESTION
        named = False
    else:
        action, pointed = _choose(scene, shown, words)
        screenshot = draw_cursor(screenshot, action)
        prompt = build_prompt(scene.goal.text, action)
        answers = pair_answers(scene, action, pointed)
        is_tap = action.is_tap
        name = _name(scene, pointed) if is_tap else "=none"
        text = prompt.text + NAME_QUESTION
        named = is_tap and not name.startswith("=") and not scene.screen.loading
    return Example(
        pixels=squash(screenshot),
        text=text,
        answers=answers,
        name=name,
        roles=_role_grid(scene, shown),
        letters=_letter_grid(runs),
        pointed=_pointed_grid(shown, pointed),
        is_named_tap=named,
    )


def squash(screenshot: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image processor's resize."""
    image = Image.fromarray(screenshot).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _choose(scene: Scene, boxes: dict[str, Box], w: Words) -> tuple[Action, Element | None]:
    """An action worth asking about, and the widget under its point."""
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
    """The last drawn widget at a point; under a modal panel only the panel's own count."""
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


def _letter_grid(runs: list[TextRun]) -> npt.NDArray[np.int64]:
    grid = np.zeros((GRID, GRID * LETTERS_PER_PATCH), np.int64)
    half = PATCH_SIZE // LETTERS_PER_PATCH
    for run in runs:
        row = int(run.row * IMAGE_SIZE / SCREEN_HW[0] // PATCH_SIZE)
        if not 0 <= row < GRID:
            continue
        for character, x in zip(run.text.lower(), run.columns, strict=True):
            column = int(x * IMAGE_SIZE / SCREEN_HW[1] // half)
            if 0 <= column < grid.shape[1]:
                grid[row, column] = CHARACTER_IDS.get(character, 0)
    return grid.reshape(GRID * GRID, LETTERS_PER_PATCH)


def _pointed_grid(boxes: dict[str, Box], pointed: Element | None) -> npt.NDArray[np.int64]:
    grid = np.full((GRID, GRID), IGNORE, np.int64)
    if pointed is not None and pointed.role not in PANEL_ROLES:
        rows, columns = _cells(boxes[pointed.id])
        grid[:] = 0
        grid[rows, columns] = 1
    return grid.reshape(-1)


def _cells(box: Box) -> tuple[slice, slice]:
    """Patches whose middle lies in the box, at least one."""
    scale_y, scale_x = GRID / SCREEN_HW[0], GRID / SCREEN_HW[1]

    def span(low: float, high: float) -> slice:
        first = round(low)
        return slice(min(first, GRID - 1), max(round(high), min(first, GRID - 1) + 1))

    return span(box.y0 * scale_y, box.y1 * scale_y), span(box.x0 * scale_x, box.x1 * scale_x)


class Encoder:
    """Turns an example's text into token ids and labels.

    A question's answer is the label of the question's own last token: a read-out, never fed back. The spelled name is
    ordinary next-token prediction.
    """

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

    def __call__(self, example: Example) -> tuple[list[int], list[int], list[int]]:
        """(input ids, read-out labels, name labels), aligned with the inputs; labels are shifted by the caller.

        The label at a position is what the model must say *after* it, so no further shift is needed.
        """
        prompt = self._image + self._tokenizer(example.text, add_special_tokens=False)["input_ids"]
        if example.name.startswith("="):
            name = [self._ids[example.name]]
        else:
            name = [self._ids.get(c, self._ids["<unk>"]) for c in example.name]
        ids = prompt + name
        readout, spelled = [IGNORE] * len(ids), [IGNORE] * len(ids)
        for question, answer in example.answers.items():
            position = max(i for i, token in enumerate(prompt) if token in self._question_ids[question])
            readout[position] = self._ids[answer_token(answer)]
        for offset, token in enumerate([*name, self._eos]):
            spelled[len(prompt) - 1 + offset] = token
        return ids, readout, spelled
