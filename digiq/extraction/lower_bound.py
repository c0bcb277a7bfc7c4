"""Imitate the candidate whose advantage is confidently positive, by a lower bound over the members of an ensemble.

With A_i = Q_i(s, a) - V_i(s) of member i, take the candidate of highest mean A_i - k · deviation of A_i, and keep it
where that is above 0. Members share their training data, so the bound reflects unfamiliar inputs and the noise of
fitting, but not what the data lack.

Sound with policy evaluation (``td``, ``mc``, ``nstep``), where A > 0 means better than the behaviour. Each member's V
follows its own Q, so an offset that both share cancels. With in-sample-max critics (``iql``, ``td`` backing up the
``max``) no action is better than V, so A > 0 says little; use ``progress`` there. Exact values have no deviation, so
the gate is A > 0.
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
    """Imitates the candidate with the highest lower bound where that is positive."""

    deviations: Annotated[float, Field(ge=0)] = 1.0
    """k, the number of standard deviations (over members) below the mean; 0 is A > 0."""
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
            raise DigiQError("lower_bound: these values have no members; use 'best_of_n' with threshold 0.")
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
        """See :class:`digiq.extraction.base.Extraction`; ``rng`` is not used."""
        return of_choice(states, self.choose(states))
