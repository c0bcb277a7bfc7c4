"""Samples of a policy, as in the paper, which uses the behaviour policy so that candidates stay near the data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from android_env.actions import Action
from digiq.config import configclass
from digiq.policies.base import Candidate, Policy, PolicyInput, load_policy


@configclass
class PolicySamples:
    """Independent draws of a policy, with their probabilities."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the policy's sampling; above 1 the candidates are more diverse."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("policy",)

    def open(self, paths: Mapping[str, Path]) -> "Sampler":
        """See :class:`digiq.proposals.base.Source`."""
        return Sampler(load_policy(paths["policy"]), self.temperature)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A policy that proposes; log-probabilities are its own at this temperature."""

    policy: Policy
    temperature: float

    def propose(
        self,
        inputs: Sequence[PolicyInput],
        logged: Sequence[Action | None],
        n: int,
        rngs: Sequence[np.random.Generator],
    ) -> list[list[Candidate | None]]:
        """See :class:`digiq.proposals.base.Candidates`; draws candidates 1 to n - 1."""
        drawn = self.policy.sample(inputs, n - 1, rngs, self.temperature)
        known = [b for b, action in enumerate(logged) if action is not None]
        log_probs = self.policy.log_prob(
            [inputs[b] for b in known], [a for a in logged if a is not None], self.temperature
        )
        of_logged = dict(zip(known, map(float, log_probs), strict=True))
        rows: list[list[Candidate | None]] = []
        for b, candidates in enumerate(drawn):
            action = logged[b]
            rows.append([None if action is None else Candidate(action, of_logged[b]), *candidates])
        return rows
