"""The logged actions alone: enough to train a critic without any policy, and to filter the actions by Q."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from android_env.actions import Action
from digiq.config import configclass
from digiq.policies.base import Candidate, PolicyInput
from digiq.proposals.base import logged_candidate


@configclass
class Logged:
    """One candidate per state, of unknown probability."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def open(self, paths: Mapping[str, Path]) -> "Logged":
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
        return [[logged_candidate(action)] for action in logged]
