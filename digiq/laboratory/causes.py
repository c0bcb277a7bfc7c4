"""What is lost between a learned Q and a policy: values × gate × candidates, with everything else equal.

Every cell imitates the targets that a gate keeps of the same logged states, from the same start, with the same network.
Only three things differ: the values (the simulator's own, with and without noise, or learned ones), the gate, and
whether only the logged action or eight candidates may be imitated. :mod:`digiq.studies.causes` runs the cells and
writes the page.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from digiq.extraction.awr import AWR
from digiq.extraction.base import Choice, States, Targets
from digiq.extraction.best_of_n import BestOfN, of_choice
from digiq.extraction.lower_bound import LowerBound
from digiq.extraction.progress import Progress
from digiq.laboratory.truth import pairwise_accuracy

Gate = Literal["quantile", "positive", "lower_bound", "progress", "awr", "clusters"]
Protocol = Literal["epochs", "rows"]
StudentKind = Literal["elements", "pixels"]

VALUES: dict[str, str] = {
    "exact": "Q*",
    "noise_83": "Q*, noise to .83",
    "noise_76": "Q*, noise to .76",
    "collector": "exact Q of the collector",
    "td": "learned, TD",
    "iql": "learned, IQL",
    "td_max": "learned, max back-up",
}
LEARNED = ("td", "iql", "td_max")
GATES: dict[Gate, str] = {
    "quantile": "upper half over V",
    "positive": "A > 0",
    "lower_bound": "lower bound of A > 0",
    "progress": "progress",
    "awr": "weighted, no gate",
    "clusters": "upper half by cluster",
}
CANDIDATES = (1, 8)
CLUSTERS = 32
"""Number of groups of states with similar features."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One way from values to a policy."""

    values: str
    """One of :data:`VALUES`; for the baselines ``none`` or the name of DigiRL's V."""
    gate: str
    """One of :data:`GATES`, or ``filtered_bc``, ``digirl``, ``behavior``."""
    candidates: int
    """Number N of candidates."""
    protocol: Protocol = "epochs"
    """``epochs``: all rows, with updates in proportion to rows. ``rows``: the same number of rows and updates in every
    cell."""
    student: StudentKind = "elements"
    """The policy that imitates: ``pixels``, that of all recipes, or the one of :mod:`digiq.laboratory.student`."""


def cells(protocol: Protocol, student: StudentKind) -> list[Cell]:
    """All cells of a protocol; exact values have no ensemble, and so no lower bound."""
    return [
        Cell(values, gate, n, protocol, student)
        for gate in GATES
        for values in VALUES
        for n in CANDIDATES
        if gate != "lower_bound" or values in LEARNED
    ]


def noisy(
    q: npt.NDArray[np.float64],
    first: npt.NDArray[np.bool_],
    same: npt.NDArray[np.int64],
    accuracy: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Q with Gaussian noise, scaled so that the share ``accuracy`` of candidate pairs keeps its true order.

    Args:
      q: float[S, N], NaN where there is no candidate.
      first: bool[S, N], the first column of each distinct action.
      same: int[S, N], for each column the first with the same action; equal actions share their noise.
      accuracy: target of :func:`digiq.laboratory.truth.pairwise_accuracy`, in (0.5, 1).
      rng: generator of the noise.
    """
    noise = np.take_along_axis(rng.normal(size=q.shape), same, axis=1)
    low, high = 0.0, 10.0 * float(np.nanstd(q)) + 1e-6
    for _ in range(30):
        middle = (low + high) / 2
        right = pairwise_accuracy(q, q + middle * noise, first)
        low, high = (middle, high) if right > accuracy else (low, middle)
    return q + high * noise


def clusters_of(features: npt.NDArray[np.float32], count: int, seed: int) -> npt.NDArray[np.int64]:
    """K-means clusters of standardised features, int[S]."""
    from scipy.cluster.vq import kmeans2

    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    _, labels = kmeans2(
        scaled.astype(np.float64), min(count, len(features)), minit="++", rng=np.random.default_rng(seed)
    )
    return labels.astype(np.int64)


def best_in_clusters(
    chosen: Choice, cluster: npt.NDArray[np.int64], share: float = 0.5
) -> npt.NDArray[np.bool_]:
    """bool[S]: the ``share`` of states with the highest advantage within each cluster.

    Valid for every critic whose V has similar errors on similar states, as the cluster's own level replaces V. It also
    keeps its share of a cluster in which every choice is a mistake.
    """
    keep = np.zeros(len(cluster), bool)
    for label in np.unique(cluster):
        members = np.flatnonzero((cluster == label) & (chosen.choice >= 0))
        count = int(np.floor(share * len(members)))
        keep[members[np.argsort(-chosen.advantage[members], kind="stable")[:count]]] = True
    return keep


def select(cell: Cell, states: States, cluster: npt.NDArray[np.int64]) -> Targets:
    """The targets that a cell imitates, for states that hold its values."""
    n = cell.candidates
    rng = np.random.default_rng(0)
    if cell.gate == "awr":
        return AWR(candidates=n).select(states, rng)
    if cell.gate == "progress":
        return Progress(candidates=n).select(states, rng)
    if cell.gate == "lower_bound":
        return LowerBound(candidates=n).select(states, rng)
    if cell.gate == "quantile":
        return BestOfN(candidates=n).select(states, rng)
    positive = BestOfN(candidates=n, threshold_mode="absolute", threshold=0.0)
    if cell.gate == "positive":
        return positive.select(states, rng)
    chosen = positive.choose(states)
    return of_choice(states, dataclasses.replace(chosen, keep=best_in_clusters(chosen, cluster)))


def fewer(targets: Targets, rows: int, seed: int) -> Targets:
    """At most ``rows`` of the targets, drawn without replacement."""
    if len(targets.row) <= rows:
        return targets
    kept = np.sort(np.random.default_rng(seed).choice(len(targets.row), rows, replace=False))
    return dataclasses.replace(
        targets,
        row=targets.row[kept],
        action=[targets.action[k] for k in kept],
        weight=targets.weight[kept],
    )


def rightness(
    targets: Targets,
    considered: npt.NDArray[np.bool_],
    screens: Sequence[str],
    is_best: Any,
) -> dict[str, list[float]]:
    """By kind of screen: number of states considered, weight of the targets, weight of the targets that are a best
    action, and number of states with such a target.

    Args:
      targets: targets for S states.
      considered: bool[S], the states to consider.
      screens: kinds of the S screens.
      is_best: maps a state and an action to whether no action is better.
    """
    found: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0, 0.0, 0])
    for s in np.flatnonzero(considered).tolist():
        found[screens[s]][0] += 1
    scale = 1 / targets.weight.mean() if len(targets.weight) else 1.0
    hit: set[int] = set()
    for row, action, weight in zip(targets.row.tolist(), targets.action, targets.weight, strict=True):
        kind = found[screens[int(row)]]
        kind[1] += weight * scale
        if is_best(row, action):
            kind[2] += weight * scale
            if row not in hit:
                hit.add(row)
                kind[3] += 1
    return {kind: [round(x, 3) for x in row] for kind, row in sorted(found.items())}
