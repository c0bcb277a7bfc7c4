"""Q- and V-heads: ensembles of small multilayer perceptrons over stored features.

A head ends in one number, one logit, or a histogram of logits. :class:`Readout` turns those into values and losses,
so every objective works with every kind of output. All functions are pure; parameters are plain pytrees whose
leaves have a leading member axis.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from pydantic import Field

from digiq.config import configclass
from digiq.critics.training_data import Array

Params = Any
"""``{"q": members, "v": members}``; see :data:`_STACK_UP_TO` for how members are stored."""

_STACK_UP_TO = 2**20
"""Members are stacked if the largest layer of a head has at most this many weights: one pytree whose leaves have a
leading member axis, applied by ``vmap`` (fewer, larger operations). Larger heads are a tuple of pytrees, applied one by
one: XLA's batched matrix products are several times slower than single ones on CPUs, and slicing a stack would copy the
weights."""

_UNIFORM_SHARE = 0.01  # share of a fresh histogram head's mass that is spread over all bins

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu}


@configclass
class ReadoutConfig:
    """What a head's last layer means."""

    kind: Literal["scalar", "hl_gauss", "bernoulli"] = "scalar"
    """``scalar`` regression; ``hl_gauss`` histogram classification; ``bernoulli`` one logit, for returns in [0, 1]."""
    low: float = 0.0
    """Smallest value that an ``hl_gauss`` histogram represents."""
    high: float = 1.0
    """Largest value that an ``hl_gauss`` histogram represents."""
    bins: Annotated[int, Field(ge=2)] = 51
    """Number of bins of an ``hl_gauss`` histogram."""
    sigma_ratio: Annotated[float, Field(gt=0)] = 0.75
    """Width of the smoothing Gaussian of ``hl_gauss``, in bins."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"readout.low = {self.low} must be below readout.high = {self.high}")


@configclass
class HeadsConfig:
    """Size and shape of the Q- and V-heads."""

    q_hidden: tuple[Annotated[int, Field(gt=0)], ...] = (256, 256)
    """Hidden units of each layer of a Q-head; empty for a linear head."""
    v_hidden: tuple[Annotated[int, Field(gt=0)], ...] = (256, 256)
    """Hidden units of each layer of a V-head."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Activation between layers."""
    layer_norm: bool = True
    """Normalise each hidden layer before its activation."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of hidden units dropped during training."""
    members: Annotated[int, Field(ge=1)] = 2
    """Heads in the ensemble; 2 are the paper's twins."""
    q_input: Literal["both", "pair"] = "both"
    """Whether Q reads the features of the observation and of the pair, or of the pair alone."""
    readout: ReadoutConfig = ReadoutConfig()
    """What the last layer means."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations; parameters are always float32. ``auto`` is bfloat16 on accelerators and float32 on CPUs,
    where bfloat16 is slower. bfloat16 moves Q by less than a tenth of its standard deviation over candidates (root mean
    square)."""
    matmul_precision: Literal["default", "high", "highest"] = "highest"
    """Precision of float32 matrix products, in JAX's terms. ``highest`` multiplies in float32 on every device.
    ``default`` uses float32 on CPUs, TensorFloat-32 on NVIDIA GPUs and bfloat16 on TPUs, so devices disagree."""

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """``dtype``, with ``auto`` resolved for the device."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"


class MLP(nn.Module):
    """A multilayer perceptron over the concatenation of its inputs.

    The first layer is the sum of one dense layer per input, which equals a dense layer over their concatenation. Inputs
    broadcast, so an observation's part is computed once for all of its candidates.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: str = "relu"
    layer_norm: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32
    first_output: tuple[float, ...] = ()
    """Initial outputs, whatever the input; zeros when empty."""
    precision: str | None = None
    """Precision of matrix products; None is JAX's default."""

    @nn.compact
    def __call__(self, *inputs: Array, train: bool = False) -> Array:
        fan_in = sum(x.shape[-1] for x in inputs)
        sizes = (*self.hidden, self.outputs)
        x = jnp.zeros((), self.dtype)
        output_bias = _constant(self.first_output) if self.first_output else nn.initializers.zeros
        for i, part in enumerate(inputs):
            init = nn.initializers.variance_scaling(
                part.shape[-1] / fan_in, "fan_in", "truncated_normal"
            )  # scaled by the fan-in of the whole concatenation
            bias = nn.initializers.zeros if self.hidden else output_bias
            x = x + nn.Dense(
                sizes[0],
                use_bias=i == 0,
                kernel_init=init,
                bias_init=bias,
                dtype=self.dtype,
                precision=self.precision,
                name=f"input_{i}",
            )(part)
        for i, size in enumerate(sizes[1:]):
            if self.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x)
            x = _ACTIVATIONS[self.activation](x)
            if self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            # The last layer starts at zero, so every value does. A random start would be a bias that bootstrapping
            # passes from target to target; it decays only by γ each time that the targets have turned over.
            last = i == len(sizes) - 2
            init = nn.initializers.zeros if last else nn.initializers.lecun_normal()
            bias = output_bias if last else nn.initializers.zeros
            # In float32: bfloat16 steps by 0.004 near 1, so candidates would tie.
            dtype = jnp.float32 if last else self.dtype
            x = nn.Dense(
                size,
                kernel_init=init,
                bias_init=bias,
                dtype=dtype,
                precision=self.precision,
                name=f"dense_{i + 1}",
            )(x)
        return x.astype(jnp.float32)


def _constant(values: tuple[float, ...]) -> Callable[..., Array]:
    """An initialiser that returns ``values``."""
    return lambda key, shape, dtype=jnp.float32: jnp.broadcast_to(jnp.array(values, dtype), shape)


@dataclasses.dataclass(frozen=True)
class Readout:
    """Values and losses of a head's raw outputs."""

    config: ReadoutConfig

    @property
    def width(self) -> int:
        """Number of outputs of a head."""
        return self.config.bins if self.config.kind == "hl_gauss" else 1

    def value(self, output: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
        """The value that raw outputs stand for."""
        if self.config.kind == "scalar":
            return output[..., 0]
        if self.config.kind == "bernoulli":
            return jax.nn.sigmoid(output[..., 0])
        return (jax.nn.softmax(output) * self._centres()).sum(-1)

    def loss(
        self, output: Float[Array, "*batch K"], target: Float[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        """Half the squared error of a scalar, or the cross-entropy of a classification, towards ``target``.

        No gradient flows through ``target``.
        """
        target = jax.lax.stop_gradient(target)
        if self.config.kind == "scalar":
            return 0.5 * jnp.square(output[..., 0] - target)
        if self.config.kind == "bernoulli":
            return optax.sigmoid_binary_cross_entropy(output[..., 0], jnp.clip(target, 0.0, 1.0))
        return optax.softmax_cross_entropy(output, self.target_histogram(target))

    def target_histogram(self, target: Float[Array, "*batch"]) -> Float[Array, "*batch bins"]:
        """Mass of a Gaussian around ``target`` in each bin (HL-Gauss: Imani & White 2018; Farebrother et al. 2024)."""
        return self._histogram(jnp.clip(target, self.config.low, self.config.high))

    def start(self) -> tuple[float, ...]:
        """Raw outputs of a fresh head: value 0, or the end of an ``hl_gauss`` range that is nearest to it.

        Equal logits would mean the middle of the range: a bias of half the range that bootstrapping passes on. The
        histogram of 0 is mixed with one hundredth of a uniform one, so that no bin starts out of reach, and shifted
        to keep the mean (to a thousandth of the range). A ``bernoulli`` head starts at 0.5.
        """
        c = self.config
        if c.kind != "hl_gauss":
            return ()
        goal = min(max(0.0, c.low), c.high)
        centre = goal + _UNIFORM_SHARE / (1 - _UNIFORM_SHARE) * (goal - 0.5 * (c.low + c.high))
        with jax.ensure_compile_time_eval():
            peak = np.asarray(self._histogram(jnp.float32(centre)), np.float64)
        return tuple(np.log((1 - _UNIFORM_SHARE) * peak + _UNIFORM_SHARE / c.bins).tolist())

    def _histogram(self, centre: Float[Array, "*batch"]) -> Float[Array, "*batch bins"]:
        edges = self._edges()
        sigma = self.config.sigma_ratio * (self.config.high - self.config.low) / self.config.bins
        cumulative = jax.scipy.special.erf((edges - centre[..., None]) / (jnp.sqrt(2.0) * sigma))
        mass = cumulative[..., 1:] - cumulative[..., :-1]
        return mass / (cumulative[..., -1:] - cumulative[..., :1])

    def _edges(self) -> Array:
        """Bin edges; a margin of three sigma on either side keeps targets at ``low`` and ``high`` unbiased."""
        c = self.config
        margin = 3 * c.sigma_ratio * (c.high - c.low) / c.bins
        return jnp.linspace(c.low - margin, c.high + margin, c.bins + 1)

    def _centres(self) -> Array:
        edges = self._edges()
        return 0.5 * (edges[1:] + edges[:-1])


@dataclasses.dataclass(frozen=True)
class Heads:
    """The networks of a critic, without their parameters. Hashable, so it can be a static argument of ``jit``."""

    config: HeadsConfig

    @property
    def readout(self) -> Readout:
        return Readout(self.config.readout)

    def init(self, key: Array, observation_dim: int, pair_dim: int) -> Params:
        """Draws parameters ``{"q": ..., "v": ...}``, each member's from its own key."""
        q_key, v_key = jax.random.split(key)
        observation, pair = jnp.zeros((1, observation_dim)), jnp.zeros((1, pair_dim))

        def members(module: MLP, key: Array, *inputs: Array) -> Params:
            keys = jax.random.split(key, self.config.members)
            sizes = (sum(x.shape[-1] for x in inputs), *module.hidden)
            if max(a * b for a, b in itertools.pairwise((*sizes, 1))) > _STACK_UP_TO:
                return tuple(module.init(k, *inputs)["params"] for k in keys)
            return jax.vmap(lambda k: module.init(k, *inputs)["params"])(keys)

        return {
            "q": members(self._mlp(self.config.q_hidden), q_key, *self._q_inputs(observation, pair)),
            "v": members(self._mlp(self.config.v_hidden), v_key, observation),
        }

    def q(
        self,
        params: Params,
        observation: Float[Array, "*#batch Do"],
        pair: Float[Array, "*batch Dp"],
        key: Array | None = None,
    ) -> Float[Array, "E *batch K"]:
        """Raw outputs of every Q-head.

        Args:
          params: as :meth:`init` returns them.
          observation: standardised observation features; batch axes broadcast against the pair's.
          pair: standardised features of (observation, action).
          key: key of the dropout masks; None switches dropout off.
        """
        return self._apply(
            self._mlp(self.config.q_hidden), params["q"], self._q_inputs(observation, pair), key
        )

    def v(
        self, params: Params, observation: Float[Array, "*batch Do"], key: Array | None = None
    ) -> Float[Array, "E *batch K"]:
        """Raw outputs of every V-head; arguments as for :meth:`q`."""
        return self._apply(self._mlp(self.config.v_hidden), params["v"], (observation,), key)

    def q_value(
        self, params: Params, observation: Float[Array, "*#batch Do"], pair: Float[Array, "*batch Dp"]
    ) -> Float[Array, "E *batch"]:
        """Q of every member, without dropout."""
        return self.readout.value(self.q(params, observation, pair))

    def v_value(self, params: Params, observation: Float[Array, "*batch Do"]) -> Float[Array, "E *batch"]:
        """V of every member, without dropout."""
        return self.readout.value(self.v(params, observation))

    def _mlp(self, hidden: tuple[int, ...]) -> MLP:
        c = self.config
        return MLP(
            hidden,
            self.readout.width,
            c.activation,
            c.layer_norm,
            c.dropout,
            jnp.dtype(c.compute_dtype),
            self.readout.start(),
            c.matmul_precision,
        )

    def _q_inputs(self, observation: Array, pair: Array) -> tuple[Array, ...]:
        return (observation, pair) if self.config.q_input == "both" else (pair,)

    def _apply(self, module: MLP, params: Params, inputs: tuple[Array, ...], key: Array | None) -> Array:
        def member(params: Params, key: Any) -> Any:
            if key is None:
                return module.apply({"params": params}, *inputs)
            return module.apply({"params": params}, *inputs, train=True, rngs={"dropout": key})

        keys = None if key is None or not self.config.dropout else jax.random.split(key, self.config.members)
        if isinstance(params, tuple):
            return jnp.stack([member(p, None if keys is None else keys[k]) for k, p in enumerate(params)])
        if keys is None:
            return jax.vmap(lambda p: member(p, None))(params)
        return jax.vmap(member)(params, keys)
