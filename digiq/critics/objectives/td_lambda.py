"""λ-returns (Sutton & Barto 2018, section 12.1), truncated at a window.

    G_t = r_t + γ (1 - terminal) [(1 - λ) V̄(s_{t+1}) + λ G_{t+1}]        Q_i(s_t, a_t) → G_t

λ = 0 is ``td``; λ = 1 is ``nstep`` with n = window. A window as long as the longest episode truncates nothing.
"""

from typing import Annotated

import jax
from jaxtyping import Float
from pydantic import Field

from digiq.config import configclass
from digiq.critics.heads import Heads, Params
from digiq.critics.objectives.base import Backup, Info, pair_of_losses, v_target
from digiq.critics.training_data import Array, Batch, Needs


def lambda_return(
    reward: Float[Array, "n"], discount: Float[Array, "n"], next_value: Float[Array, "n"], lambda_: float
) -> Float[Array, ""]:
    """λ-return of one window, bootstrapped from the value after its last step; no gradient."""

    def back(later: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        r, d, v = step
        return r + d * ((1 - lambda_) * v + lambda_ * later), None

    total, _ = jax.lax.scan(back, next_value[-1], (reward, discount, next_value), reverse=True)
    return jax.lax.stop_gradient(total)


@configclass
class TDLambda:
    """Temporal difference with λ-returns."""

    lambda_: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Weight of the longer returns: 0 is one-step, 1 is the whole window."""
    window: Annotated[int, Field(ge=1)] = 10
    """Actions after which the return is cut; each costs one evaluation of V̄ per transition."""
    backup: Backup = "logged"
    """What V follows, as in ``td``."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Softmax temperature of ``expectation``, in units of Q; none weights all candidates equally."""

    @property
    def needs(self) -> Needs:
        return Needs(candidates=self.backup != "logged", steps=self.window, every_step=True)

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Array, Info]:
        assert batch.next_observations is not None
        next_v = heads.v_value(target, batch.next_observations)
        each = jax.vmap(jax.vmap(lambda_return, (0, 0, 0, None)), (None, None, 0, None))
        q_target = each(batch.reward, batch.discount, next_v, self.lambda_)
        v_targets = v_target(heads, target, batch, self.backup, self.temperature)
        loss, info, _ = pair_of_losses(heads, params, batch, q_target, v_targets, key)
        return loss, info
