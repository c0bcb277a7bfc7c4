"""Regression on known values: a reference for learned targets, not a method.

    Q_i(s, a) → Q(s, a)        V_i(s) → V(s)

The simulator's values, those of the best policy or of the behaviour policy, are an artefact of ``digiq value``; plain
arrays bring their own (``known_q``, ``known_v``). The targets are right, so any remaining error comes from the
features, the network or the updates. Regression on the logged actions alone sees the pairs that temporal differences
see; over all candidates it sees the pairs that will be ranked.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from digiq.config import configclass
from digiq.critics.heads import Heads, Params
from digiq.critics.objectives.base import Info
from digiq.critics.training_data import Array, Batch, Needs


@configclass
class Exact:
    """Regression on true values, where they are known."""

    values: Literal["best", "policy"] = "best"
    """Values of the best policy, or of the behaviour policy."""
    actions: Literal["logged", "candidates"] = "candidates"
    """Regress on the logged action of a state, or on every stored candidate."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the objective reads."""
        return ("exact",)

    @property
    def needs(self) -> Needs:
        return Needs(candidates=self.actions == "candidates", known=True)

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Array, Info]:
        del target
        assert batch.known_q is not None and batch.known_v is not None
        q_key, v_key = (None, None) if key is None else jax.random.split(key)
        if self.actions == "candidates":
            assert batch.candidates is not None and batch.mask is not None
            pairs, known_q = batch.candidates, jnp.where(batch.mask, batch.known_q, jnp.nan)
        else:
            pairs, known_q = batch.pair[:, None], batch.known_q[:, :1]
        q_out = heads.q(params, batch.observation[:, None], pairs, q_key)
        v_out = heads.v(params, batch.observation, v_key)

        def mean_loss(out: Array, known: Array) -> tuple[Array, Array, Array]:
            """Mean loss, mean squared error and mean value where the truth is known."""
            there = jnp.isfinite(known)
            count = jnp.maximum(there.sum(), 1)
            targets = jnp.broadcast_to(jnp.where(there, known, 0.0), (heads.config.members, *known.shape))
            value = heads.readout.value(out)
            over = tuple(range(1, 1 + known.ndim))
            loss = jnp.where(there, heads.readout.loss(out, targets), 0.0).sum(over) / count
            squared = jnp.where(there, jnp.square(value - targets), 0.0).sum(over) / count
            return loss.sum(), squared.mean(), (jnp.where(there, value, 0.0).sum(over) / count).mean()

        q_loss, squared, q_mean = mean_loss(q_out, known_q)
        v_loss, _, v_mean = mean_loss(v_out, batch.known_v)
        info = {
            "q_loss": q_loss,
            "v_loss": v_loss,
            "td_error": jnp.sqrt(squared),
            "q_mean": q_mean,
            "v_mean": v_mean,
        }
        return q_loss + v_loss, info
