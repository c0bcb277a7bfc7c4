"""Critics: Q- and V-heads over stored features, one file per objective, trained by one jitted scan.

Plain NumPy arrays in, a critic out::

    import numpy as np
    from digiq.critics import CriticConfig, fit_critic

    t = np.arange(40)                                                         # ten episodes of four steps
    done, rng = t % 4 == 3, np.random.default_rng(0)
    observation = rng.normal(size=(40, 8)).astype(np.float32)                 # [S, Do]
    pair = rng.normal(size=(120, 8)).astype(np.float32)                       # [M, Dp]
    rows = np.stack([t, t + 40, t + 80], axis=1)                              # [S, N], the logged action first
    critic = fit_critic(
        transitions={"obs": t, "next_obs": np.where(done, -1, t + 1), "reward": done * (t // 4 % 2),
                     "terminated": done, "truncated": np.zeros(40, bool), "episode": t // 4},  # each [T]
        features={"observation": observation, "pair": pair, "candidate_row": rows},
        config=CriticConfig(objective="iql", gamma=0.95, epochs=2),
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
