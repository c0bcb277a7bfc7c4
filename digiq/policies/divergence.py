"""How far a policy has moved from the one that it started from, and its entropy."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from digiq.policies.base import Policy, PolicyInput

FLOOR = -50.0
"""Lower bound on log-probabilities, in nats, so that an action that the other policy cannot take counts as finite."""


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Estimates from draws, in nats, averaged over inputs."""

    entropy: float
    """Entropy of the policy: minus the mean log-probability of its own draws."""
    kl: float
    """KL(policy ‖ other); 0 if both are the same, and never negative."""


def divergence(
    policy: Policy, other: Policy, inputs: Sequence[PolicyInput], *, draws: int = 4, seed: int = 0
) -> Divergence:
    """Entropy of a policy and its Kullback–Leibler divergence from another, at the given inputs.

    With ``r = other(a) / policy(a)`` of a drawn action, the divergence is the mean of ``r - 1 - log r``. It is never
    negative, and unbiased if the other policy can take every action of this one (Schulman, "Approximating KL
    divergence", 2020).

    Args:
      policy: the policy that actions are drawn from.
      other: the policy that it is compared with.
      inputs: B observations.
      draws: actions drawn per observation.
      seed: seed of the draws.
    """
    rngs = [np.random.default_rng([seed, number]) for number in range(len(inputs))]
    found = policy.sample(inputs, draws, rngs)
    own = np.array([[candidate.log_prob for candidate in row] for row in found])
    repeated = [shown for shown in inputs for _ in range(draws)]
    theirs = other.log_prob(repeated, [candidate.action for row in found for candidate in row])
    log_ratio = np.maximum(theirs, FLOOR).reshape(own.shape) - np.maximum(own, FLOOR)
    return Divergence(float(-own.mean()), float(np.mean(np.exp(log_ratio) - 1 - log_ratio)))
