"""Imitate the candidate whose advantage is surely positive: by a lower bound over the members of an ensemble.

With A_i = Q_i(s, a) - V_i(s) of member i, the candidate taken is the one of highest mean A_i - k · deviation of A_i, and it
is kept where that is above 0. Members share their training data, so the bound knows of what they were not shown and of the
noise of fitting, not of what the data lack.

Sound with policy evaluation (``td``, ``mc``, ``nstep``), where A > 0 means better than the behaviour: each member's V
follows its own Q, so that an offset that both share cancels. With in-sample-max critics (``iql``, ``td`` backing up the
``max``) no action is better than V, A > 0 says little, and ``progress`` is the gate. Exact values
have no doubt, so that it is A > 0 there.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from digiq.config import configclass
from digiq.errors import DigiQError
from digiq.extraction.base import Choice, States, Targets
from digiq.extraction.best_of_n import highest, of_choice


@configclass
class LowerBound:
    """Imitates the candidate of highest lower bound where that is positive."""

    deviations: Annotated[float, Field(ge=0)] = 1.0
    """k, how many of the members' deviations below their mean; 0 is A > 0."""
    candidates: Annotated[int, Field(ge=1)] | None = None
    """As in ``best_of_n``: 1 filters the logged actions."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.1
    """As in ``best_of_n``."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"proposals", "q", "v", "members"})

    def choose(self, states: States) -> Choice:
        """See :class:`digiq.extraction.base.Ranks`."""
        proposals, values = states.proposals, states.values
        assert proposals is not None and values is not None and values.q is not None
        if values.deviation is None:
            raise DigiQError("lower_bound: these values have no members; take 'best_of_n' with threshold 0.")
        bound = (values.q - self.deviations * values.deviation).astype(np.float32)
        choice, advantage = highest(
            bound,
            values.v,
            proposals.valid,
            candidates=self.candidates,
            support=self.support,
            log_prob=proposals.log_prob,
        )
        return Choice(choice=choice, advantage=advantage, keep=advantage > 0, threshold=0.0)

    def select(self, states: States, rng: np.random.Generator) -> Targets:
        """Nothing is drawn."""
        return of_choice(states, self.choose(states))
