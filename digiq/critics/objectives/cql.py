"""Conservative Q-learning (Kumar et al., NeurIPS 2020), equation 4.

It adds to the pair of ``td``, over the N stored candidates of each state,

    α ( log Σ_n exp Q(s, a_n) - Q(s, a) )

which pushes the candidates down and the logged action up.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float
from pydantic import Field

from digiq.config import configclass
from digiq.critics.heads import Heads, Params
from digiq.critics.objectives.base import Backup, Info, pair_of_losses, td_target, v_target
from digiq.critics.training_data import Array, Batch, Needs


def conservative_penalty(
    q: Float[Array, "N"], mask: Bool[Array, "N"], q_logged: Float[Array, ""], temperature: float
) -> Float[Array, ""]:
    """``T log Σ_n exp(q_n / T) - q_logged`` of one state, over the candidates that exist."""
    return temperature * jax.nn.logsumexp(jnp.where(mask, q / temperature, -jnp.inf)) - q_logged


@configclass
class CQL:
    """Conservative Q-learning: TD with a penalty over the stored candidates."""

    alpha: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty."""
    penalty_temperature: Annotated[float, Field(gt=0)] = 1.0
    """T of the log-sum-exp, in units of Q; use less than 1 if returns come from a single 0/1 reward."""
    calibrated: bool = False
    """Do not push candidates below the return that followed; on in ``cal_ql``."""
    backup: Backup = "expectation"
    """What V follows, as in ``td``."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Softmax temperature of ``expectation``, in units of Q; none weights all candidates equally."""

    @property
    def needs(self) -> Needs:
        return Needs(candidates=True)

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Array, Info]:
        td_key, penalty_key = (None, None) if key is None else jax.random.split(key)
        next_v = heads.v_value(target, batch.next_observation)
        each = jax.vmap(jax.vmap(td_target), in_axes=(None, None, 0))
        q_target = each(batch.reward[:, 0], batch.discount[:, 0], next_v)
        v_targets = v_target(heads, target, batch, self.backup, self.temperature)
        loss, info, q_logged = pair_of_losses(heads, params, batch, q_target, v_targets, td_key)
        assert batch.candidates is not None and batch.mask is not None
        q = heads.readout.value(heads.q(params, batch.observation[:, None], batch.candidates, penalty_key))
        if self.calibrated:
            q = jnp.maximum(q, batch.returns[:, None])
        each = jax.vmap(jax.vmap(conservative_penalty, (0, 0, 0, None)), (0, None, 0, None))
        penalty = each(q, batch.mask, q_logged, self.penalty_temperature)
        penalty = self.alpha * penalty.mean(1).sum()
        return loss + penalty, info | {"penalty": penalty}
