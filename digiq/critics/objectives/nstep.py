"""n-step returns (Sutton & Barto 2018, section 7.1) in place of the one-step target.

    Q_i(s_t, a_t) → r_t + γ r_{t+1} + ... + γ^{n-1} r_{t+n-1} + γ^n V̄_i(s_{t+n})

cut at the end of the episode. Rewards of the logged actions are used as they are (no importance weights), so n > 1
evaluates the behaviour policy. A final reward is carried back n steps at a time.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Float
from pydantic import Field

from digiq.config import configclass
from digiq.critics.heads import Heads, Params
from digiq.critics.objectives.base import Backup, Info, pair_of_losses, v_target
from digiq.critics.training_data import Array, Batch, Needs


def n_step_return(
    reward: Float[Array, "n"], discount: Float[Array, "n"], bootstrap: Float[Array, ""]
) -> Float[Array, ""]:
    """Return of one window: its rewards and the value after it, each times the discounts before it; no gradient."""
    first: Array = jnp.ones(1, discount.dtype)  # pyright: ignore[reportUnknownMemberType]  JAX leaves its type open
    weights = jnp.concatenate([first, jnp.cumprod(discount)])
    return jax.lax.stop_gradient(jnp.dot(weights, jnp.append(reward, bootstrap)))


@configclass
class NStep:
    """n-step temporal difference."""

    steps: Annotated[int, Field(ge=1)] = 5
    """n, the number of actions before the bootstrap."""
    backup: Backup = "logged"
    """What V follows, as in ``td``."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Softmax temperature of ``expectation``, in units of Q; none weights all candidates equally."""

    @property
    def needs(self) -> Needs:
        return Needs(candidates=self.backup != "logged", steps=self.steps)

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Array, Info]:
        next_v = heads.v_value(target, batch.next_observation)
        each = jax.vmap(jax.vmap(n_step_return), in_axes=(None, None, 0))
        q_target = each(batch.reward, batch.discount, next_v)
        v_targets = v_target(heads, target, batch, self.backup, self.temperature)
        loss, info, _ = pair_of_losses(heads, params, batch, q_target, v_targets, key)
        return loss, info
