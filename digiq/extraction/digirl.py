"""DigiRL's offline filter: imitate the logged actions whose doubly robust advantage exceeds a threshold.

DigiRL (Bai et al., NeurIPS 2024), equation 3 and section 4.3. With H the episode's last action and V the value of the
behaviour,

    A(s_h, a_h) = λ^(H-h) r_H + (1 - λ^(H-h)) (r_h + γ V(s_{h+1}) - V(s_h)),

so that late steps are judged by the outcome and early ones by the change of value; a step is imitated where A exceeds
1/H (there the budget of actions, here ``threshold``). The paper has γ = 1; here it is the critic's. Its
instruction-level filter keeps the trajectories whose return most exceeds V of their first state.
"""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from digiq.config import configclass


@configclass
class DigiRLConfig:
    """Which logged steps count as improvements."""

    decay: Annotated[float, Field(ge=0, le=1)] = 0.5
    """λ: 1 judges every step by the outcome alone, 0 by the change of value alone (paper: 0.5)."""
    threshold: float = 0.05
    """Least advantage, in units of return; strictly above passes (paper: one over the budget of actions)."""
    trajectories: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the trajectories, those of highest return minus V of their first state, whose steps are looked at."""


def step_advantages(
    rewards: npt.NDArray[np.float64], values: npt.NDArray[np.float64], decay: float, gamma: float
) -> npt.NDArray[np.float64]:
    """The doubly robust advantage of every action of one episode, float64[T].

    Args:
      rewards: float[T], of each action.
      values: float[T + 1], V before each action and after the last; 0 after an end.
      decay: λ.
      gamma: γ.

    Raises:
      ValueError: the lengths do not fit together.
    """
    if len(values) != len(rewards) + 1:
        raise ValueError(f"values has length {len(values)}, but {len(rewards)} rewards need one more.")
    outcome = decay ** np.arange(len(rewards) - 1, -1, -1, dtype=np.float64)
    change = rewards + gamma * values[1:] - values[:-1]
    return outcome * rewards[-1:] + (1 - outcome) * change


def best_trajectories(
    returns: npt.NDArray[np.float64], first_values: npt.NDArray[np.float64], share: float
) -> npt.NDArray[np.bool_]:
    """bool[E]: the ``share`` of episodes (at least one) with the highest return minus V of their first state."""
    gain = returns - first_values
    count = max(1, round(share * len(gain)))
    keep = np.zeros(len(gain), bool)
    keep[np.argsort(-gain, kind="stable")[:count]] = True
    return keep
