"""Statistics of several tries per task, and the possible effect of faults on a rate."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from digiq.evaluation.outcomes import EpisodeResult, Outcome
from digiq.statistics import Estimate, cluster_bootstrap, pass_at_k, pass_hat_k

UNRECORDED = 0.3
"""If the share of actions that a replayed recording does not know exceeds this, its rate is no evidence of success."""


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Rates over the tasks that were tried at least ``k`` times."""

    k: int
    tasks: int
    pass_at_k: Estimate
    """Probability that at least one of ``k`` tries succeeds (Chen et al., 2021), mean over tasks."""
    pass_hat_k: Estimate
    """Probability that all ``k`` tries succeed (τ-bench), mean over tasks."""


def by_tries(results: Sequence[EpisodeResult], *, resamples: int = 4000) -> list[Repeats]:
    """Unbiased Pass@k and Pass^k for every k up to the largest number of tries of a task; faults count as no success.

    Intervals are by bootstrap over tasks.
    """
    counts = _counts(results)
    most = max((tries for tries, _ in counts.values()), default=0)
    rows = []
    for k in range(1, most + 1):
        able = {task: found for task, found in counts.items() if found[0] >= k}
        names = list(able)
        at, hat = (
            cluster_bootstrap([passes(n, c, k) for n, c in able.values()], names, resamples=resamples)
            for passes in (pass_at_k, pass_hat_k)
        )
        rows.append(Repeats(k, len(able), at, hat))
    return rows


def flip_rate(results: Sequence[EpisodeResult]) -> float | None:
    """Share of the tasks tried at least twice without a fault that succeed in one try but not in another."""
    counts = _counts([r for r in results if not r.outcome.is_fault])
    able = [(n, c) for n, c in counts.values() if n > 1]
    return sum(0 < c < n for n, c in able) / len(able) if able else None


def bounds(results: Sequence[EpisodeResult]) -> tuple[float, float]:
    """The rate if every fault hides a failure, and the rate if every fault hides a success."""
    successes = sum(r.outcome is Outcome.SUCCESS for r in results)
    faults = sum(r.outcome.is_fault for r in results)
    return successes / len(results), (successes + faults) / len(results)


def fault_kinds(results: Sequence[EpisodeResult]) -> dict[str, int]:
    """Number of episodes that each kind of fault has ended, without faults that count as failures of the agent."""
    ended = [r for r in results if r.outcome.is_fault]
    return dict(Counter(r.fault or str(r.outcome) for r in ended))


def table_rows(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """The entries about repeats and faults in an arm's table, JSON-able."""
    low, high = bounds(results)
    rows: dict[str, Any] = {
        "if_faults_fail": low,
        "if_faults_succeed": high,
        "fault_kinds": fault_kinds(results),
        "retried": sum(r.tries > 1 for r in results),
    }
    notes: Counter[str] = Counter()
    for result in results:
        notes.update(result.notes)
    if notes:
        steps = sum(r.steps for r in results)
        rows["notes"] = {note: {"steps": count, "share": count / steps} for note, count in notes.items()}
        if notes["unrecorded"] > UNRECORDED * steps:
            rows["no_claim"] = (
                f"{notes['unrecorded']} of {steps} actions were never recorded where they were taken: what a phone would "
                "have done is not known, and the rate says nothing of success."
            )
    tries = by_tries(results)
    if len(tries) > 1:
        rows["repeats"] = [
            {
                "k": row.k,
                "tasks": row.tasks,
                "pass_at_k": row.pass_at_k._asdict(),
                "pass_hat_k": row.pass_hat_k._asdict(),
            }
            for row in tries
        ]
        rows["flip_rate"] = flip_rate(results)
    return rows


def _counts(results: Sequence[EpisodeResult]) -> dict[str, tuple[int, int]]:
    tries = Counter(r.task_id for r in results)
    won = Counter(r.task_id for r in results if r.outcome is Outcome.SUCCESS)
    return {task: (count, won[task]) for task, count in tries.items()}
