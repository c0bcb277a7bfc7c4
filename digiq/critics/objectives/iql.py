"""Implicit Q-learning (Kostrikov, Nair & Levine, ICLR 2022), equations 5 and 6.

    L_V = E[ |τ - 1(u < 0)| u² ],  u = Q̄(s, a) - V(s)        Q(s, a) → r + γ (1 - terminal) V(s')

V is an upper expectile of Q over the logged actions, so bootstrapping from it improves on the behaviour policy
without ever asking for the value of an action that was not logged.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float
from pydantic import Field

from digiq.config import configclass
from digiq.critics.heads import Heads, Params
from digiq.critics.objectives.base import Info, td_target
from digiq.critics.training_data import Array, Batch, Needs


def expectile_weight(target: Float[Array, ""], value: Float[Array, ""], expectile: float) -> Float[Array, ""]:
    """``|τ - 1(target < value)|`` of one transition; no gradient."""
    return jax.lax.stop_gradient(jnp.where(target < value, 1.0 - expectile, expectile))


@configclass
class IQL:
    """Implicit Q-learning: expectile regression of V, one-step regression of Q."""

    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """τ: 0.5 evaluates the behaviour policy; values towards 1 approach the best logged action."""
    v_bootstrap: Literal["online", "target"] = "online"
    """Whether Q bootstraps from the online V (the IQL paper) or from its target network."""
    v_members: Literal["own", "min"] = "own"
    """Whether V of each member follows its own Q̄, or the smallest of all (the IQL paper's clipped twins)."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Array, Info]:
        q_key, v_key = (None, None) if key is None else jax.random.split(key)
        next_v = heads.v_value(params if self.v_bootstrap == "online" else target, batch.next_observation)
        each = jax.vmap(jax.vmap(td_target), in_axes=(None, None, 0))
        q_target = each(batch.reward[:, 0], batch.discount[:, 0], next_v)
        q_bar = jax.lax.stop_gradient(heads.q_value(target, batch.observation, batch.pair))
        if self.v_members == "min":
            q_bar = jnp.broadcast_to(q_bar.min(0), q_bar.shape)
        q_out = heads.q(params, batch.observation, batch.pair, q_key)
        v_out = heads.v(params, batch.observation, v_key)
        q, v = heads.readout.value(q_out), heads.readout.value(v_out)
        each = jax.vmap(jax.vmap(expectile_weight, (0, 0, None)), (0, 0, None))
        weight = each(q_bar, v, self.expectile)
        q_loss = heads.readout.loss(q_out, q_target).mean(1).sum()
        v_loss = (weight * heads.readout.loss(v_out, q_bar)).mean(1).sum()
        info = {
            "q_loss": q_loss,
            "v_loss": v_loss,
            "td_error": jnp.sqrt(jnp.mean(jnp.square(q - q_target))),
            "q_mean": q.mean(),
            "v_mean": v.mean(),
        }
        return q_loss + v_loss, info
