"""Exact values as a scorer, on the simulated phone: the upper bound for any critic."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from android_env.actions import Action
from android_env.devices import Observation
from android_env.devices.simulated.exact import ExactValues, seeing
from digiq.agents.agent import Turn
from digiq.policies.base import Policy, PolicyInput, with_support

if TYPE_CHECKING:
    from android_env.devices.simulated.phone import SimulatedPhone

SUPPORT = 64
"""Number of a policy's likeliest actions that exact values follow from each state; their probabilities are rescaled to
sum to 1."""


@dataclasses.dataclass
class ExactScorer:
    """Q and V by backward induction over (state, step), for the episode's own task, layout and noise.

    With a ``policy`` they are that policy's values; without one, those of the optimal policy. Tables are kept for the
    running episodes, one per (task, layout).
    """

    policy: Policy | None = None
    discount: float = 1.0
    """Discount γ of the values."""
    keep: int = 64
    """Number of tables kept; the least recently used is dropped first."""
    reads_device: ClassVar[bool] = True
    _tables: dict[Any, ExactValues] = dataclasses.field(default_factory=dict, repr=False)

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        """Q of each candidate in the device's current state, float32[N], and V of that state."""
        scores = []
        for turn, actions in zip(turns, candidates, strict=True):
            phone = turn.device
            values = self._values(phone)
            q = [values.q(phone.state, action, turn.step) for action in actions]
            scores.append((np.array(q, np.float32), values.v(phone.state, turn.step)))
        return scores

    def _values(self, phone: SimulatedPhone) -> ExactValues:
        key = (phone.task.task_id, phone.layout_seed, phone.noise, phone.success)
        table = self._tables.pop(key, None)
        if table is None:
            table = ExactValues(
                None if self.policy is None else seeing(policy_fn(self.policy)),
                phone.task,
                phone.layout_seed,
                noise=phone.noise,
                success=phone.success,
                discount=self.discount,
            )
        self._tables[key] = table
        while len(self._tables) > self.keep:
            del self._tables[next(iter(self._tables))]
        return table


def policy_fn(policy: Policy, support: int = SUPPORT) -> Any:
    """A learned policy in the form that :mod:`android_env.devices.simulated.exact` needs.

    Raises:
      DigiQError: the policy cannot list its likeliest actions.
    """
    listing = with_support(policy, "exact values of a policy")

    def distribution(observations: list[Observation]) -> list[list[tuple[Action, float]]]:
        return listing.support([PolicyInput(o.screenshot, o.goal) for o in observations], support)

    return distribution
