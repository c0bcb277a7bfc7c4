"""A study's records: one file per study, compact enough to commit, from which alone the page is made.

``records.jsonl`` holds one line for each plan of episodes, ``{"plan": digest, "episodes": [[task, split, repetition],
...]}``, which arms share, and one line for each finished cell. That line says what the cell is. For the episodes of its
plan, in order, it lists outcomes (a letter each, see :data:`LETTERS`), executed steps, and exact successes if they were
computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from digiq import artifacts
from digiq.errors import ArtifactError
from digiq.evaluation.outcomes import Outcome

RECORDS = "records.jsonl"
LETTERS = {
    "s": Outcome.SUCCESS,
    "f": Outcome.FAILURE,
    "t": Outcome.TRUNCATED,
    "i": Outcome.INFRA_ERROR,
    "j": Outcome.JUDGE_ERROR,
    "k": Outcome.TASK_ERROR,
}
"""Letters that stand for outcomes."""
_LETTER = {outcome: letter for letter, outcome in LETTERS.items()}


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """One evaluated episode."""

    task: str
    split: str
    index: int
    """Number of the repetition of the task, from 0."""
    outcome: Outcome
    steps: int
    """Executed actions."""
    exact: float | None = None
    """Exact probability of success, if it was computed."""

    @property
    def success(self) -> float:
        """The exact probability if known; otherwise 1 for success and 0 for everything else, including faults."""
        return self.exact if self.exact is not None else float(self.outcome is Outcome.SUCCESS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One arm under one seed, at one point of a sweep."""

    arm: str
    seed: int
    sweep: str = ""
    point: str = ""
    digest: str
    """Digest of everything that decides the cell; a resume uses the record only if the digest matches."""
    tasks: str
    """The task set."""
    selection: dict[str, Any] | None = None
    """What the arm imitated (``distill``)."""
    q: dict[str, Any] | None = None
    """``q-metrics``, if the arm has them."""
    card: dict[str, Any] | None = None
    """The seed's data card, in the record of the behaviour arm."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds by stage, of this cell's own stages and of shared ones."""
    episodes: tuple[EpisodeRecord, ...] = ()

    @property
    def name(self) -> str:
        """Unique in the study."""
        return record_name(self.arm, self.seed, self.sweep, self.point)


def record_name(arm: str, seed: int, sweep: str = "", point: str = "") -> str:
    """Name of a cell's record, e.g. ``noise-x2-digiq.25``."""
    return "-".join(part for part in (sweep, point, arm) if part) + f".{seed}"


def write_record(record: CellRecord, folder: Path) -> Path:
    """Puts a cell's record into the folder's file, atomically; it replaces an earlier record of the same cell."""
    known = {found.name: found for found in read_records(folder)}
    return write_records([*(known | {record.name: record}).values()], folder)


def write_records(records: Iterable[CellRecord], folder: Path) -> Path:
    """Writes the folder's file anew, cells in the order of their names."""
    plans: dict[str, str] = {}
    cells: list[str] = []
    for record in sorted(records, key=lambda record: record.name):
        episodes = [[e.task, e.split, e.index] for e in record.episodes]
        plan = hashlib.sha256(json.dumps(episodes).encode()).hexdigest()[:12]
        plans[plan] = _line({"plan": plan, "episodes": episodes})
        about = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "episodes"}
        exact = [e.exact for e in record.episodes]
        about |= {
            "of_plan": plan,
            "outcomes": "".join(_LETTER[e.outcome] for e in record.episodes),
            "steps": [e.steps for e in record.episodes],
            "exact": exact if any(value is not None for value in exact) else None,
        }
        cells.append(_line(about))
    path = folder / RECORDS
    artifacts.atomic_write_text(path, "".join([*(plans[plan] for plan in sorted(plans)), *cells]))
    return path


def read_records(folder: Path) -> list[CellRecord]:
    """All records of a folder, sorted by name; a folder without the file holds none.

    Raises:
      ArtifactError: a line is not a readable record.
    """
    path = folder / RECORDS
    if not path.is_file():
        return []
    plans: dict[str, list[list[Any]]] = {}
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            about = json.loads(line)
            if "plan" in about:
                plans[about["plan"]] = about["episodes"]
                continue
            plan = plans[about.pop("of_plan")]
            columns = about.pop("outcomes"), about.pop("steps"), about.pop("exact") or [None] * len(plan)
            episodes = tuple(
                EpisodeRecord(task, split, index, LETTERS[letter], steps, exact)
                for (task, split, index), letter, steps, exact in zip(plan, *columns, strict=True)
            )
            records.append(CellRecord(**about, episodes=episodes))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(
                f"{path}: line {number} is not a readable record ({error}); delete it and run the study again."
            ) from None
    return sorted(records, key=lambda record: record.name)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


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
      evaluation: artefact of the stage ``evaluate``.
      policy: artefact of ``distill``.
      q_metrics: artefact of ``q-metrics``.
      card: artefact of ``card``.
      seconds: seconds by stage.
    """
    opened = artifacts.open(evaluation, stage="evaluate")
    rows = [
        json.loads(line) for line in (opened.path / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    exact_file = opened.path / "exact.jsonl"
    lines = exact_file.read_text(encoding="utf-8").splitlines() if exact_file.is_file() else []
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
        else _rounded(artifacts.read_manifest(policy, stage="distill").extra),
        q=None if q_metrics is None else _read(q_metrics, "q-metrics", "q_metrics.json"),
        card=None if card is None else _read(card, "card", "card.json"),
        seconds={name: round(value, 1) for name, value in (seconds or {}).items()},
        episodes=episodes,
    )


def _read(path: Path, stage: str, name: str) -> dict[str, Any]:
    return json.loads((artifacts.open(path, stage=stage).path / name).read_text(encoding="utf-8"))


def _rounded(value: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in value.items()}
