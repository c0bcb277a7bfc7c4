"""The learner: one pure update, scanned over an epoch, jitted once.

``epoch(state, hyper, data)`` donates the state and takes the data as an argument. It draws its indices on the device
and returns the mean of the numbers that the objective logs. :func:`train` is a generator of epochs; logging,
checkpoints and early stopping consume it (see ``train.py``).
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt32
from pydantic import Field

from digiq.config import configclass
from digiq.critics.heads import Heads, HeadsConfig, Params
from digiq.critics.objectives import OBJECTIVES, Objective
from digiq.critics.placement import split_batches
from digiq.critics.training_data import Array, Batch, CriticData, Needs, gather
from digiq.errors import DigiQError
from digiq.tables import chosen_from

_HELDOUT_ROWS = (
    2048  # most held-out transitions that are checked, so that the check stays a small part of an epoch
)


@configclass
class CriticConfig(chosen_from(OBJECTIVES, default="td")):
    """Architecture and training of a critic; values marked ``paper`` are those of the authors' code."""

    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Discount per executed action."""
    timeout: Literal["terminal", "bootstrap"] = "terminal"
    """Whether an episode that ran out of steps ends with value 0 (paper) or with the value of its last observation."""
    heads: HeadsConfig = HeadsConfig()
    """The networks."""
    observation_layers: tuple[str, ...] = ()
    """Layers of observation features to concatenate; empty takes all stored layers."""
    pair_layers: tuple[str, ...] = ()
    """Layers of pair features to concatenate; empty takes all stored layers."""
    standardize: bool = True
    """Scale every input dimension to mean 0 and standard deviation 1 on the training split."""
    epochs: Annotated[int, Field(ge=1)] = 20
    """Number of epochs; each ends with metrics."""
    steps_per_epoch: Annotated[int, Field(ge=1)] = 100
    """Optimiser steps per epoch (paper: 20)."""
    passes: Annotated[float, Field(gt=0)] | None = None
    """Total passes over the transitions, instead of ``steps_per_epoch``; training then takes longer on more data."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Transitions per step (paper: 128 in 4 micro-batches); all of them if there are no more than this."""
    micro_batches: Annotated[int, Field(ge=1)] = 1
    """Parts of a batch whose gradients are clipped separately, then averaged (paper: 4)."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    """Peak step size of Adam (paper: 1e-5)."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Schedule of the learning rate over all steps (paper: constant)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled decay of weight matrices, as a multiple of the learning rate (paper: 0.01, AdamW's default)."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest global gradient norm (paper: 0.01); none turns clipping off."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Weight of the online parameters in the target network's moving average, per step (paper: 0.1)."""
    aggregate: Literal["mean", "min", "max", "lcb"] = "mean"
    """How the members' Q are combined at extraction (paper: max); ``lcb``: mean minus ``lcb_scale`` deviations."""
    lcb_scale: Annotated[float, Field(ge=0)] = 1.0
    """Standard deviations below the mean, for ``lcb``."""
    baseline: Literal["v", "candidate_mean", "logged"] = "v"
    """What extraction subtracts from Q: the V-head (paper), the mean Q of the candidates, or Q of the logged action."""

    def __post_init__(self) -> None:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of micro_batches {self.micro_batches}"
            )

    def for_transitions(self, count: int) -> Self:
        """This config for ``count`` transitions: ``passes``, if given, sets ``steps_per_epoch``."""
        if self.passes is None:
            return self
        steps = math.ceil(self.passes * count / (self.batch_size * self.epochs))
        return dataclasses.replace(self, steps_per_epoch=max(1, steps))


class Hyper(NamedTuple):
    """Numbers that are arguments of the compiled epoch, so that changing them does not recompile it.

    Members of a population differ in the learning rate alone (see :class:`digiq.critics.population.PopulationConfig`).
    """

    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]
    tau: Float[Array, ""]


class LearnerState(NamedTuple):
    """Everything that an epoch changes, including the sampler's key; it is donated to the epoch."""

    params: Params
    target: Params
    """Moving average of ``params``; a copy, never an alias, and outside the optimiser."""
    optimizer: optax.OptState
    key: UInt32[Array, "2"]
    """Key of the sampler and of dropout; it determines all of the epoch's draws."""
    step: Int[Array, ""]


class Epoch(NamedTuple):
    """One epoch, as :func:`train` yields it. The next one consumes ``state``: copy what should outlive it."""

    number: int
    """Epochs done so far, from 1."""
    state: LearnerState
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Learner:
    """Static description of the computation; hashable, so that ``jit`` compiles once per configuration."""

    config: CriticConfig
    mesh: Mesh | None = None
    """Devices that share each batch, whose number must divide ``batch_size``; None is the default device alone."""

    @property
    def heads(self) -> Heads:
        return Heads(self.config.heads)

    @property
    def objective(self) -> Objective:
        return self.config.chosen

    def hyper(self) -> Hyper:
        """The configuration's own values."""
        c = self.config
        return Hyper(*(jnp.float32(x) for x in (c.learning_rate, c.weight_decay, c.tau)))

    def init(self, key: Array, data: CriticData) -> LearnerState:
        """A fresh state; the target network starts equal to the online one."""
        return self._init(key, data.observation.shape[-1], data.pair.shape[-1])

    @functools.partial(jax.jit, static_argnums=(0, 2, 3))
    def _init(self, key: Array, observation_dim: int, pair_dim: int) -> LearnerState:
        params_key, sampler_key = jax.random.split(key)
        params = self.heads.init(params_key, observation_dim, pair_dim)
        return LearnerState(
            params=params,
            target=jax.tree.map(jnp.copy, params),
            optimizer=self._optimizer().init(params),
            key=sampler_key,
            step=jnp.zeros((), jnp.int32),
        )

    def update(
        self, state: LearnerState, hyper: Hyper, batch: Batch, key: Array
    ) -> tuple[LearnerState, dict[str, Float[Array, ""]]]:
        """One optimiser step on one batch."""
        gradient, info = self._gradient(state, batch, key)
        direction, optimizer = self._optimizer().update(gradient, state.optimizer, state.params)
        rate = hyper.learning_rate * self._schedule()(state.step)
        params = jax.tree_util.tree_map_with_path(
            lambda path, p, d: p - rate * (d + (hyper.weight_decay * p if _is_kernel(path) else 0.0)),
            state.params,
            direction,
        )
        target = optax.incremental_update(params, state.target, hyper.tau)
        return LearnerState(params, target, optimizer, state.key, state.step + 1), info

    def draw(self, key: Array, count: int) -> tuple[Int[Array, "steps B"], Array, Array]:
        """The positions (in ``train_rows``) of an epoch's batches, one key per step, and the next epoch's key."""
        c = self.config
        key, index_key, step_key = jax.random.split(key, 3)
        if c.batch_size >= count and c.micro_batches == 1:
            positions = jnp.tile(jnp.arange(count), (c.steps_per_epoch, 1))
        else:
            positions = jax.random.randint(index_key, (c.steps_per_epoch, c.batch_size), 0, count)
        return split_batches(positions, self.mesh), jax.random.split(step_key, c.steps_per_epoch), key

    def scan_epoch(
        self, state: LearnerState, hyper: Hyper, data: CriticData
    ) -> tuple[LearnerState, dict[str, Float[Array, ""]]]:
        """One epoch as a pure function: draw, then scan gather and update. :meth:`epoch` is the jitted version."""
        positions, keys, next_key = self.draw(state.key, len(data.train_rows))

        def step(state: LearnerState, xs: tuple[Array, Array]) -> tuple[LearnerState, dict[str, Array]]:
            rows = data.train_rows[xs[0]]
            return self.update(state, hyper, gather(data, rows, self.objective.needs), xs[1])

        state, infos = jax.lax.scan(step, state, (positions, keys))
        return state._replace(key=next_key), jax.tree.map(lambda x: x.mean(0), infos)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def epoch(
        self, state: LearnerState, hyper: Hyper, data: CriticData
    ) -> tuple[LearnerState, dict[str, Float[Array, ""]]]:
        """:meth:`scan_epoch`, jitted; ``state`` is donated."""
        return self.scan_epoch(state, hyper, data)

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(
        self, params: Params, target: Params, data: CriticData, rows: Int[Array, "R"]
    ) -> dict[str, Float[Array, ""]]:
        """:meth:`check` on ``rows`` of ``data``, jitted."""
        return self.check(
            params, target, gather(data, rows, self.objective.needs), gather(data, rows, Needs())
        )

    def check(
        self, params: Params, target: Params, batch: Batch, single: Batch
    ) -> dict[str, Float[Array, ""]]:
        """The objective without dropout, the Bellman residual, and the error against returns.

        ``bellman_residual`` is the root mean square of ``Q(s, a) - r - γ (1 - terminal) V(s')`` with online
        parameters on both sides, so it is comparable between objectives. ``return_error`` is that of ``Q - G``.
        ``initial_q`` is the mean Q over the first states of episodes. ``disagreement`` is the mean standard deviation
        over members.

        Args:
          params: online parameters.
          target: target parameters.
          batch: the rows as the objective needs them.
          single: the same rows as single transitions.
        """
        _, info = self.objective.loss(self.heads, params, target, batch)
        members = self.heads.q_value(params, single.observation, single.pair)
        q = members.mean(0)
        v = self.heads.v_value(params, single.next_observation).mean(0)
        residual = q - single.reward[:, 0] - single.discount[:, 0] * v
        return info | {
            "bellman_residual": jnp.sqrt(jnp.mean(jnp.square(residual))),
            "return_error": jnp.sqrt(jnp.mean(jnp.square(q - single.returns))),
            "initial_q": jnp.sum(q * single.first) / jnp.maximum(jnp.sum(single.first), 1),
            "disagreement": members.std(0).mean(),
        }

    def _gradient(self, state: LearnerState, batch: Batch, key: Array) -> tuple[Params, dict[str, Array]]:
        """Clipped gradient of the loss; with micro-batches, the mean of their clipped gradients.

        ``gradient_norm`` is the norm before clipping.
        """

        def one(batch: Batch, key: Array) -> tuple[Params, dict[str, Array]]:
            loss = functools.partial(self.objective.loss, self.heads)
            gradient, info = jax.grad(loss, has_aux=True)(state.params, state.target, batch, key)
            norm = optax.global_norm(gradient)
            info |= {"gradient_norm": norm}
            if self.config.gradient_clip is not None:
                # Like optax.clip_by_global_norm, but with a single factor. Optax's division by the norm is another pass
                # over memory, and at the paper's sizes the cost of an update is its passes over memory.
                factor = jnp.minimum(1.0, self.config.gradient_clip / norm)
                gradient = jax.tree.map(lambda g: g * factor, gradient)
            return gradient, info

        parts = self.config.micro_batches
        if parts == 1:
            return one(batch, key)
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        total = jax.tree.map(jnp.zeros_like, state.params)

        def add(total: Params, xs: tuple[Batch, Array]) -> tuple[Params, dict[str, Array]]:
            gradient, info = one(*xs)
            return jax.tree.map(jnp.add, total, gradient), info

        total, infos = jax.lax.scan(add, total, (split, jax.random.split(key, parts)))
        return jax.tree.map(lambda g: g / parts, total), jax.tree.map(lambda x: x.mean(0), infos)

    def _optimizer(self) -> optax.GradientTransformation:
        return optax.scale_by_adam()

    def _schedule(self) -> optax.Schedule:
        c = self.config
        total = c.epochs * c.steps_per_epoch
        if c.schedule == "constant":
            return (
                optax.linear_schedule(0.0, 1.0, c.warmup_steps)
                if c.warmup_steps
                else optax.constant_schedule(1.0)
            )
        return optax.warmup_cosine_decay_schedule(
            0.0 if c.warmup_steps else 1.0, 1.0, c.warmup_steps, max(total, c.warmup_steps + 1)
        )


def join_checks(
    parts: Sequence[dict[str, Array]], rows: Sequence[int], first: Sequence[int]
) -> dict[str, Array]:
    """The result of :meth:`Learner.check` for all rows, from its results for parts of them.

    All numbers are means over rows, except root mean squares and the mean over first states.

    Args:
      parts: results of :meth:`Learner.check`.
      rows: how many rows each part has.
      first: how many of them are the first of an episode.
    """
    joined = {}
    for name in parts[0]:
        values = jnp.stack([part[name] for part in parts])
        weights = jnp.asarray(first if name == "initial_q" else rows, jnp.float32)
        squared = name in ("td_error", "bellman_residual", "return_error")
        mean = jnp.sum(weights * (values**2 if squared else values)) / jnp.maximum(weights.sum(), 1)
        joined[name] = jnp.sqrt(mean) if squared else mean
    return joined


class Runner(Protocol):
    """What :func:`train` needs: a :class:`Learner`, or something like it that reads its data another way."""

    @property
    def config(self) -> CriticConfig: ...

    def epoch(
        self, state: LearnerState, hyper: Hyper, data: CriticData
    ) -> tuple[LearnerState, dict[str, Array]]: ...

    def evaluate(self, params: Params, target: Params, data: CriticData, rows: Array) -> dict[str, Array]: ...


def train(
    learner: Runner, state: LearnerState, hyper: Hyper, data: CriticData, *, first: int = 0
) -> Iterator[Epoch]:
    """Yields the epochs after the first ``first``.

    Args:
      learner: the computation, in memory or streaming.
      state: where to start; consumed.
      hyper: see :meth:`Learner.hyper`.
      data: where ``learner`` expects it; a :class:`Learner` copies NumPy arrays to the device every epoch.
      first: epochs that an earlier run has done.

    Raises:
      DigiQError: training diverged, so that no later epoch could be of use.
    """
    heldout = heldout_sample(data)
    for number in range(first + 1, learner.config.epochs + 1):
        state, means = learner.epoch(state, hyper, data)
        metrics = {k: float(v) for k, v in jax.device_get(means).items()}
        if math.isnan(metrics["td_error"]):
            raise DigiQError(
                f"train-q: training diverged in epoch {number}: the TD error is NaN. Lower critic.learning_rate "
                f"({learner.config.learning_rate:g}), or give critic.gradient_clip; checkpoints until then are kept."
            )
        if len(heldout):
            checked = jax.device_get(learner.evaluate(state.params, state.target, data, heldout))
            metrics |= {f"heldout_{k}": float(v) for k, v in checked.items()}
        yield Epoch(number, state, metrics)


def heldout_sample(data: CriticData) -> Int[Array, "R"]:
    """The held-out rows that are checked after every epoch, spread evenly over all of them."""
    stride = -(-len(data.heldout_rows) // _HELDOUT_ROWS) or 1
    return data.heldout_rows[::stride]


def _is_kernel(path: tuple[Any, ...]) -> bool:
    return getattr(path[-1], "key", None) == "kernel"
