"""The paper's pair of temporal-difference regressions (Digi-Q, equations 4 and 5; upstream's ``critic.py``).

For each member i of the ensemble, on its own:

    Q_i(s, a) → r + γ (1 - terminal) V̄_i(s')        V_i(s) → Q̄_i(s, a')

where bars mark target networks. The authors' code takes the logged action for a' (``backup: logged``), which evaluates
the behaviour policy. The stored candidates also allow the expectation under the proposer that drew them (their plain
mean), a softmax of Q over them (``temperature``), or the max (Q-learning within the support), without further VLM
calls.
"""

from typing import Annotated

import jax
from pydantic import Field

from digiq.config import configclass
from digiq.critics.heads import Heads, Params
from digiq.critics.objectives.base import Backup, Info, pair_of_losses, td_target, v_target
from digiq.critics.training_data import Array, Batch, Needs


@configclass
class TD:
    """The paper's temporal-difference pair, one step."""

    backup: Backup = "logged"
    """What V follows: Q of the ``logged`` action, the ``expectation`` over the stored candidates (their plain mean,
    unless there is a ``temperature``), or their ``max``."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Softmax temperature of ``expectation``, in units of Q; none weights all candidates equally."""

    @property
    def needs(self) -> Needs:
        return Needs(candidates=self.backup != "logged")

    def loss(
        self, heads: Heads, params: Params, target: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Array, Info]:
        q_target = self.q_target(heads, target, batch)
        v_targets = v_target(heads, target, batch, self.backup, self.temperature)
        loss, info, _ = pair_of_losses(heads, params, batch, q_target, v_targets, key)
        return loss, info

    def q_target(self, heads: Heads, target: Params, batch: Batch) -> Array:
        """``r + γ (1 - terminal) V̄_i(s')``, float32[E, B]."""
        next_v = heads.v_value(target, batch.next_observation)
        each = jax.vmap(jax.vmap(td_target), in_axes=(None, None, 0))
        return each(batch.reward[:, 0], batch.discount[:, 0], next_v)
