"""Critics: Q- and V-heads over stored features, one file per objective, trained by one jitted scan.

Plain NumPy arrays in, a critic out::

    import numpy as np
    from digiq.critics import CriticConfig, fit_critic

    critic = fit_critic(
        transitions={"obs": obs, "next_obs": next_obs, "reward": reward, "terminated": terminated,
                     "truncated": truncated, "episode": episode},             # each [T]
        features={"observation": observation, "pair": pair, "candidate_row": rows},  # [S, Do], [M, Dp], [S, N]
        config=CriticConfig(objective="iql", gamma=0.95),
    )
    q = critic.q(observation[0], pair[rows[0]])                               # float32[N, members]
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digiq.critics.critic import Critic, candidate_values, load_critic, save_critic
    from digiq.critics.learner import CriticConfig
    from digiq.critics.train import TrainQConfig, fit_critic

_HOMES = {
    "Critic": "critic",
    "CriticConfig": "learner",
    "TrainQConfig": "train",
    "candidate_values": "critic",
    "fit_critic": "train",
    "load_critic": "critic",
    "save_critic": "critic",
}

__all__ = [
    "Critic",
    "CriticConfig",
    "TrainQConfig",
    "candidate_values",
    "fit_critic",
    "load_critic",
    "save_critic",
]


def __getattr__(name: str) -> Any:
    """Loads JAX only when a name is used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
