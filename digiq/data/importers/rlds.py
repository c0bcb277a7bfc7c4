"""RLDS datasets: TFDS directories of ArrayRecord or TFRecord files, with our step keys or a mapping to theirs.

Source: google-research/rlds, README (steps with observation, action, reward, discount, is_first, is_last, is_terminal);
TFDS lays nested features out as ``steps/observation/...``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from android_env.actions import Action, ActionType, ParseError
from digiq.config import configclass
from digiq.data.importers.base import BadEpisode, Entry, Sources
from digiq.data.importers.build import MEND, Frame, episode_of
from digiq.data.importers.files import files_under, other_format, source_folder
from digiq.data.schema import Episode
from digiq.dialects.base import Unsaid, on_screen
from digiq.dialects.choice import DialectConfig
from digiq.errors import DigiQError

_RECORDS = re.compile(r".+\.(?:tfrecord|array_record)-\d+-of-\d+")
_OURS = {
    "screenshot": "steps/observation/screenshot",
    "goal": "steps/observation/goal",
    "activity": "steps/observation/activity",
    "ui_elements": "steps/observation/ui_elements",
    "action": "",
    "action_type": "steps/action/type",
    "touch_yx": "steps/action/touch_yx",
    "lift_yx": "steps/action/lift_yx",
    "text": "steps/action/text",
    "log_prob": "steps/behavior_log_prob",
    "reward": "steps/reward",
    "is_terminal": "steps/is_terminal",
    "episode_id": "episode_id",
    "split": "split",
    "task_id": "task_id",
    "policy": "policy",
    "device": "device",
}


@configclass
class Rlds:
    """A TFDS directory of RLDS episodes (``features.json`` and records beside it); screenshots as PNG, JPEG or WebP bytes."""

    source: Path = Path("rlds")
    """The directory with ``features.json``."""
    keys: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """Mapping from our keys to theirs, such as ``{screenshot: steps/observation/image, goal:
    steps/language_instruction, action: steps/action_text}``. A mapped ``action`` is a text in the dialect below."""
    say: DialectConfig = DialectConfig()
    """The dialect of actions given as text."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""

    def find(self) -> Sources:
        """See :class:`digiq.data.importers.base.Importer`."""
        source = source_folder(self.source, "rlds")
        unknown = sorted(set(self.keys) - set(_OURS))
        if unknown:
            raise DigiQError(f"rlds.keys: '{unknown[0]}' is not one of {', '.join(_OURS)}.")
        files = (
            [file for file in files_under(source) if _RECORDS.fullmatch(file.name)] if source.is_dir() else []
        )
        if not files:
            raise DigiQError(
                f"{source}: holds no TFDS records (files like name-train.tfrecord-00000-of-00001)"
                f"{other_format(source, 'rlds')}; set rlds.source."
            )
        return Sources(files)

    def read(self, part: Path) -> Iterator[Entry | BadEpisode]:
        """See :class:`digiq.data.importers.base.Importer`."""
        from digiq.data.tfrecord import TFRecordError, parse_example, read_records

        try:
            for number, payload in enumerate(
                _array_records(part) if "array_record" in part.name else read_records(part)
            ):
                where = f"{part}, record {number}"
                try:
                    found = parse_example(payload)
                except ValueError as error:
                    yield BadEpisode(f"{where}: not a tf.train.Example ({error}); {MEND}")
                    continue
                ids = found.get(self._key("episode_id")) or [f"{part.name}/{number}"]
                name = _text(ids[0])
                yield Entry(name, functools.partial(self._make, f"{where}, episode {name}", name, found))
        except (TFRecordError, RuntimeError) as error:
            yield BadEpisode(
                f"{str(error).rstrip('.')}; copy it again, or set on_bad: skip to leave out the rest of it."
            )

    def _key(self, name: str) -> str:
        return self.keys.get(name, _OURS[name])

    def _make(self, where: str, name: str, found: Mapping[str, Any]) -> Episode:
        try:
            return self._episode(name, found)
        except (ValueError, TypeError, LookupError) as error:
            raise BadEpisode(f"{where}: {str(error).rstrip('.')}; {MEND}") from None

    def _episode(self, name: str, found: Mapping[str, Any]) -> Episode:
        images = found.get(self._key("screenshot")) or []
        if not images:
            raise ValueError(f"'{self._key('screenshot')}' is missing; set rlds.keys")
        count = len(images)

        def column(key: str, width: int = 1) -> list[Any]:
            values = list(found.get(self._key(key)) or []) if self._key(key) else []
            if not values:
                return []
            if len(values) != count * width:
                raise ValueError(f"'{self._key(key)}' has {len(values)} values for {count} steps")
            return [values[t] if width == 1 else values[t * width : (t + 1) * width] for t in range(count)]

        goals = column("goal") or [_text((found.get(self._key("goal")) or [b""])[0])] * count
        spoken, kinds, texts = column("action"), column("action_type"), column("text")
        touches, lifts = column("touch_yx", 2), column("lift_yx", 2)
        rewards, log_probs = column("reward"), column("log_prob")
        terminal = column("is_terminal")
        activities, elements = column("activity"), column("ui_elements")
        if not spoken and not kinds:
            raise ValueError(f"'{self._key('action_type')}' is missing, and rlds.keys names no 'action'")
        frames = []
        for t in range(count):
            action = None
            if t < count - 1:
                action = (
                    self._said(spoken[t], images[t])
                    if spoken
                    else _action(
                        int(kinds[t]),
                        touches[t] if touches else (),
                        lifts[t] if lifts else (),
                        texts[t] if texts else "",
                    )
                )
            frames.append(
                Frame(
                    image=images[t],
                    action=action,
                    log_prob=float(log_probs[t]) if log_probs else math.nan,
                    reward=float(rewards[t]) if rewards and t < count - 1 else 0.0,
                    activity=_text(activities[t]) if activities else "",
                    ui_elements=json.loads(_text(elements[t])) if elements else (),
                )
            )
        won = sum(frame.reward for frame in frames) > 0
        ended = bool(terminal[-1]) if terminal else True
        about: dict[str, Any] = {
            key: _text(found[self._key(key)][0])
            for key in ("split", "task_id", "policy", "device")
            if found.get(self._key(key))
        }
        return episode_of(
            frames,
            episode_id=name,
            goal=_text(goals[0]),
            max_side=self.max_side,
            outcome=("success" if won else "failure") if ended else "truncated",
            **about,
        )

    def _said(self, text: Any, image: bytes) -> Action:
        from digiq.data.importers.jsonl import size_of

        action = self.say.chosen.parse(_text(text), size_of(image, "a step"))
        if isinstance(action, ParseError):
            raise ValueError(f"action {_text(text)[:80]!r}: {action.reason}")
        return action


def _action(kind: int, touch: Any, lift: Any, text: Any) -> Action:
    try:
        kind = ActionType(kind)
    except ValueError:
        raise ValueError(f"action type {kind} is unknown") from None
    if kind in (ActionType.DUAL_POINT, ActionType.LONG_PRESS):
        if len(touch) != 2:
            raise Unsaid(f"a {kind.name} without a point")
        start = (on_screen(float(touch[0])), on_screen(float(touch[1])))
        end = (on_screen(float(lift[0])), on_screen(float(lift[1]))) if len(lift) == 2 else start
        return Action(kind, start, end)
    return Action(kind, text=_text(text))


def _array_records(path: Path) -> list[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path))
    try:
        return reader.read_all()
    finally:
        reader.close()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
