"""The numbers of a study: rates, paired differences, and verdicts on its hypotheses.

``registration.analysis`` is the digest of this file and of :mod:`digiq.statistics`. What the page looks like is in
:mod:`digiq.studies.page`, so that a page can be laid out anew without another analysis.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from digiq import statistics
from digiq.statistics import Estimate, MeanTest, hierarchical_statistic, holm, t_test
from digiq.studies.config import HypothesisConfig
from digiq.studies.records import CellRecord

RESAMPLES = 4000
LEVEL = 0.05
"""A verdict's chance to be wrong where the bound is the truth."""
NOTHING = Estimate(math.nan, math.nan, math.nan)


def analysis_digest() -> str:
    """SHA-256 of the source that makes a study's numbers from its records."""
    digest = hashlib.sha256()
    for path in (Path(__file__), Path(statistics.__file__)):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def by_arm(records: Sequence[CellRecord]) -> dict[str, list[CellRecord]]:
    """The records by arm, in the order of their seeds."""
    groups: dict[str, list[CellRecord]] = {}
    for record in sorted(records, key=lambda record: (record.arm, record.seed)):
        groups.setdefault(record.arm, []).append(record)
    return groups


def mean_success(records: Sequence[CellRecord], split: str | None = None) -> Estimate:
    """Success of one arm over its seeds, hierarchically bootstrapped; NaN without an episode."""
    rows = [(r.seed, e.task, e.success) for r in records for e in r.episodes if split in (None, e.split)]
    if not rows:
        return NOTHING
    seeds, tasks, values = zip(*rows, strict=True)
    return hierarchical_statistic(lambda m: m[..., 0], np.array([values]), seeds, tasks, resamples=RESAMPLES)


def rate(records: Sequence[CellRecord], split: str | None = None) -> float:
    """The value of :func:`mean_success`, without its interval: the mean of the seeds' rates."""
    values = [[e.success for e in r.episodes if split in (None, e.split)] for r in records]
    means = [np.mean(of_seed) for of_seed in values if of_seed]
    return float(np.mean(means)) if means else math.nan


def compare(
    groups: Mapping[str, Sequence[CellRecord]], arm: str, over: Sequence[str], measure: str
) -> Estimate:
    """An arm against the best of others, on the episodes that all of them ran under the same seeds, bootstrapped.

    Args:
      groups: records by arm.
      arm: whose success is the numerator, or the minuend.
      over: the others.
      measure: ``ratio`` or ``difference``.

    Returns:
      NaN where they share no episode.
    """
    shared, values = _paired(groups, [arm, *over])
    if not shared:
        return NOTHING

    def statistic(means: np.ndarray) -> np.ndarray:
        best = means[..., 1:].max(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return means[..., 0] / best if measure == "ratio" else means[..., 0] - best

    return hierarchical_statistic(
        statistic, values, [key[0] for key in shared], [key[1] for key in shared], resamples=RESAMPLES
    )


def difference(
    groups: Mapping[str, Sequence[CellRecord]], arm: str, other: str, against: float = 0.0
) -> MeanTest | None:
    """An arm minus another, paired episode by episode; Student's interval and test are over the seeds' means.

    Args:
      groups: records by arm.
      arm: the minuend.
      other: the subtrahend.
      against: the difference to test against.

    Returns:
      None where they share no episode.
    """
    shared, values = _paired(groups, [arm, other])
    if not shared:
        return None
    seeds = np.array([key[0] for key in shared])
    gaps = values[0] - values[1]
    return t_test([gaps[seeds == seed].mean() for seed in np.unique(seeds)], against)


def _paired(
    groups: Mapping[str, Sequence[CellRecord]], names: Sequence[str]
) -> tuple[list[tuple[int, str, int]], np.ndarray]:
    """The episodes (seed, task, repetition) that all arms ran, and float64[A, n], the arms' success in them."""
    found = [
        {(r.seed, e.task, e.index): e.success for r in groups.get(name, ()) for e in r.episodes}
        for name in names
    ]
    shared = sorted(set.intersection(*map(set, found)))
    return shared, np.array([[one[key] for key in shared] for one in found])


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict of a study on a hypothesis."""

    word: str
    """``held``, ``not held``, ``undecided`` (the data allow both) or ``not run``."""
    bootstrap: Estimate
    """What was measured, with the hierarchical bootstrap's interval."""
    test: MeanTest | None = None
    """The same difference with Student's interval over seeds, and its test against the bound; None for a ratio or the
    best of several, and where nothing was run."""
    adjusted: float | None = None
    """The p-value that decides: Holm's, unless the hypothesis stands alone."""


def judge(hypotheses: Mapping[str, HypothesisConfig], records: Sequence[CellRecord]) -> dict[str, Verdict]:
    """Judges hypotheses by the records of the arms.

    A difference to one arm is decided by the test over seeds. Hypotheses that stand ``alone`` are tested as they are, all
    others after Holm's adjustment among themselves; those that were not run yet count. A ratio, or a comparison with the
    best of several, is decided by whether the bootstrap's interval lies wholly on one side of the bound. Whatever touches
    the bound decides nothing.
    """
    groups = by_arm(records)
    verdicts = {
        name: Verdict(
            "not run",
            compare(groups, h.arm, h.over, h.measure),
            difference(groups, h.arm, h.over[0], h.bound) if h.tested else None,
        )
        for name, h in hypotheses.items()
    }
    family = [name for name, h in hypotheses.items() if h.tested and not h.alone]
    p_values = [test.p_value if (test := verdicts[name].test) else 1.0 for name in family]
    adjusted = dict(zip(family, holm(p_values).tolist(), strict=True))
    return {
        name: _decided(hypotheses[name], verdict, adjusted.get(name)) for name, verdict in verdicts.items()
    }


def _decided(hypothesis: HypothesisConfig, verdict: Verdict, adjusted: float | None) -> Verdict:
    found = verdict.bootstrap
    if math.isnan(found.value):
        return verdict
    bound = hypothesis.bound
    above, below = found.low > bound, found.high < bound
    if verdict.test is not None:
        adjusted = verdict.test.p_value if adjusted is None else adjusted
        mean = verdict.test.mean.value
        above, below = adjusted < LEVEL and mean > bound, adjusted < LEVEL and mean < bound
    held, refuted = (above, below) if hypothesis.at_least is not None else (below, above)
    word = "held" if held else "not held" if refuted else "undecided"
    return dataclasses.replace(verdict, word=word, adjusted=adjusted)
