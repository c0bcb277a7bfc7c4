"""Advantage-weighted regression: imitate every logged action, the better ones more.

Peng et al. 2019 (AWR), equation 9, and the extraction step of IQL (Kostrikov et al., ICLR 2022), equation 7:

    maximise E[ min(exp(A(s, a) / β), clip) · log π(a | s) ],   A(s, a) = Q(s, a) - V(s)

This is the policy of highest advantage at bounded divergence from the behaviour policy, provided that a is drawn from
the behaviour policy, as the logged action is. ``candidates`` above 1 weights the candidate of highest Q instead (the
authors' Digi-Q code does so with 16). That is not a sample of any policy; it is kept for comparison.

Sound with every critic whose V is the behaviour's value (``td``, ``mc``) or an expectile of it (``iql``). An offset of
V scales all weights equally, up to the clip, so it hardly matters. If V is the maximum over candidates, all weights are
at most 1.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from digiq.config import configclass
from digiq.extraction.base import States, Targets
from digiq.extraction.best_of_n import highest


@configclass
class AWR:
    """Imitates all logged actions, weighted by their advantage."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """β, in units of return: this much more advantage multiplies the weight by e (paper's code: 0.01)."""
    clip: Annotated[float, Field(gt=0)] = 20.0
    """Largest weight."""
    candidates: Annotated[int, Field(ge=1)] = 1
    """1 weights the logged action; N weights the candidate of highest Q among the first N."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.1
    """As in ``best_of_n``."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"proposals", "q", "v"})

    def select(self, states: States, rng: np.random.Generator) -> Targets:
        """See :class:`digiq.extraction.base.Extraction`; ``rng`` is not used."""
        proposals, values = states.proposals, states.values
        assert proposals is not None and values is not None and values.q is not None
        choice, advantage = highest(
            values.q,
            values.to_beat(),
            proposals.valid,
            candidates=self.candidates,
            support=self.support,
            log_prob=proposals.log_prob,
        )
        rows = np.flatnonzero(choice >= 0)
        weight = np.exp(np.minimum(advantage[rows] / self.beta, np.log(self.clip)))
        return Targets(
            row=rows,
            action=[proposals.action(int(row), int(choice[row])) for row in rows],
            weight=weight,
            considered=len(rows),
            report={
                "mean_weight": float(weight.mean()) if len(rows) else None,
                "clipped_share": float((weight >= self.clip).mean()) if len(rows) else None,
                "effective_rows": float(weight.sum() ** 2 / (weight**2).sum()) if len(rows) else 0.0,
            },
        )
