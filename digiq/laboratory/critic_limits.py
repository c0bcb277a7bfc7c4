"""What limits a learned Q: its targets, the pairs that it sees, or its updates, changed one at a time.

Critics read the device's own elements, so perception is no limit. The measure is the success, on the device, of the
best of eight samples of the behaviour policy, ranked by the critic. With true values
(:mod:`digiq.critics.objectives.exact`) as targets on the logged actions only, coverage and updates remain as causes; on
all candidates, only updates and the network remain. :mod:`digiq.studies.critic_limits` runs the cells and makes the
page.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

TARGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mc": ("returns (MC)", {"objective": "mc"}),
    "td": ("policy evaluation (TD)", {"objective": "td"}),
    "nstep": ("policy evaluation, 3 steps", {"objective": "nstep"}),
    "expectation": ("expectation over candidates", {"td": {"backup": "expectation"}}),
    "iql": ("expectile of logged actions (IQL)", {"objective": "iql"}),
    "max": ("max over candidates", {"td": {"backup": "max"}}),
    "hl_gauss": (
        "policy evaluation, HL-Gauss head",
        {"objective": "td", "heads": {"readout": {"kind": "hl_gauss"}}},
    ),
    "exact_logged": ("Q* of the logged action", {"objective": "exact", "exact": {"actions": "logged"}}),
    "exact": ("Q* of every candidate", {"objective": "exact"}),
    "truth": ("none: Q* itself ranks", {}),
}
"""Title of each kind of targets, and its changes to the critic's config."""
COVERAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "8": ("8 of the policy's", {}),
    "32": ("32 of the policy's", {"num_candidates": 32}),
    "hot": ("32 of the policy's, temperature 3", {"num_candidates": 32, "policy": {"temperature": 3.0}}),
}
"""Candidates that a critic sees while it learns: title, and changes to the proposals' config. High temperatures come
close to uniform sampling."""
EPOCHS = (3, 10, 40, 160)
"""Numbers of epochs, of 100 updates each."""
LONG = ("td", "iql", "exact_logged", "exact")
"""Targets that are also trained for the most epochs."""
OF_CANDIDATES = ("expectation", "max", "exact")
"""Targets that depend on the candidates."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One critic; ``truth`` is not trained, and has 0 epochs."""

    targets: str
    """One of :data:`TARGETS`."""
    coverage: str = "8"
    """One of :data:`COVERAGE`."""
    epochs: int = 10


def best_among(
    best: npt.NDArray[np.bool_],
    valid: npt.NDArray[np.bool_],
    supported: npt.NDArray[np.bool_],
    screens: Sequence[str],
) -> dict[str, list[int]]:
    """By kind of screen: number of states, of states with a best action among the candidates, and of states with a best
    action among the supported candidates.

    Args:
      best: bool[S, N], candidates whose value no action exceeds.
      valid: bool[S, N], candidates that exist.
      supported: bool[S, N], candidates that are likely enough to be taken.
      screens: kinds of the S screens.
    """
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    any_best = np.any(best & valid, axis=1)
    any_supported = np.any(best & valid & supported, axis=1)
    for s, kind in enumerate(screens):
        counts = found[kind]
        counts[0], counts[1], counts[2] = (
            counts[0] + 1,
            counts[1] + int(any_best[s]),
            counts[2] + int(any_supported[s]),
        )
    return dict(sorted(found.items()))


def cells() -> list[Cell]:
    """All cells, the most decisive first."""
    learned = [name for name in TARGETS if name != "truth"]
    found = [Cell("truth", epochs=0), *(Cell(name) for name in learned)]
    found += [Cell(name, epochs=40) for name in learned]
    found += [Cell(name, coverage) for coverage in ("hot", "32") for name in OF_CANDIDATES]
    found += [Cell(name, epochs=3) for name in learned]
    return found + [Cell(name, epochs=EPOCHS[-1]) for name in LONG]
