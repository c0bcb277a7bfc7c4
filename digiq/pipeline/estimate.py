"""Rough estimates of how long planned stages will take, used only for plans and for the remaining time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digiq.pipeline.nodes import Node
from digiq.pipeline.stages import STAGES, Load


def estimate(nodes: Sequence[Node]) -> list[float]:
    """Seconds of each stage on one core, from measurements of quickstart-sized stages; only for plans and ETAs."""
    kinds = {stage.module: stage for stage in STAGES.values()}
    episodes: dict[Path, float] = {}
    candidates: dict[Path, int] = {}
    read: set[tuple[Any, ...]] = set()
    """Inputs of the features so far: further features of the same find their rows stored, whatever the rewards."""
    costs = []
    for node in nodes:
        config, inputs = node.config, node.inputs
        count = next((episodes[p] for p in inputs.values() if p in episodes), 256.0)
        n = max((candidates[p] for p in inputs.values() if p in candidates), default=1)
        rows = inputs.get("episodes"), inputs.get("vlm"), getattr(config, "engine", "")
        load = Load(config, frozenset(inputs), count, n, first=rows not in read)
        costs.append(float(kinds[node.module].seconds(load)))
        # A stage that makes more of these says so by these names.
        episodes[node.out] = getattr(config, "num_episodes", count)
        candidates[node.out] = getattr(config, "num_candidates", n)
        if "vlm" in inputs:
            read.add(rows)
    return costs


class Remaining:
    """The remaining time of a run, in seconds, corrected by the ratio of actual to estimated time of finished stages.

    Args:
      nodes: the stages to run.
      costs: the estimated seconds of each.
    """

    def __init__(self, nodes: Sequence[Node], costs: Sequence[float]):
        self._cost = {node.name: cost for node, cost in zip(nodes, costs, strict=True)}
        self._done = 0.0
        self._started = time.monotonic()

    def ended(self, node: Node) -> None:
        """Records that a stage has ended."""
        self._done += self._cost.pop(node.name, 0.0)

    @property
    def seconds(self) -> float:
        """Remaining seconds of all stages that have not ended."""
        # The first stages are short, so each changes the pace only by its share of the work.
        elapsed, total = time.monotonic() - self._started, self._done + sum(self._cost.values())
        pace = elapsed / self._done if self._done else 1.0
        weight = min(1.0, 4 * self._done / max(total, 1e-9))
        return sum(self._cost.values()) * (weight * pace + 1 - weight)


def words(seconds: float) -> str:
    """A duration in readable form: ``20 s``, ``7 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(10, round(seconds / 10) * 10)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
