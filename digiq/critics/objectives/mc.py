"""Monte-Carlo regression: Q and V of the behaviour policy from the discounted return that followed.

``G_t = r_t + γ G_{t+1}`` runs to the end of the episode, even if the episode was cut off. Nothing is bootstrapped, so
``timeout`` makes no difference. With ``readout.kind: bernoulli`` this is the authors' classification of success (the
"MC return" row of the paper's ablation, DigiRL's value function).
"""

import jax.numpy as jnp

from digiq.config import configclass
from digiq.critics.heads import Heads, Params
from digiq.critics.objectives.base import Info, pair_of_losses
from digiq.critics.training_data import Array, Batch, Needs


@configclass
class MC:
    """Regression on observed returns; it has no settings."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Array, Info]:
        del target
        targets = jnp.broadcast_to(batch.returns, (heads.config.members, len(batch.returns)))
        loss, info, _ = pair_of_losses(heads, params, batch, targets, targets, key)
        return loss, info
