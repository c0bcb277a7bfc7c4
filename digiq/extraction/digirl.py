"""DigiRL's offline filter: imitate the logged actions whose doubly robust advantage exceeds a threshold.

DigiRL (Bai et al., NeurIPS 2024), equation 3 and section 4.3. With H the episode's last action and V the value of the
behaviour,

    A(s_h, a_h) = λ^(H-h) r_H + (1 - λ^(H-h)) (r_h + γ V(s_{h+1}) - V(s_h)),

so late steps are judged by the outcome, and early ones by the change of value. A step is imitated if A exceeds a
threshold (1/H in the paper, where H is the budget of actions; here ``threshold``). The paper has γ = 1; here γ is the
critic's. Its instruction-level filter keeps the trajectories whose return most exceeds V of their first state.

The authors' code (``digirl/algorithms`` at 53320f6) differs from the paper. With G the discounted return, it takes

    A(s_h, a_h) = r_h + V(s_{h+1}) - V(s_h) + G_h,

threshold 0.05, and offline it looks only at the trajectories whose return reaches the upper tenth, successes where a tenth
succeeds (``form: code``, with ``trajectories: 0.1``). There V is the smaller of two classifiers of success, which also
judge the last screen; here it is the critic's, and 0 after an end.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from digiq.config import configclass
from digiq.extraction.base import States, Targets


@configclass
class DigiRL:
    """Imitates the logged steps whose doubly robust advantage is above a threshold."""

    form: Literal["paper", "code"] = "paper"
    """The advantage and the trajectories of the paper's equations, or of the authors' code."""
    decay: Annotated[float, Field(ge=0, le=1)] = 0.5
    """λ: 1 judges every step by the outcome alone, 0 by the change of value alone (paper: 0.5). Not used by ``code``."""
    threshold: float = 0.05
    """The advantage must be strictly above this, in units of return (paper: one over the budget of actions)."""
    trajectories: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of trajectories whose steps are considered: those with the highest return minus V of their first state; by
    ``code`` those with the highest return, all of them where there is a tie."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"v"})

    def select(self, states: States, rng: np.random.Generator) -> Targets:
        """See :class:`digiq.extraction.base.Extraction`; ``rng`` is not used."""
        values = states.values
        assert values is not None
        v = values.v.astype(np.float64)
        _, starts, sizes = np.unique(states.episode, return_index=True, return_counts=True)
        if self.form == "code":
            looked_at = states.total[starts] >= np.quantile(states.total[starts], 1 - self.trajectories)
        else:
            looked_at = best_trajectories(states.total[starts], v[starts], self.trajectories)
        rows: list[int] = []
        considered = 0
        for start, size, good in zip(starts, sizes, looked_at, strict=True):
            count = size if states.terminated[start] else size - 1
            considered += int(count)
            # Unless the critic bootstraps, running out of steps ends with value 0; a real end has no next observation.
            goes_on = not states.terminated[start] and values.bootstraps
            after = v[start + count] if goes_on else 0.0
            rewards = states.reward[start : start + count]
            around = np.append(v[start : start + count], after)
            if self.form == "code":
                advantages = code_advantages(rewards, around, values.discount)
            else:
                advantages = step_advantages(rewards, around, self.decay, values.discount)
            rows += (start + np.flatnonzero(good & (advantages > self.threshold))).tolist()
        return Targets(
            row=np.array(rows, np.int64),
            action=[action for row in rows if (action := states.logged[row]) is not None],
            weight=np.ones(len(rows)),
            considered=considered,
            report={"trajectories": int(looked_at.sum())},
        )


def step_advantages(
    rewards: npt.NDArray[np.float64], values: npt.NDArray[np.float64], decay: float, gamma: float
) -> npt.NDArray[np.float64]:
    """The doubly robust advantage of every action of one episode, float64[T].

    Args:
      rewards: float[T], reward of each action.
      values: float[T + 1], V before each action and after the last one; 0 after an end.
      decay: λ.
      gamma: γ.

    Raises:
      ValueError: the lengths do not fit together.
    """
    change = _change(rewards, values, gamma)
    outcome = decay ** np.arange(len(rewards) - 1, -1, -1, dtype=np.float64)
    return outcome * rewards[-1:] + (1 - outcome) * change


def code_advantages(
    rewards: npt.NDArray[np.float64], values: npt.NDArray[np.float64], gamma: float
) -> npt.NDArray[np.float64]:
    """The advantage of the authors' code, float64[T]; arguments and errors are those of :func:`step_advantages`."""
    left = np.zeros(len(rewards) + 1)
    for step in reversed(range(len(rewards))):
        left[step] = rewards[step] + gamma * left[step + 1]
    return _change(rewards, values, 1.0) + left[:-1]


def _change(
    rewards: npt.NDArray[np.float64], values: npt.NDArray[np.float64], gamma: float
) -> npt.NDArray[np.float64]:
    if len(values) != len(rewards) + 1:
        raise ValueError(
            f"values has length {len(values)}, but must have one more than the {len(rewards)} rewards."
        )
    return rewards + gamma * values[1:] - values[:-1]


def best_trajectories(
    returns: npt.NDArray[np.float64], first_values: npt.NDArray[np.float64], share: float
) -> npt.NDArray[np.bool_]:
    """bool[E]: the ``share`` of episodes (at least one) with the highest return minus V of their first state."""
    gain = returns - first_values
    count = max(1, round(share * len(gain)))
    keep = np.zeros(len(gain), bool)
    keep[np.argsort(-gain, kind="stable")[:count]] = True
    return keep
