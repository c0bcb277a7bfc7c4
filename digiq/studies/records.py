"""A study's records: one file a finished cell, compact enough to be committed, and all that the page is made from.

``<arm>.<seed>.jsonl`` (a sweep's ``<sweep>-<point>-<arm>.<seed>.jsonl``): a first line about the cell, then one line an
episode, ``[task, split, repetition, outcome, steps, exact success or null]``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from digiq import artifacts
from digiq.errors import ArtifactError
from digiq.evaluation.outcomes import Outcome


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """One evaluated episode."""

    task: str
    split: str
    index: int
    """Which repetition of the task, from 0."""
    outcome: Outcome
    steps: int
    """Executed actions."""
    exact: float | None = None
    """Exact probability of success, where it was computed."""

    @property
    def success(self) -> float:
        """Exact where known, else 1 for success and 0 for everything else, faults included."""
        return self.exact if self.exact is not None else float(self.outcome is Outcome.SUCCESS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One arm under one seed, at one point of a sweep."""

    arm: str
    seed: int
    sweep: str = ""
    point: str = ""
    digest: str
    """Of everything that decides the cell; a resume believes the record only if it is the one it wants."""
    tasks: str
    """The task set."""
    selection: dict[str, Any] | None = None
    """What the arm imitated (``distill``)."""
    q: dict[str, Any] | None = None
    """``q-metrics``, where the arm has them."""
    card: dict[str, Any] | None = None
    """The seed's data card, with the behaviour arm."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """By stage, of this cell's own and shared stages."""
    episodes: tuple[EpisodeRecord, ...] = ()

    @property
    def name(self) -> str:
        """Of the file."""
        return record_name(self.arm, self.seed, self.sweep, self.point)


def record_name(arm: str, seed: int, sweep: str = "", point: str = "") -> str:
    """File name of a cell's record."""
    return "-".join(part for part in (sweep, point, arm) if part) + f".{seed}.jsonl"


def write_record(record: CellRecord, folder: Path) -> Path:
    """Writes one file, atomically."""
    about = {k: v for k, v in dataclasses.asdict(record).items() if k != "episodes"}
    lines = [json.dumps(about, ensure_ascii=False)]
    lines += [
        json.dumps([e.task, e.split, e.index, str(e.outcome), e.steps, e.exact], ensure_ascii=False)
        for e in record.episodes
    ]
    path = folder / record.name
    artifacts.atomic_write_text(path, "\n".join(lines) + "\n")
    return path


def read_record(path: Path) -> CellRecord:
    """Reads one file.

    Raises:
      ArtifactError: it is not a cell's record.
    """
    try:
        first, *rest = path.read_text().splitlines()
        episodes = []
        for line in rest:
            task, split, index, outcome, steps, exact = json.loads(line)
            episodes.append(EpisodeRecord(task, split, index, Outcome(outcome), steps, exact))
        return CellRecord(**json.loads(first), episodes=tuple(episodes))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path}: not a readable record ({error}); delete it and run the study again."
        ) from None


def read_records(folder: Path) -> list[CellRecord]:
    """All records of a folder, sorted by file name; an absent folder holds none."""
    return [read_record(path) for path in sorted(folder.glob("*.jsonl"))]


def record_cell(
    about: CellRecord,
    *,
    evaluation: Path,
    policy: Path | None = None,
    q_metrics: Path | None = None,
    card: Path | None = None,
    seconds: dict[str, float] | None = None,
) -> CellRecord:
    """Fills a cell's record from its artefacts.

    Args:
      about: names the cell; its other fields are replaced.
      evaluation: of the stage ``evaluate``.
      policy: of ``distill``.
      q_metrics: of ``q-metrics``.
      card: of ``card``.
      seconds: by stage.
    """
    opened = artifacts.open(evaluation, stage="evaluate")
    rows = [json.loads(line) for line in (opened.path / "episodes.jsonl").read_text().splitlines()]
    exact_file = opened.path / "exact.jsonl"
    lines = exact_file.read_text().splitlines() if exact_file.is_file() else []
    exact = {row["episode_id"]: round(row["exact"], 6) for row in map(json.loads, lines)}
    episodes = tuple(
        EpisodeRecord(
            row["task_id"],
            row["split"],
            row["index"],
            Outcome(row["outcome"]),
            row["steps"],
            exact.get(row["episode_id"]),
        )
        for row in rows
    )
    return dataclasses.replace(
        about,
        tasks=opened.manifest.config["tasks"],
        selection=None
        if policy is None
        else _rounded(artifacts.open(policy, stage="distill").manifest.extra),
        q=None if q_metrics is None else _read(q_metrics, "q-metrics", "q_metrics.json"),
        card=None if card is None else _read(card, "card", "card.json"),
        seconds={name: round(value, 1) for name, value in (seconds or {}).items()},
        episodes=episodes,
    )


def _read(path: Path, stage: str, name: str) -> dict[str, Any]:
    return json.loads((artifacts.open(path, stage=stage).path / name).read_text())


def _rounded(value: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in value.items()}
