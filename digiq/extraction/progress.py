"""Imitate the candidate of highest Q wherever it makes progress: wherever it is worth more than waiting a step.

An action that changes nothing costs one step, so it is worth γ V(s), where V is the value of the policy that V stands
for. A candidate is kept if it is worth more:

    Q(s, a*) > γ V(s) + margin |V(s)|

A gate by advantage over the candidates' mean lets a no-op pass wherever the other candidates are mistakes; this one
does not.

Sound with critics whose V is the value of the best in-sample actions and generalises: IQL at a high expectile, and
exact values, under which little but optimal actions pass. If V is the *maximum over the same candidates*, every state
of positive V is kept, because the best candidate is worth V itself; the report then says that the gate filters nothing.
Under policy evaluation (``td``, ``mc``) V is lower than Q of most good actions, so more is kept than with A > 0. Even a
no-op followed by the behaviour policy passes where the two heads disagree by 1 - γ. Use ``lower_bound`` there.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from digiq.config import configclass
from digiq.extraction.base import Choice, States, Targets
from digiq.extraction.best_of_n import highest, of_choice


@configclass
class Progress:
    """Imitates the best candidate where it is worth more than waiting."""

    margin: Annotated[float, Field(ge=0)] = 0.01
    """Share of V(s) by which it must be worth more, so that the critic's noise does not let a no-op pass. Waiting costs
    1 - γ of V."""
    candidates: Annotated[int, Field(ge=1)] | None = None
    """As in ``best_of_n``: 1 filters the logged actions."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.1
    """As in ``best_of_n``."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"proposals", "q", "v"})

    def choose(self, states: States) -> Choice:
        """See :class:`digiq.extraction.base.Ranks`."""
        proposals, values = states.proposals, states.values
        assert proposals is not None and values is not None and values.q is not None
        waiting = values.discount * values.v + self.margin * np.abs(values.v)
        choice, advantage = highest(
            values.q,
            waiting.astype(np.float32),
            proposals.valid,
            candidates=self.candidates,
            support=self.support,
            log_prob=proposals.log_prob,
        )
        return Choice(choice=choice, advantage=advantage, keep=advantage > 0, threshold=0.0)

    def select(self, states: States, rng: np.random.Generator) -> Targets:
        """See :class:`digiq.extraction.base.Extraction`; ``rng`` is not used."""
        return of_choice(states, self.choose(states))
