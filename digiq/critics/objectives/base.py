"""The interface of an objective, and the pieces that objectives share."""

from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from digiq.critics.heads import Heads, Params
from digiq.critics.training_data import Array, Batch, Needs

Backup = Literal["logged", "expectation", "max"]
Info = dict[str, Float[Array, ""]]


class Objective(Protocol):
    """A frozen config whose ``loss`` is a pure function; each has its own file in this folder."""

    @property
    def needs(self) -> Needs:
        """What it reads from a batch."""
        ...

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Float[Array, ""], Info]:
        """Loss of a batch, summed over ensemble members, and numbers to log.

        Args:
          heads: the networks.
          params: online parameters; only these get a gradient.
          target: slowly moving copy of ``params``.
          batch: sampled transitions.
          key: key of the dropout masks; None during evaluation.
        """
        ...


def td_target(
    reward: Float[Array, ""], discount: Float[Array, ""], next_value: Float[Array, ""]
) -> Float[Array, ""]:
    """``r + γ (1 - terminal) V̄(s')`` of one transition; ``discount`` holds the product of the last two factors."""
    return jax.lax.stop_gradient(reward + discount * next_value)


def candidates_value(
    q: Float[Array, "N"], mask: Bool[Array, "N"], backup: Backup, temperature: float | None = None
) -> Float[Array, ""]:
    """Value of one state under its stored candidates; no gradient.

    Args:
      q: Q̄ of each candidate.
      mask: which candidates exist.
      backup: ``expectation`` takes their mean, weighted by softmax(q / temperature) if there is one; ``max`` the best.
      temperature: None weights all equally, which for candidates sampled from a policy gives its expected value.
    """
    q = jax.lax.stop_gradient(q)
    if backup == "max":
        return jnp.max(jnp.where(mask, q, -jnp.inf))
    alike: Array = jnp.zeros_like(q)  # pyright: ignore[reportUnknownMemberType]  JAX leaves its type open
    logits = alike if temperature is None else q / temperature
    weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))
    return jnp.sum(jnp.where(mask, weights * q, 0.0))


def v_target(
    heads: Heads, target: Params, batch: Batch, backup: Backup, temperature: float | None
) -> Float[Array, "E B"]:
    """The target of V, for each member by itself: Q̄ of the logged action, or the value of the candidates."""
    if backup == "logged":
        return jax.lax.stop_gradient(heads.q_value(target, batch.observation, batch.pair))
    assert batch.candidates is not None and batch.mask is not None, (
        "the objective must declare that it needs candidates"
    )
    q = heads.q_value(target, batch.observation[:, None], batch.candidates)
    each = jax.vmap(jax.vmap(candidates_value, (0, 0, None, None)), (0, None, None, None))
    return each(q, batch.mask, backup, temperature)


def pair_of_losses(
    heads: Heads,
    params: Params,
    batch: Batch,
    q_target: Float[Array, "E B"],
    v_target: Float[Array, "E B"],
    key: Array | None,
) -> tuple[Float[Array, ""], Info, Float[Array, "E B"]]:
    """``J_Q + J_V`` towards given targets, the numbers to log, and Q of the logged actions."""
    q_key, v_key = (None, None) if key is None else jax.random.split(key)
    q_out = heads.q(params, batch.observation, batch.pair, q_key)
    v_out = heads.v(params, batch.observation, v_key)
    q_loss = heads.readout.loss(q_out, q_target).mean(1).sum()
    v_loss = heads.readout.loss(v_out, v_target).mean(1).sum()
    q, v = heads.readout.value(q_out), heads.readout.value(v_out)
    info = {
        "q_loss": q_loss,
        "v_loss": v_loss,
        "td_error": jnp.sqrt(jnp.mean(jnp.square(q - q_target))),
        "q_mean": q.mean(),
        "v_mean": v.mean(),
    }
    return q_loss + v_loss, info, q
