"""Scorers: anything that assigns Q to the candidates of one observation.

The learned scorer needs the VLM at test time and the exact one needs a simulator, so both live in ``digiq.agents``.
This module has the protocol and the random baseline.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from android_env.actions import Action, format_action

if TYPE_CHECKING:
    from digiq.policies.base import PolicyInput


class Scorer(Protocol):
    """Scores candidates."""

    def score(self, observation: PolicyInput, candidates: Sequence[Action]) -> tuple[np.ndarray, float]:
        """Q of each candidate, float32[N], and V of the observation."""
        ...


@dataclasses.dataclass(frozen=True)
class RandomScorer:
    """Uniform values in [0, 1) that depend on nothing but the seed, the observation and the action.

    Equal candidates tie, and the order in which observations are scored does not matter.
    """

    seed: int = 0

    def score(self, observation: PolicyInput, candidates: Sequence[Action]) -> tuple[np.ndarray, float]:
        """See :class:`Scorer`; V is 0.5, the mean."""
        base = hashlib.blake2b(str(self.seed).encode(), digest_size=8)
        base.update(observation.goal.encode())
        base.update(np.ascontiguousarray(observation.screenshot).tobytes())
        values = []
        for action in candidates:
            own = base.copy()
            own.update(format_action(action).encode())
            values.append(int.from_bytes(own.digest(), "big") / 2**64)
        return np.array(values, np.float32), 0.5
