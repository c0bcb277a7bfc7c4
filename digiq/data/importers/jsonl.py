"""Logs of any agent: a folder of JSON lines, one per episode, and screenshots. docs/data_formats.md describes it."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from android_env.actions import Action, ParseError, format_action
from digiq.config import configclass
from digiq.data.importers.base import BadEpisode, Entry, Sources
from digiq.data.importers.build import MEND, Frame, episode_of
from digiq.data.importers.files import files_under, other_format, source_folder
from digiq.dialects.base import Coordinates, Dialect, Screen
from digiq.dialects.choice import DialectConfig
from digiq.dialects.plain_json import PlainJson
from digiq.errors import DigiQError

Said = dict[str, Any] | str
"""An action: an object such as ``{"action_type": "click", "x": 100, "y": 200}``, or what the agent said."""


class JsonlCandidate(pydantic.BaseModel):
    """An action that the agent considered."""

    action: Said
    log_prob: float | None = None
    """Natural logarithm of its probability."""


class UiElement(TypedDict, total=False):
    """An element of the screen."""

    text: str
    role: str
    yxhw: Annotated[list[float], Field(min_length=4, max_length=4)]
    """Top, left, height and width, as fractions of the screen."""


class JsonlStep(pydantic.BaseModel):
    """A screen and the action taken there. Fields that are not listed are kept as extras."""

    model_config = ConfigDict(extra="allow")
    screenshot: str
    """PNG, JPEG or WebP; a path inside the folder."""
    action: Said | None = None
    """Left out only at the last step, if the recording ends in a screen."""
    log_prob: float | None = None
    candidates: list[JsonlCandidate] = []
    reward: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """What the action earned."""
    activity: str = ""
    ui_elements: list[UiElement] = []


class JsonlEpisode(pydantic.BaseModel):
    """One line. Fields that are not listed are kept as extras."""

    model_config = ConfigDict(extra="allow")
    episode_id: Annotated[str, Field(min_length=1)]
    goal: str
    steps: Annotated[list[JsonlStep], Field(min_length=1)]
    outcome: Literal["success", "failure", "truncated", ""] = ""
    """If left out, taken from the last action or the rewards."""
    coordinates: Coordinates | None = None
    """Unit of x and y in action objects; if left out, the importer's setting, which is pixels by default."""
    split: str = "train"
    task_id: str = ""
    policy: str = "logged"
    """Who acted: a model's name, or ``human``."""
    device: str = ""
    app: str = ""
    seed: int = 0


@configclass
class Jsonl:
    """A folder of ``*.jsonl``, one line per episode, with paths of its screenshots; --schema prints a line's schema."""

    source: Path = Path("logs")
    """The folder; or one file, whose folder holds the screenshots."""
    say: DialectConfig = DialectConfig()
    """The dialect of actions given as text."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""

    @staticmethod
    def schema() -> dict[str, Any]:
        """JSON Schema of a line."""
        return JsonlEpisode.model_json_schema()

    def find(self) -> Sources:
        """See :class:`digiq.data.importers.base.Importer`."""
        source = source_folder(self.source, "jsonl")
        files = [source] if source.is_file() else [f for f in files_under(source) if f.suffix == ".jsonl"]
        if not files:
            raise DigiQError(f"{source}: holds no .jsonl file{other_format(source, 'jsonl')}.")
        return Sources(files)

    def read(self, part: Path) -> Iterator[Entry | BadEpisode]:
        """See :class:`digiq.data.importers.base.Importer`."""
        with part.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield self._entry(part, number, line)

    def _entry(self, part: Path, number: int, line: bytes) -> Entry | BadEpisode:
        where = f"{part}, line {number}"
        try:
            episode = JsonlEpisode.model_validate_json(line)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the line"
            end = "" if line.endswith(b"\n") else " (the file ends inside it)"
            return BadEpisode(f"{where}: {field}: {first['msg']}{end}; {MEND}")
        return Entry(episode.episode_id, functools.partial(self._make, where, part.parent, episode))

    def _make(self, where: str, folder: Path, log: JsonlEpisode) -> Any:
        root = (self.source if self.source.is_dir() else self.source.parent).resolve()
        where = f"{where}, episode {log.episode_id}"
        try:
            frames = [
                self._frame(f"step {t}", root, folder, step, log.coordinates)
                for t, step in enumerate(log.steps)
            ]
            return episode_of(
                frames,
                episode_id=log.episode_id,
                goal=log.goal,
                max_side=self.max_side,
                outcome=log.outcome,
                extras={**({"app": log.app} if log.app else {}), **(log.model_extra or {})},
                split=log.split,
                task_id=log.task_id,
                policy=log.policy,
                device=log.device,
                seed=log.seed,
            )
        except (ValueError, OSError) as error:
            raise BadEpisode(f"{where}: {str(error).rstrip('.')}; {MEND}") from None

    def _frame(
        self, what: str, root: Path, folder: Path, step: JsonlStep, coordinates: Coordinates | None
    ) -> Frame:
        path = (folder / step.screenshot).resolve()
        if not path.is_relative_to(root):
            raise ValueError(f"{what}: screenshot {step.screenshot!r} is outside {root}")
        if not path.is_file():
            raise ValueError(f"{what}: screenshot {step.screenshot!r} is missing")
        image = path.read_bytes()
        screen = size_of(image, what)
        read = functools.partial(
            action_of, dialect=self.say.chosen, coordinates=coordinates, screen=screen, what=what
        )
        candidates = [
            {"action": format_action(read(c.action)), "log_prob": c.log_prob} for c in step.candidates
        ]
        return Frame(
            image=image,
            action=None if step.action is None else read(step.action),
            log_prob=math.nan if step.log_prob is None else step.log_prob,
            reward=step.reward,
            activity=step.activity,
            ui_elements=[dict(element) for element in step.ui_elements],
            extras={**({"candidates": candidates} if candidates else {}), **(step.model_extra or {})},
        )


def action_of(
    said: Said, *, dialect: Dialect, coordinates: Coordinates | None, screen: Screen, what: str
) -> Action:
    """The action in a log.

    Raises:
      ValueError: it cannot be read; the message says why.
    """
    if isinstance(said, str):
        found = dialect.parse(said, screen)
    else:
        reader = dialect if isinstance(dialect, PlainJson) else PlainJson()
        if coordinates is not None:
            reader = dataclasses.replace(reader, coordinates=coordinates)
        found = reader.parse(json.dumps(said), screen)
    if isinstance(found, ParseError):
        raise ValueError(f"{what}: action {str(said)[:80]!r}: {found.reason}")
    return found


def size_of(image: bytes, what: str) -> Screen:
    """Height and width of an image file's bytes.

    Raises:
      ValueError: they are not an image.
    """
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.height, opened.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what}: the screenshot cannot be read ({error})") from None
