"""Taps near the logged one, which the agent might have made instead."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from android_env.actions import Action
from digiq.config import configclass
from digiq.policies.base import Candidate, PolicyInput
from digiq.proposals.base import logged_candidate


@configclass
class Perturbed:
    """The logged tap, moved at random; if the logged action is not a tap, nothing is added to it."""

    spread: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Standard deviation of the moves, as a fraction of the screen; points are clipped to its edges."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def open(self, paths: Mapping[str, Path]) -> "Perturbed":
        """See :class:`digiq.proposals.base.Source`."""
        return self

    def propose(
        self,
        inputs: Sequence[PolicyInput],
        logged: Sequence[Action | None],
        n: int,
        rngs: Sequence[np.random.Generator],
    ) -> list[list[Candidate | None]]:
        """See :class:`digiq.proposals.base.Candidates`."""
        rows: list[list[Candidate | None]] = []
        for action, rng in zip(logged, rngs, strict=True):
            row: list[Candidate | None] = [logged_candidate(action)]
            if action is not None and action.is_tap:
                moved = np.clip(action.touch_yx + rng.normal(0, self.spread, (n - 1, 2)), 0, 1)
                row += [Candidate(Action.tap(y, x), math.nan) for y, x in moved.tolist()]
            rows.append(row)
        return rows
