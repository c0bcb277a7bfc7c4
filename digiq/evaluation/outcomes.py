"""The outcome of every scheduled episode. None is dropped: faults are counted, and two rates show their effect."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import Any

from digiq.statistics import Estimate, wilson


class Outcome(enum.StrEnum):
    """How an episode ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    """The agent ended the episode without reaching the goal, or made an error of its own (never re-run)."""
    TRUNCATED = "truncated"
    """The budget of actions ran out."""
    INFRA_ERROR = "infra_error"
    """The device failed, also in the allowed re-runs; says nothing about the agent."""
    JUDGE_ERROR = "judge_error"
    """The judge gave no verdict; says nothing about the agent."""
    TASK_ERROR = "task_error"
    """No device can begin the task, for example because an app is not installed; says nothing about the agent."""

    @property
    def is_fault(self) -> bool:
        """True if the device, judge or task failed, not the agent."""
        return self in (Outcome.INFRA_ERROR, Outcome.JUDGE_ERROR, Outcome.TASK_ERROR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One line of ``episodes.jsonl``."""

    episode_id: str
    task_id: str
    split: str
    index: int
    """Which repetition of the task this is, from 0."""
    seed: int
    """Seed of the device's layout and noise. The same seed means the same episode in every arm."""
    outcome: Outcome
    steps: int
    """Number of executed actions."""
    error: str = ""
    fault: str = ""
    """Kind of the fault that ended it (:data:`android_env.faults.KINDS`); empty if none did."""
    tries: int = 1
    """How often it was started; more than once only after faults."""
    notes: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Number of steps with each kind of anomaly (:attr:`android_env.devices.StepReport.notes`)."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"outcome": str(self.outcome)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> EpisodeResult:
        """The inverse of :meth:`to_json`.

        Raises:
          ValueError: an outcome is unknown.
          TypeError: a field is missing or unknown.
        """
        return cls(**{**row, "outcome": Outcome(row["outcome"])})


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts and rates of a set of episodes."""

    episodes: int
    """Number of scheduled episodes."""
    counts: dict[str, int]
    """Episodes by outcome; every outcome is present."""
    strict: Estimate
    """Successes over all scheduled episodes, Wilson 95 %."""
    infra_excluded: Estimate
    """Successes over the episodes in which device and judge worked, Wilson 95 %."""
    mean_steps: float
    """Mean number of executed actions, over the episodes in which device and judge worked; NaN if there are none."""


def tally(results: Iterable[EpisodeResult]) -> Tally:
    """Counts outcomes and computes both rates."""
    results = list(results)
    counts = {str(outcome): 0 for outcome in Outcome}
    for result in results:
        counts[str(result.outcome)] += 1
    sound = [r for r in results if not r.outcome.is_fault]
    successes = counts[str(Outcome.SUCCESS)]
    return Tally(
        episodes=len(results),
        counts=counts,
        strict=wilson(successes, len(results)),
        infra_excluded=wilson(successes, len(sound)),
        mean_steps=sum(r.steps for r in sound) / len(sound) if sound else float("nan"),
    )
