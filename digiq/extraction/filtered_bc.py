"""Filtered behaviour cloning: imitate every logged action of successful episodes, and nothing else."""

from typing import Annotated

import numpy as np
from pydantic import Field

from digiq.config import configclass
from digiq.extraction.base import States, Targets


@configclass
class FilteredBC:
    """Imitates the logged actions of successful episodes."""

    min_return: Annotated[float, Field(gt=0)] = 0.5
    """Least undiscounted return of an imitated episode."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def select(self, states: States, rng: np.random.Generator) -> Targets:
        """Every logged action of a successful episode gets weight 1."""
        acted = states.acted
        rows = np.flatnonzero(acted & (states.total >= self.min_return))
        return Targets(
            row=rows,
            action=[action for row in rows if (action := states.logged[row]) is not None],
            weight=np.ones(len(rows)),
            considered=int(acted.sum()),
            report={"successful_episodes": len(np.unique(states.episode[rows]))},
        )
