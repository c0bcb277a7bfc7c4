"""Training examples: a screen with a cursor or without, a prompt with its answers, and labels for every patch.

Labels of patches teach the vision tower to read before the language model asks anything: which widget a patch lies in,
which letters stand where in it, and whether the cursor points at the widget that it belongs to. Pages of nothing but
text teach the letters fastest. Labels of the goal's letters teach to compare: at each, whether the name so far is what
stands at the cursor or is typed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
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
from digiq.vlm.prompts import OBSERVATION_QUESTIONS, PAIR_QUESTIONS, build_prompt, draw_cursor
from digiq.vlm.tiny.architecture import CHARACTERS, GRID, IMAGE_SIZE, KINDS, PATCH_SIZE, answer_token
from digiq.vlm.tiny.questions import observation_answers, pair_answers
from digiq.vlm.tiny.screens import Scene, make_scene
from digiq.vlm.tiny.words import Words

NAME_QUESTION = " what is at the cursor?"
FIELD_QUESTION = " what does the field say?"
ROLE_IDS = {role: i for i, role in enumerate(("", *ROLES))}
CHARACTER_IDS = {c: i + 1 for i, c in enumerate(CHARACTERS)}
LETTER_GRID = (2, 4)
"""Places for a letter's middle in a patch, down and across: narrow letters, and two lines of text, keep apart."""
LETTERS_PER_PATCH = LETTER_GRID[0] * LETTER_GRID[1]
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
    """[P, LETTERS_PER_PATCH] index into CHARACTER_IDS of the letter whose middle is there, 0 for none; row-major."""
    pointed: npt.NDArray[np.int64]
    """[P] 1 where the cursor's widget is, IGNORE everywhere without a cursor."""
    is_named_tap: bool
    """A tap on a widget with a name: what naming and matching accuracy are measured on."""
    compared: str = ""
    """What the goal's names are compared with, lower case: the text at the cursor, typed, or in the focused field."""
    names: tuple[str, ...] = ()
    """The goal's names, as the goal writes them; empty where nothing is compared."""


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
    compared, names = "", ()
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
        compared = _compared(scene, action, pointed).lower()
        names = tuple(n for n in (scene.goal.place, scene.goal.query) if n) if compared else ()
    return Example(
        pixels=squash(screenshot),
        text=text,
        answers=answers,
        name=name,
        roles=_role_grid(scene, shown),
        letters=_letter_grid(_visible(runs, scene, boxes)),
        pointed=_pointed_grid(shown, pointed),
        is_named_tap=named,
        compared=compared,
        names=names,
    )


def make_page(rng: np.random.Generator) -> Example:
    """A page of nothing but text, in every size and colour of a theme: only its letters are labelled."""
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
        text="",
        answers={},
        name="",
        roles=nothing,
        letters=_letter_grid(runs),
        pointed=nothing,
        is_named_tap=False,
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


def _visible(runs: list[TextRun], scene: Scene, boxes: dict[str, Any]) -> list[TextRun]:
    """The lines that nothing is drawn over."""
    panel = boxes.get("_panel")
    if panel is None:
        return runs
    said = " ".join(text for element in scene.screen.overlay for text in (element.text, element.detail))
    return [
        run
        for run in runs
        if not panel.contains(run.row, panel.x0) or run.text.rstrip("…. ") in said
    ]


def _compared(scene: Scene, action: Action, pointed: Element | None) -> str:
    """The text that the goal's names are compared with."""
    field = scene.field_element
    if action.type is ActionType.TYPE:
        return action.text
    if action.type is ActionType.PRESS_ENTER and field is not None:
        return field.text
    return pointed.text if action.is_tap and pointed is not None and not scene.screen.loading else ""


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

    def __call__(self, example: Example) -> tuple[list[int], list[int], list[int], list[int]]:
        """(input ids, read-out labels, name labels, comparison labels), aligned with the inputs.

        The label at a position is what the model must say *after* it, so no further shift is needed. A comparison
        label, 0 or 1, stands at each letter of the goal's names: whether the name up to it is how `compared` begins.
        """
        prompt = self._image + self._tokenizer(example.text, add_special_tokens=False)["input_ids"]
        if example.name.startswith("="):
            name = [self._ids[example.name]]
        else:
            name = [self._ids.get(c, self._ids["<unk>"]) for c in example.name]
        ids = prompt + name
        readout, spelled, agrees = ([IGNORE] * len(ids) for _ in range(3))
        for question, answer in example.answers.items():
            position = max(i for i, token in enumerate(prompt) if token in self._question_ids[question])
            readout[position] = self._ids[answer_token(answer)]
        for offset, token in enumerate([*name, self._eos]):
            spelled[len(prompt) - 1 + offset] = token
        for goal_name in example.names:
            for offset, position in enumerate(self._letters_of(goal_name, prompt), 1):
                agrees[position] = int(example.compared.startswith(goal_name.lower()[:offset]))
        return ids, readout, spelled, agrees

    def _letters_of(self, name: str, prompt: list[int]) -> list[int]:
        """Positions of the letters of a goal's name in the prompt, as far as each letter is a token."""
        wanted = [self._ids.get(c, self._ids["<unk>"]) for c in name.lower().removesuffix(".com")]
        for start in range(len(self._image), len(prompt) - len(wanted) + 1):
            if prompt[start : start + len(wanted)] == wanted:
                return list(range(start, start + len(wanted)))
        return []
