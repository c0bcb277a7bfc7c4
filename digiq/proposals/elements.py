"""Taps on the elements of the screen, as listed in the accessibility tree or an annotation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from android_env.actions import Action
from digiq.config import configclass
from digiq.data.schema import element_boxes
from digiq.policies.base import Candidate, PolicyInput
from digiq.proposals.base import StepInput, logged_candidate


@configclass
class Elements:
    """Taps on the centres of elements, drawn without replacement; none if the recording has no elements."""

    reads_steps = True
    clickable_only: bool = True
    """Only tap elements that can be clicked, where the recording says which can."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def open(self, paths: Mapping[str, Path]) -> "Elements":
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
        for seen, action, rng in zip(inputs, logged, rngs, strict=True):
            taps = [tap for tap in self._taps(seen) if tap != action]
            drawn = [Candidate(taps[i], math.nan) for i in rng.permutation(len(taps))[: n - 1]]
            rows.append([logged_candidate(action), *drawn])
        return rows

    def _taps(self, seen: PolicyInput) -> list[Action]:
        found: dict[Action, None] = {}
        for element, box in element_boxes(seen.ui_elements) if isinstance(seen, StepInput) else ():
            if self.clickable_only and element.get("clickable") is False:
                continue
            y, x = box[0] + box[2] / 2, box[1] + box[3] / 2
            if 0 <= y <= 1 and 0 <= x <= 1:
                found.setdefault(Action.tap(y, x))
        return list(found)
