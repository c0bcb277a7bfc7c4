"""Android in the Wild: reads its TFRecords as episodes.

Schema: google-research/android_in_the_wild. A record is one step; the steps of an episode are contiguous; the
screenshot is raw uint8 H*W*C, not PNG.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from android_env.actions import Action, ActionType
from digiq.config import configclass
from digiq.data.importers.base import BadEpisode, Entry, Sources
from digiq.data.importers.files import files_under, other_format, read_splits
from digiq.data.schema import Episode, Step, encode_png, shrunk, stored_image
from digiq.data.tfrecord import Feature, TFRecordError, parse_example, read_records
from digiq.dialects.base import SLIGHT
from digiq.errors import DigiQError

_MEND = "mend the file, or set on_bad: skip to leave the episode out."
_SHARD = re.compile(r"([^._].*)-\d+-of-(\d+)")
_ENCODED = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF")
"""First bytes of PNG, JPEG and WebP files."""
_TERMINAL = {ActionType.STATUS_TASK_COMPLETE: 1.0, ActionType.STATUS_TASK_IMPOSSIBLE: 0.0}


@configclass
class AitW:
    """Android in the Wild TFRecords."""

    in_processes: ClassVar[bool] = True
    """See :func:`digiq.data.importers.ahead.read_parts`."""

    source: Path = Path("android_in_the_wild")
    """Directory with one folder of TFRecord shards per subset (general, google_apps, web_shopping, ...)."""
    held_out_apps: Annotated[int, Field(ge=0)] = 1
    """Number of ``general`` shards that become split ``test``: the last ones present, by name. In ``general`` each app
    is one shard."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Import at most this many good episodes per file; none: all."""
    split_file: Path | None = None
    """A JSON file of the dataset's own splits: the episode ids of each split. Other episodes are left out, and no app
    is held out."""

    def find(self) -> Sources:
        """The shards under ``source``, sorted by path, and the missing ones that the names of the others imply."""
        shards, ignored = find_shards(self.source)
        held_out = set() if self.split_file else _held_out(shards, self.held_out_apps)
        if self.split_file:
            read_splits(self.split_file)
        parts = [Shard(shard, "test" if shard in held_out else "train") for shard in shards]
        return Sources(parts, _missing_shards(shards) if self.source.is_dir() else (), ignored)

    def read(self, part: Shard) -> Iterator[Entry | BadEpisode]:
        good = 0
        splits = read_splits(self.split_file) if self.split_file else None
        for raw in read_episodes(part.path):
            if isinstance(raw, BadEpisode):
                yield raw
                continue
            split = part.split if splits is None else splits.get(raw.episode_id)
            if split is None:
                continue
            make = functools.partial(
                to_episode, raw, split=split, task_id=part.path.name, max_side=self.max_side
            )
            clamped = sum(step.clamped for step in raw.steps)
            yield Entry(raw.episode_id, make, {"clamped": clamped} if clamped else {})
            good += 1
            if good == self.limit:
                return


@dataclasses.dataclass(frozen=True)
class Shard:
    """A TFRecord file, and the split of its episodes."""

    path: Path
    split: str

    def __str__(self) -> str:
        return str(self.path)


def find_shards(source: Path) -> tuple[list[Path], int]:
    """The TFRecord files under ``source``, sorted by path, and the number of other files beside them.

    Raises:
      DigiQError: the directory is missing or holds none.
    """
    if not source.exists():
        raise DigiQError(f"{source}: no such directory; set aitw.source to the folder of AitW TFRecords.")
    if source.is_file():
        return [source], 0
    files = files_under(source)
    shards = [file for file in files if _SHARD.fullmatch(file.name)]
    if not shards:
        raise DigiQError(
            f"{source}: holds no TFRecord shards (files named like general-00000-of-00321){other_format(source, 'aitw')}."
        )
    return shards, sum("-of-" in file.name for file in files) - len(shards)


def _missing_shards(shards: list[Path]) -> list[Path]:
    """The shards that the names of the others (``<name>-<number>-of-<total>``) imply but that are missing."""
    promised: set[Path] = set()
    for shard in shards:
        if match := _SHARD.fullmatch(shard.name):
            name, total = match[1], match[2]
            width = len(total)
            promised |= {shard.with_name(f"{name}-{i:0{width}d}-of-{total}") for i in range(int(total))}
    return sorted(promised - set(shards))


def _held_out(shards: list[Path], count: int) -> set[Path]:
    general = [shard for shard in shards if shard.name.startswith("general-")]
    if count and general and len(shards) <= count:
        raise DigiQError(
            f"holding out {count} of {len(general)} general shards leaves none to train on; "
            "lower aitw.held_out_apps."
        )
    return set(general[max(len(general) - count, 0) :]) if count else set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawStep:
    """One validated record."""

    episode_id: str
    step_id: int
    episode_length: int
    goal: str
    activity: str
    device: str
    screenshot: npt.NDArray[np.uint8] | bytes
    """[H, W, 3]; or the bytes of an image file, as some copies of the data hold them."""
    action: Action
    ui_elements: list[dict[str, Any]]
    clamped: int = 0
    """Number of coordinates that lay slightly off the screen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawEpisode:
    """The steps 0, 1, ... of one episode, without gaps; screenshots still at full size."""

    steps: tuple[RawStep, ...]

    @property
    def episode_id(self) -> str:
        return self.steps[0].episode_id

    @property
    def terminated(self) -> bool:
        """Whether it ends in STATUS_TASK_COMPLETE or STATUS_TASK_IMPOSSIBLE."""
        return self.steps[-1].action.type in _TERMINAL

    @property
    def num_actions(self) -> int:
        """Number of actions whose outcome was seen: all, or all but the last where the end is not declared."""
        return len(self.steps) - (not self.terminated)


def read_episodes(path: Path) -> Iterator[RawEpisode | BadEpisode]:
    """The episodes of one TFRecord file; reading a damaged file stops after the episodes before the damage."""
    if other := other_format(path, "aitw"):
        yield BadEpisode(f"{path}: not an Android in the Wild file, so on_bad: skip leaves it out{other}.")
        return
    steps: list[RawStep] = []
    skipping: str | None = None

    def checked() -> Iterator[RawEpisode | BadEpisode]:
        if not steps:
            return
        try:
            yield _check_steps(steps, path)
        except BadEpisode as error:
            yield error

    try:
        for number, payload in enumerate(read_records(path)):
            try:
                features = parse_example(payload)
                episode_id = _text(_one(features, "episode_id", bytes))
            except ValueError as error:
                raise TFRecordError(
                    f"{path}: record {number} is not a tf.train.Example step ({error}); copy the file again."
                ) from None
            if steps and steps[0].episode_id != episode_id:
                yield from checked()
                steps = []
            if skipping == episode_id:
                continue
            try:
                steps.append(parse_step(features))
            except ValueError as error:
                problem = f"{path}: record {number}, episode {episode_id}: {error}"
                yield BadEpisode(f"{problem.rstrip('.')}; {_MEND}")
                skipping, steps = episode_id, []
    except TFRecordError as error:
        # The episode being read is lost with the rest of the file, unless its last step came before the damage.
        if steps and len(steps) == steps[0].episode_length:
            yield from checked()
        yield BadEpisode(f"{str(error).rstrip('.')}, or set on_bad: skip to leave out the rest of it.")
        return
    yield from checked()


def parse_step(features: dict[str, Feature]) -> RawStep:
    """One record's features as a step.

    Raises:
      ValueError: a field is missing, the image does not have H*W*C bytes, or the action is unknown.
    """
    height, width, channels = (
        int(_one(features, f"image/{k}", int)) for k in ("height", "width", "channels")
    )
    data = _one(features, "image/encoded", bytes)
    if min(height, width) < 1:
        raise ValueError(f"image/height x image/width is {height} x {width}.")
    encoded = data.startswith(_ENCODED) and len(data) != height * width * channels
    if len(data) != height * width * channels and not encoded:
        raise ValueError(
            f"image/encoded has {len(data)} bytes, but height x width x channels is {height} x {width} x {channels}."
        )
    if channels != 3:
        raise ValueError(f"image/channels is {channels}; only 3 (RGB) is supported.")
    action, clamped = _action(features)
    return RawStep(
        episode_id=_text(_one(features, "episode_id", bytes)),
        step_id=int(_one(features, "step_id", int)),
        episode_length=int(_one(features, "episode_length", int)),
        goal=_text(_one(features, "goal_info", bytes)),
        activity=_text(_one(features, "current_activity", bytes)),
        device=_text(_one(features, "device_type", bytes)),
        screenshot=data if encoded else np.frombuffer(data, np.uint8).reshape(height, width, channels),
        action=action,
        ui_elements=_ui_elements(features),
        clamped=clamped,
    )


def _action(features: dict[str, Feature]) -> tuple[Action, int]:
    """The action, and how many of its coordinates had to be clamped to the screen's edge."""
    number = int(_one(features, "results/action_type", int))
    try:
        kind = ActionType(number)
    except ValueError:
        raise ValueError(f"results/action_type {number} is not an AitW action.") from None
    if kind is ActionType.TYPE:
        return Action.type_text(_text(_one(features, "results/type_action", bytes))), 0
    if kind is not ActionType.DUAL_POINT:
        return Action(kind), 0
    points, clamped = [], 0
    for name in ("results/yx_touch", "results/yx_lift"):
        values = features.get(name, [])
        if len(values) != 2:
            raise ValueError(f"{name} has {len(values)} values; a DUAL_POINT needs 2.")
        given = (float(values[0]), float(values[1]))
        held = tuple(min(max(v, 0.0), 1.0) if -SLIGHT <= v <= 1 + SLIGHT else v for v in given)
        clamped += sum(a != b for a, b in zip(given, held, strict=True))
        points.append(held)
    return Action(kind, points[0], points[1]), clamped


def _ui_elements(features: dict[str, Feature]) -> list[dict[str, Any]]:
    texts, kinds = (features.get(f"image/ui_annotations_{k}", []) for k in ("text", "ui_types"))
    boxes = np.array(features.get("image/ui_annotations_positions", []), np.float32)
    if boxes.size % 4:
        raise ValueError(
            f"image/ui_annotations_positions has {boxes.size} values, which is not a multiple of 4."
        )
    if not np.isfinite(boxes).all():
        raise ValueError("image/ui_annotations_positions holds values that are not finite.")
    # A final step carries one empty text and no position, so the positions decide the number of elements.
    return [
        {
            "text": _text(texts[i]) if i < len(texts) else "",
            "role": _text(kinds[i]) if i < len(kinds) else "",
            "yxhw": [round(float(v), 5) for v in box],
        }
        for i, box in enumerate(boxes.reshape(-1, 4))
    ]


def _check_steps(steps: list[RawStep], path: Path) -> RawEpisode:
    first = steps[0]
    ids = [step.step_id for step in steps]
    if ids != list(range(len(ids))) or len(ids) != first.episode_length:
        # The length may be as wrong as the ids, so only as many numbers are tried as settle the question.
        missing = next((i for i in range(min(first.episode_length, len(ids) + 1)) if i not in ids), None)
        what = (
            f"step ids are {ids[:6]}, not 0, 1, 2, ..." if missing is None else f"step {missing} is missing"
        )
        raise BadEpisode(
            f"{path}: episode {first.episode_id}: {what} (episode_length {first.episode_length}); {_MEND}"
        )
    episode = RawEpisode(steps=tuple(steps))
    if not episode.num_actions:
        raise BadEpisode(
            f"{path}: episode {first.episode_id}: its only step ({first.action.type.name}) has no "
            f"known outcome; {_MEND}"
        )
    return episode


def to_episode(raw: RawEpisode, *, split: str, task_id: str, max_side: int) -> Episode:
    """The episode as stored.

    After STATUS_TASK_COMPLETE or STATUS_TASK_IMPOSSIBLE a terminal step is appended, with reward 1 or 0. An episode
    that ends otherwise loses its last transition, whose outcome was never seen, and counts as truncated.

    Args:
      raw: an episode with at least one action whose outcome is known.
      split, task_id: written into the episode.
      max_side: longest side of the stored screenshots, in pixels.

    Raises:
      BadEpisode: a screenshot is an image file that cannot be read.
    """
    first = raw.steps[0]
    try:
        images = [_stored(step.screenshot, max_side) for step in raw.steps]
    except ValueError as error:
        raise BadEpisode(f"episode {raw.episode_id}: image/encoded is {error}; {_MEND}") from None
    steps = [
        Step(
            screenshot=images[t][0],
            goal=first.goal,
            activity=step.activity,
            ui_elements=json.dumps(step.ui_elements, ensure_ascii=False),
            action=step.action,
            is_first=t == 0,
        )
        for t, step in enumerate(raw.steps)
    ]
    if raw.terminated:
        reward = _TERMINAL[raw.steps[-1].action.type]
        end = dataclasses.replace(
            steps[-1], action=None, is_first=False, is_last=True, is_terminal=True, discount=0.0
        )
        steps[-1] = dataclasses.replace(steps[-1], reward=reward, discount=0.0)
        steps.append(end)
        outcome = "success" if reward else "failure"
    else:
        steps[-1] = dataclasses.replace(steps[-1], action=None, is_last=True, discount=0.0)
        outcome = "truncated"
    return Episode(
        episode_id=raw.episode_id,
        task_id=task_id,
        split=split,
        outcome=outcome,
        policy="logged",
        device=first.device,
        screen_hw=images[0][1],
        steps=tuple(steps),
    )


def _stored(screenshot: npt.NDArray[np.uint8] | bytes, max_side: int) -> tuple[bytes, tuple[int, int]]:
    """An image file's bytes, the source's own if they are small enough to keep; and height and width."""
    if isinstance(screenshot, bytes):
        return stored_image(screenshot, max_side)
    image = shrunk(Image.fromarray(screenshot), max_side)
    return encode_png(np.asarray(image)), (image.height, image.width)


def _one(features: dict[str, Feature], name: str, kind: type) -> Any:
    values = features.get(name, [])
    if len(values) != 1 or not isinstance(values[0], kind):
        raise ValueError(f"{name} must hold one {kind.__name__}, got {len(values)} values.")
    return values[0]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
