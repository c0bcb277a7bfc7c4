"""Rewards, stored apart from the episodes so that one recording can be labelled in several ways."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from digiq import artifacts
from digiq.data.schema import Episode, Outline, Step
from digiq.data.store import EpisodeStore
from digiq.errors import ArtifactError

REWARDS = "rewards.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """The rewards of one episode, or of a copy of it under another goal."""

    episode_id: str
    source_id: str
    """The recorded episode; differs from ``episode_id`` for a relabelled copy."""
    goal: str | None
    """The copy's goal; None keeps the recorded one."""
    rewards: tuple[float, ...]
    """One per executed action."""
    provenance: str
    """The source of the label: ``recorded``, ``other_goals``, ``shuffled``, ``file``, ``rule``, ``judge ...``."""
    length: int | None = None
    """Number of actions that count, equal to the number of rewards. The episode ends after them: at its first error, or
    where it was solved. None: all actions count."""
    discounts: tuple[float, ...] | None = None
    """Step discounts instead of the recorded ones, one per action that counts; after a 0 no value follows. The episode is
    then cut off after its last action, not ended, so that ``timeout: bootstrap`` values what comes next."""

    @property
    def is_copy(self) -> bool:
        return self.source_id != self.episode_id


def write_labels(path: Path, labels: Sequence[Label]) -> None:
    """Writes one JSON line per label, atomically."""
    rows = [dataclasses.asdict(label) for label in labels]
    for row in rows:
        for name in (
            "length",
            "discounts",
        ):  # where nothing is cut, the file is the same as before cuts existed
            if row[name] is None:
                del row[name]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    artifacts.atomic_write_text(path / REWARDS, "\n".join(lines) + "\n")


def read_labels(path: str | Path) -> list[Label]:
    """Reads a ``label`` artefact.

    Raises:
      ArtifactError: it is unfinished or not a ``label`` artefact.
    """
    path = artifacts.open(path, stage="label").path
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (path / REWARDS).read_text(encoding="utf-8").splitlines()
    ]
    for row in rows:
        row |= {name: tuple(row[name]) for name in ("rewards", "discounts") if name in row}
    return [Label(**row) for row in rows]


class LabelledEpisodes(Sequence[Episode]):
    """The episodes that every later stage iterates over, with the rewards and goals of a ``label`` artefact.

    Without one, episodes come as recorded. Copies under other goals name their original (``Episode.copy_of``).

    Raises:
      ArtifactError: a label names an episode that does not exist, or its number of rewards differs from the number of
        actions.
    """

    def __init__(self, episodes: str | Path, rewards: str | Path | None = None):
        self._store = EpisodeStore(episodes)
        self._labels = None if rewards is None else read_labels(rewards)
        if self._labels is not None:
            self._position = {name: i for i, name in enumerate(self._store.episode_ids)}
            for label in self._labels:
                if label.source_id not in self._position:
                    raise ArtifactError(
                        f"{rewards}: labels episode {label.source_id}, which {episodes} lacks; run 'label' again."
                    )

    def __len__(self) -> int:
        return len(self._store) if self._labels is None else len(self._labels)

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]
        if self._labels is None:
            return self._store[index]
        label = self._labels[index]
        return relabel(self._store[self._position[label.source_id]], label)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    @functools.cached_property
    def outlines(self) -> Sequence[Outline]:
        """All episodes without their screens, in order: enough for ids, splits, lengths and rewards."""
        recorded = self._store.outlines
        if self._labels is None:
            return recorded
        return [_relabel_outline(recorded[self._position[label.source_id]], label) for label in self._labels]


def relabel(episode: Episode, label: Label) -> Episode:
    """The episode under a label's goal and rewards."""
    outline = _relabel_outline(episode.outline, label)
    rewards = (*outline.rewards, 0.0)
    goal = {} if label.goal is None else {"goal": label.goal}
    recorded = episode.steps if label.length is None else _cut(episode.steps, label.length)
    end = dataclasses.replace(recorded[-1], is_terminal=outline.is_terminated)
    discounts = (*outline.discounts, end.discount)
    steps: tuple[Step, ...] = tuple(
        dataclasses.replace(step, reward=r, discount=d, **goal)
        for step, r, d in zip((*recorded[:-1], end), rewards, discounts, strict=True)
    )
    return dataclasses.replace(
        episode, episode_id=outline.episode_id, copy_of=outline.copy_of, steps=steps, outcome=outline.outcome
    )


def _cut(steps: tuple[Step, ...], length: int) -> tuple[Step, ...]:
    """The first ``length`` actions, and the screen after them as the terminal one."""
    last = dataclasses.replace(steps[length - 1], discount=0.0)
    end = dataclasses.replace(
        steps[length],
        action=None,
        behavior_log_prob=math.nan,
        discount=0.0,
        is_last=True,
        is_terminal=True,
    )
    return (*steps[: length - 1], last, end)


def _relabel_outline(episode: Outline, label: Label) -> Outline:
    if label.length is not None:
        if not 1 <= label.length <= episode.num_actions:
            raise ArtifactError(
                f"label {label.episode_id}: ends after {label.length} of {episode.num_actions} actions; run 'label' again."
            )
        discounts = (*episode.discounts[: label.length - 1], 0.0)
        episode = dataclasses.replace(
            episode, rewards=episode.rewards[: label.length], discounts=discounts, is_terminated=True
        )
    if label.discounts is not None:
        episode = dataclasses.replace(episode, discounts=label.discounts, is_terminated=False)
    for name, values in (("rewards", label.rewards), ("discounts", episode.discounts)):
        if len(values) != episode.num_actions:
            raise ArtifactError(
                f"label {label.episode_id}: {len(values)} {name} for {episode.num_actions} actions; run 'label' again."
            )
    # A recorded label changes nothing, so a time-out stays a time-out.
    recorded = label.provenance == "recorded"
    return dataclasses.replace(
        episode,
        episode_id=label.episode_id,
        copy_of=label.source_id if label.is_copy else "",
        goal=episode.goal if label.goal is None else label.goal,
        rewards=label.rewards,
        outcome=episode.outcome if recorded else "success" if sum(label.rewards) > 0 else "failure",
    )
