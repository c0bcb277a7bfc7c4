"""Compares two evaluations, paired by episode, with an interval and a verdict in one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import fisher_exact

from digiq import artifacts
from digiq.errors import DigiQError
from digiq.evaluation.evaluate import EPISODES, read_results
from digiq.evaluation.outcomes import EpisodeResult, Outcome
from digiq.evaluation.rejudge import Agreement
from digiq.evaluation.repeats import fault_kinds
from digiq.statistics import Comparison, Estimate, cluster_bootstrap, paired_comparison

_ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Compared:
    """The comparison, over the episodes that both arms ran."""

    names: tuple[str, str]
    pairs: int
    tasks: int
    left_out: int
    """Episodes that only one of the arms ran."""
    strict: Comparison
    """Success of the first arm minus that of the second; faults count as no success."""
    excluded: Comparison | None
    """Likewise, over the pairs in which neither met a fault; None if there is no such pair."""
    worst: Estimate
    """The difference with the first arm's faults as failures and the second's as successes: a lower bound."""
    best: Estimate
    """The difference the other way round: an upper bound."""
    faults: tuple[int, int]
    kinds: tuple[dict[str, int], dict[str, int]]
    fault_p: float
    """P-value of Fisher's exact test that both meet faults equally often; if small, leaving faults out may mislead."""
    judged: Estimate | None = None
    """`excluded`, with the errors of the judge of both arms' outcomes propagated; None if they are not given."""

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        a, b = self.names
        value, low, high = self.strict.difference
        if self.pairs < 2 or self.tasks < 2:
            return f"A single pair or task decides nothing between {a} and {b}."
        if low > 0 or high < 0:
            better, worse = (a, b) if value > 0 else (b, a)
            points = _points(value, low, high) if value > 0 else _points(-value, -high, -low)
            # The interval that is least favourable to the better arm.
            hard = self.worst.low if value > 0 else -self.best.high
            caveat = "" if hard > 0 or not any(self.faults) else ", unless faults hid the opposite"
            if self.judged is not None and self.judged.low <= 0 <= self.judged.high:
                caveat += ", but the judge's errors may explain the difference"
            return f"{better} succeeds more often than {worse}, by {points}, p = {self.strict.p_value:.3g}{caveat}."
        points = _points(value, low, high)
        return (
            f"No difference is shown between {a} and {b}: {points}, p = {self.strict.p_value:.3g}, over {self.pairs} "
            f"episodes of {self.tasks} tasks."
        )

    @property
    def warnings(self) -> list[str]:
        found = []
        if self.fault_p < _ALPHA:
            found.append(
                f"Faults are not equally frequent ({self.faults[0]} and {self.faults[1]} of {self.pairs} episodes, "
                f"p = {self.fault_p:.2g}): the rate without them may mislead; read the strict one and the bounds."
            )
        if self.judged is not None and math.isnan(self.judged.value):
            found.append("The judge does no better than chance: its verdicts say nothing about either arm.")
        if self.left_out:
            found.append(
                f"{self.left_out} episodes have no partner of the same task and seed, and are left out."
            )
        return found


def compare(
    a: Sequence[EpisodeResult],
    b: Sequence[EpisodeResult],
    names: tuple[str, str],
    judge: Agreement | None = None,
) -> Compared:
    """Compares two arms on the episodes, matched by id and seed, that both ran.

    Args:
      a: results of the first arm.
      b: results of the second arm.
      names: names of the arms.
      judge: agreement of the judge of both arms' outcomes with known outcomes; None: it makes no errors.

    Raises:
      DigiQError: no episode was run by both.
    """
    mine = {(r.episode_id, r.seed): r for r in a}
    others = {(r.episode_id, r.seed): r for r in b}
    common = [key for key in mine if key in others]
    if not common:
        raise DigiQError(
            f"{names[0]} and {names[1]} have no episode in common; evaluate both with the same seed on the same task set."
        )
    first, second = [mine[k] for k in common], [others[k] for k in common]
    tasks = [r.task_id for r in first]

    def won(results: Sequence[EpisodeResult], fault: float = 0.0) -> list[float]:
        return [fault if r.outcome.is_fault else float(r.outcome is Outcome.SUCCESS) for r in results]

    sound = [
        i
        for i, (x, y) in enumerate(zip(first, second, strict=True))
        if not (x.outcome.is_fault or y.outcome.is_fault)
    ]
    excluded = judged = None
    if sound:
        one, two = won(first), won(second)
        if judge is not None:
            judged = judge.corrected_difference([one[i] - two[i] for i in sound], [tasks[i] for i in sound])
        excluded = paired_comparison(
            [one[i] for i in sound], [two[i] for i in sound], [tasks[i] for i in sound]
        )

    def gap(x: list[float], y: list[float]) -> Estimate:
        return cluster_bootstrap([p - q for p, q in zip(x, y, strict=True)], tasks)

    faults = (sum(r.outcome.is_fault for r in first), sum(r.outcome.is_fault for r in second))
    cells = [[count, len(common) - count] for count in faults]
    return Compared(
        names=names,
        pairs=len(common),
        tasks=len(set(tasks)),
        left_out=len(mine) + len(others) - 2 * len(common),
        strict=paired_comparison(won(first), won(second), tasks),
        excluded=excluded,
        worst=gap(won(first), won(second, 1.0)),
        best=gap(won(first, 1.0), won(second)),
        faults=faults,
        kinds=(fault_kinds(first), fault_kinds(second)),
        fault_p=float(np.asarray(fisher_exact(cells))[1]) if any(faults) else 1.0,
        judged=judged,
    )


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} points (95 % of {100 * low:+.1f} to {100 * high:+.1f})"


def open_results(path: Path) -> tuple[str, list[EpisodeResult]]:
    """The arm's name and results of a finished ``evaluate`` artefact.

    Raises:
      ArtifactError: ``path`` is no such artefact, or is unfinished.
    """
    wrapped = artifacts.read_manifest(path).stage == "evaluate-agent"
    artifact = artifacts.open(path, stage="evaluate-agent" if wrapped else "evaluate")
    return str(artifact.manifest.config["arm"]), read_results(artifact.path / EPISODES)
