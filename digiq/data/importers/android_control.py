"""AndroidControl: its TFRecords, one record per episode, with PNG screenshots, accessibility trees and JSON actions.

Source: google-research/android_control/README.md; accessibility trees are ``AndroidAccessibilityForest`` messages of
google-deepmind/android_env (``proto/a11y``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from android_env.actions import Action, ActionType, ParseError
from digiq.config import configclass
from digiq.data.importers.base import BadEpisode, Entry, Sources
from digiq.data.importers.build import MEND, Frame, episode_of
from digiq.data.importers.files import files_under, other_format, read_splits, source_folder
from digiq.data.schema import Episode
from digiq.data.tfrecord import Feature, TFRecordError, parse_example, read_records, wire_fields
from digiq.dialects.plain_json import PlainJson
from digiq.errors import DigiQError

_KEYS = ("episode_id", "goal", "screenshots", "actions")
_NAME = {"class_name": 3, "content_description": 4, "package_name": 6, "text": 7}
_VISIBLE, _CLICKABLE = 23, 14


@configclass
class AndroidControl:
    """AndroidControl's GZIP TFRecords (``android_control-00000-of-00020``)."""

    source: Path = Path("android_control")
    """Folder of the TFRecord files, or one of them."""
    split_file: Path | None = None
    """The dataset's own ``splits.json``: the episode ids of each split. Other episodes are left out; without the file,
    all are ``train``."""
    declare: bool = True
    """Whether to end each episode with STATUS_TASK_COMPLETE on its last screen: the people who recorded them did not
    declare the end, but an agent has to. Either way the episode pays 1, as each is a demonstration; ``label`` can
    change that."""
    packages: Path | None = None
    """A JSON file that maps app names to packages; an app that it lacks keeps its name and is counted."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""

    def find(self) -> Sources:
        """See :class:`digiq.data.importers.base.Importer`."""
        source = source_folder(self.source, "android_control")
        files = [source] if source.is_file() else [f for f in files_under(source) if "-of-" in f.name]
        shards = [f for f in files if f.name.rpartition("-of-")[2].isdigit()]
        if not shards:
            raise DigiQError(
                f"{source}: holds no TFRecord files (named like android_control-00000-of-00020)"
                f"{other_format(source, 'android_control')}."
            )
        if self.split_file:
            read_splits(self.split_file)
        if self.packages:
            _packages(self.packages)
        return Sources(shards, ignored=len(files) - len(shards))

    def read(self, part: Path) -> Iterator[Entry | BadEpisode]:
        """See :class:`digiq.data.importers.base.Importer`."""
        splits = read_splits(self.split_file) if self.split_file else None
        try:
            for number, payload in enumerate(read_records(part)):
                where = f"{part}, record {number}"
                try:
                    features = parse_example(payload)
                except ValueError as error:
                    yield BadEpisode(f"{where}: not a tf.train.Example ({error}); {MEND}")
                    continue
                missing = [key for key in _KEYS if not features.get(key)]
                if missing:
                    other = other_format(part, "android_control")
                    yield BadEpisode(f"{where}: '{missing[0]}' is missing{other}; {MEND}")
                    if other:
                        return
                    continue
                name = _text(features["episode_id"][0])
                split = "train" if splits is None else splits.get(name)
                if split is not None:
                    where = f"{where}, episode {name}"
                    make = functools.partial(self._make, where, name, split, features)
                    yield Entry(name, make, self._counts(features))
        except TFRecordError as error:
            yield BadEpisode(f"{str(error).rstrip('.')}, or set on_bad: skip to leave out the rest of it.")

    def _counts(self, features: Mapping[str, Feature]) -> dict[str, int]:
        counts = {"merged": 0, "apps_without_package": 0}
        known = _packages(self.packages) if self.packages else {}
        for action in map(_loaded, features["actions"]):
            counts["merged"] += action.get("action_type") == "type"
            if action.get("action_type") == "open_app":
                counts["apps_without_package"] += str(action.get("app_name")) not in known
        return {what: number for what, number in counts.items() if number}

    def _make(self, where: str, name: str, split: str, features: Mapping[str, Feature]) -> Episode:
        try:
            return self._episode(name, split, features)
        except (ValueError, TypeError, LookupError) as error:
            raise BadEpisode(f"{where}: {str(error).rstrip('.')}; {MEND}") from None

    def _episode(self, name: str, split: str, features: Mapping[str, Feature]) -> Episode:
        images, actions = features["screenshots"], features["actions"]
        if len(images) != len(actions) + 1:
            raise ValueError(f"{len(images)} screenshots need one action fewer, but there are {len(actions)}")
        heights, widths = (features.get(f"screenshot_{side}", []) for side in ("heights", "widths"))
        if not len(heights) == len(widths) == len(images):
            raise ValueError(
                f"{len(images)} screenshots, but {len(heights)} heights and {len(widths)} widths"
            )
        sizes = [(int(h), int(w)) for h, w in zip(heights, widths, strict=True)]
        told = [_text(t) for t in features.get("step_instructions", [])]
        trees = features.get("accessibility_trees", [])
        frames, app = [], ""
        for t, (image, size) in enumerate(zip(images, sizes, strict=True)):
            if not isinstance(image, bytes):
                raise ValueError("screenshots are not bytes")
            tree = trees[t] if t < len(trees) else b""
            elements, package = read_forest(tree, size) if isinstance(tree, bytes) else ([], "")
            app = app or package
            action = self._action(actions[t], size, t) if t < len(actions) else None
            if action is None and self.declare:
                action = Action.complete()
            said = {"step_instruction": told[t]} if t < len(told) else {}
            frames.append(
                Frame(image=image, action=action, activity=package, ui_elements=elements, extras=said)
            )
        return episode_of(
            frames,
            episode_id=name,
            goal=_text(features["goal"][0]),
            max_side=self.max_side,
            outcome="success",
            split=split,
            policy="human",
            extras={"app": app} if app else {},
        )

    def _action(self, value: Any, size: tuple[int, int], t: int) -> Action:
        fields = _loaded(value)
        action = PlainJson().parse(json.dumps(fields), size)
        if isinstance(action, ParseError):
            raise ValueError(f"action {t}, {json.dumps(fields)[:80]}: {action.reason}")
        if action.type is ActionType.OPEN_APP and self.packages:
            return Action(ActionType.OPEN_APP, text=_packages(self.packages).get(action.text, action.text))
        return action


def read_forest(data: bytes, size: tuple[int, int]) -> tuple[list[dict[str, Any]], str]:
    """Visible elements that have a text or can be clicked, and the package of the foreground app.

    Args:
      data: an ``AndroidAccessibilityForest``; other bytes give no elements.
      size: height and width of the screen, in pixels.

    Returns:
      ``text``, ``role``, ``yxhw`` (fractions) and ``clickable`` of each, and a package name, or an empty one.
    """
    elements: list[dict[str, Any]] = []
    package = ""
    try:
        for window in _messages(data, 1):
            for tree in _messages(window, 11):
                for node in _messages(tree, 1):
                    fields = dict(wire_fields(memoryview(node)))
                    told = {key: _decoded(fields.get(number)) for key, number in _NAME.items()}
                    if not told["package_name"].startswith("com.android.systemui"):
                        package = package or told["package_name"]
                    words = told["text"] or told["content_description"]
                    box = fields.get(2)
                    if not fields.get(_VISIBLE) or box is None or not (words or fields.get(_CLICKABLE)):
                        continue
                    place = _box(box, size)
                    if place is not None:
                        role = told["class_name"].rpartition(".")[2]
                        clickable = bool(fields.get(_CLICKABLE))
                        elements.append({"text": words, "role": role, "yxhw": place, "clickable": clickable})
    except (ValueError, TypeError):
        return [], ""
    return elements, package


def _box(box: Any, size: tuple[int, int]) -> list[float] | None:
    sides = dict(wire_fields(box))
    left, top, right, bottom = (_signed(sides.get(k, 0)) for k in (1, 2, 3, 4))
    height, width = size
    left, right = max(0, left), min(width, right)
    top, bottom = max(0, top), min(height, bottom)
    if right <= left or bottom <= top:
        return None
    place = (top / height, left / width, (bottom - top) / height, (right - left) / width)
    return [round(v, 5) for v in place]


def _signed(value: Any) -> int:
    number = int(value)
    return number - (1 << 64) if number >> 63 else number


def _messages(data: bytes | memoryview, number: int) -> Iterator[memoryview]:
    for field, value in wire_fields(memoryview(data)):
        if field == number and isinstance(value, memoryview):
            yield value


def _decoded(value: Any) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else ""


def _loaded(value: Any) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except (ValueError, TypeError):
        found = None
    return found if isinstance(found, dict) else {}


@functools.lru_cache(maxsize=4)
def _packages(file: Path) -> Mapping[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DigiQError(f"{file}: cannot be read as JSON ({error}); set android_control.packages.") from None
    if not isinstance(found, dict):
        raise DigiQError(f"{file}: must be a JSON object that maps app names to packages.")
    return {str(name): str(package) for name, package in found.items()}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
