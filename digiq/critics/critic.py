"""A trained critic, on disk and in memory: its parameters, the standardisation of its inputs, and its feature layers.

Directory: ``critic.json`` (config, layers, sizes, the chosen epoch), ``standardizer.npz`` and Orbax checkpoints
``checkpoints/<epoch>/{params,training}``; scoring reads ``params`` alone.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from digiq import artifacts
from digiq.config import load, to_dict
from digiq.critics.checkpoints import Checkpoints
from digiq.critics.heads import Heads, Params
from digiq.critics.learner import CriticConfig
from digiq.critics.streaming import StoredRows, fits_in_memory
from digiq.critics.training_data import (
    Array,
    CriticData,
    Standardizer,
    choose_layers,
    concatenate_layers,
    layer_names,
)
from digiq.errors import ArtifactError, DigiQError

Aggregate = Literal["mean", "min", "max", "lcb"]
Baseline = Literal["v", "candidate_mean", "logged"]
_DESCRIPTION = "critic.json"
_STANDARDIZER = "standardizer.npz"
_STATES_AT_ONCE, _VALUES_AT_ONCE = 512, 2**26  # the second bounds memory where candidates are many and wide


@dataclasses.dataclass(frozen=True)
class Critic:
    """Q and V as functions of raw (not standardised) features."""

    config: CriticConfig
    params: Params
    standardizer: Standardizer
    observation_layers: tuple[str, ...] = ()
    """Layers whose features are concatenated; empty when trained on a plain array."""
    pair_layers: tuple[str, ...] = ()
    metrics: tuple[dict[str, float], ...] = ()
    """One row per epoch, if it was just trained."""

    def q(
        self, observation: Float[Array, "*#batch Do"], pair: Float[Array, "*batch Dp"]
    ) -> Float[np.ndarray, "*batch E"]:
        """Q of every ensemble member; the observation's batch axes broadcast against the pair's."""
        observation = self._input(observation, self.observation_layers, "observation")
        pair = self._input(pair, self.pair_layers, "pair")
        values = _q(self.config.heads, self.params, self.standardizer, observation, pair)
        return np.moveaxis(np.asarray(values), 0, -1)

    def v(self, observation: Float[Array, "*batch Do"]) -> Float[np.ndarray, "*batch E"]:
        """V of every ensemble member."""
        observation = self._input(observation, self.observation_layers, "observation")
        return np.moveaxis(
            np.asarray(_v(self.config.heads, self.params, self.standardizer, observation)), 0, -1
        )

    def aggregate(self, values: Float[np.ndarray, "*batch E"], how: Aggregate | None = None) -> np.ndarray:
        """Combines the members' values into one; ``how`` defaults to the config's ``aggregate``."""
        chosen: Aggregate = self.config.aggregate if how is None else how
        if chosen == "lcb":
            return values.mean(-1) - self.config.lcb_scale * values.std(-1)
        return {"mean": np.mean, "min": np.min, "max": np.max}[chosen](values, axis=-1)

    def _input(self, features: Any, layers: tuple[str, ...], kind: str) -> np.ndarray:
        array = concatenate_layers(features, layers)
        expected = getattr(self.standardizer, f"{kind}_mean").shape[-1]
        if array.shape[-1] != expected:
            raise DigiQError(
                f"{kind} features have {array.shape[-1]} dimensions, but this critic was trained on {expected}; "
                "use the features it was trained on."
            )
        return array


def flat(critic: Critic) -> Critic:
    """The critic for features whose layers are already concatenated."""
    return dataclasses.replace(critic, observation_layers=(), pair_layers=())


def candidate_values(
    critic: Critic, features: Any, *, aggregate: Aggregate | None = None, baseline: Baseline | None = None
) -> tuple[Float[np.ndarray, "S N"], Float[np.ndarray, "S"]]:
    """Q of every stored candidate, and the value it must beat at extraction.

    Args:
      critic: the critic to evaluate.
      features: ``observation``, ``pair`` and ``candidate_row``, as an object or a mapping. Features opened by
        :func:`digiq.features.open_features` are read a block of states at a time if they do not fit into memory.
      aggregate: how the members' Q and V are combined; defaults to the critic's config.
      baseline: ``v`` the V-head, ``candidate_mean`` the mean Q of the candidates, ``logged`` Q of candidate 0 (NaN
        where there is none); defaults to the critic's config. With ``backup: max`` V follows the best candidate, so
        ``Q - V`` passes almost nothing: take another baseline there.

    Returns:
      float32 ``q[S, N]``, NaN where there is no candidate, and float32 ``baseline[S]``.
    """
    q, v = (critic.aggregate(values, aggregate) for values in member_values(critic, features))
    return q, baseline_of(q, v, baseline or critic.config.baseline)


def baseline_of(
    q: Float[np.ndarray, "S N"], v: Float[np.ndarray, "S"], baseline: Baseline
) -> Float[np.ndarray, "S"]:
    """The value that candidates must beat; see :func:`candidate_values`."""
    if baseline == "logged":
        return q[:, 0].copy()
    if baseline == "candidate_mean":
        exists = ~np.isnan(q)
        return (np.where(exists, q, 0).sum(1) / np.maximum(exists.sum(1), 1)).astype(np.float32)
    return v


def member_values(
    critic: Critic, features: Any
) -> tuple[Float[np.ndarray, "S N E"], Float[np.ndarray, "S E"]]:
    """Q of every stored candidate (NaN where there is none) and V, of every ensemble member; float32."""
    sources = (("observation", critic.observation_layers), ("pair", critic.pair_layers))
    observation, pair = _open([(_field(features, kind), layers) for kind, layers in sources])
    rows = np.asarray(_field(features, "candidate_row"))
    members = critic.config.heads.members
    q = np.full((*rows.shape, members), np.nan, np.float32)
    v = np.zeros((len(rows), members), np.float32)
    plain = flat(critic)
    for states in _blocks(len(rows), rows.shape[1] * pair.shape[1]):
        chunk = rows[states]
        obs = observation[states]
        values = plain.q(obs[:, None], pair[np.maximum(chunk, 0)])
        q[states] = np.where(chunk[..., None] >= 0, values, np.nan)
        v[states] = plain.v(obs)
    return q, v


def state_values(critic: Critic, features: Any) -> Float[np.ndarray, "S"]:
    """V of every stored observation, aggregated over members; float32. See :func:`candidate_values`."""
    (observation,) = _open([(_field(features, "observation"), critic.observation_layers)])
    v = np.zeros((len(observation), critic.config.heads.members), np.float32)
    for states in _blocks(*observation.shape):
        v[states] = flat(critic).v(observation[states])
    return critic.aggregate(v)


def _field(features: Any, name: str) -> Any:
    return features[name] if isinstance(features, Mapping) else getattr(features, name)


def _open(sources: list[tuple[Any, tuple[str, ...]]]) -> list[Any]:
    """Arrays with their layers concatenated; stored ones are read into memory if all fit, and stay on disk if not."""
    if not all(isinstance(a, Mapping) and all(hasattr(x, "load") for x in a.values()) for a, _ in sources):
        return [concatenate_layers(arrays, layers) for arrays, layers in sources]
    stored = [StoredRows(choose_layers(arrays, layers)) for arrays, layers in sources]
    return [rows.load() for rows in stored] if fits_in_memory(stored) else stored


def _blocks(states: int, values: int) -> Iterator[np.ndarray]:
    """Blocks of states, ``values`` numbers each; the last is padded with the last state, so that one shape compiles."""
    size = max(1, min(_STATES_AT_ONCE, _VALUES_AT_ONCE // values))
    for start in range(0, states, size):
        yield np.minimum(np.arange(start, start + size), states - 1)


def critic_of(
    config: CriticConfig, params: Any, data: CriticData, features: Any, metrics: tuple[dict[str, float], ...]
) -> Critic:
    """A critic with trained parameters, and the standardisation and layers of its training data."""
    standardizer = type(data.standardizer)(*(np.asarray(x) for x in data.standardizer))
    return Critic(
        config,
        params,
        standardizer,
        layer_names(features, "observation", config.observation_layers),
        layer_names(features, "pair", config.pair_layers),
        metrics,
    )


def describe(path: Path, critic: Critic, epoch: int) -> None:
    """Writes ``critic.json`` and the standardisation; ``epoch`` is the chosen checkpoint."""
    s = Standardizer(*(np.asarray(x) for x in critic.standardizer))
    with artifacts.atomic_path(path / _STANDARDIZER) as temporary, temporary.open("wb") as file:
        np.savez(file, **s._asdict())
    artifacts.atomic_write_json(
        path / _DESCRIPTION,
        {
            "epoch": epoch,
            "observation_dim": s.observation_mean.shape[-1],
            "pair_dim": s.pair_mean.shape[-1],
            "observation_layers": critic.observation_layers,
            "pair_layers": critic.pair_layers,
            "critic": to_dict(critic.config),
        },
    )


def save_critic(critic: Critic, path: str | Path) -> None:
    """Writes a critic made by ``fit_critic`` into a new directory, for :func:`load_critic`."""
    path = Path(path).absolute()
    path.mkdir(parents=True, exist_ok=True)
    with Checkpoints(path / "checkpoints") as checkpoints:
        checkpoints.save_params(critic.config.epochs, critic.params)
    describe(path, critic, critic.config.epochs)
    artifacts.write_checksums(path)


def load_critic(path: str | Path, epoch: int | None = None) -> Critic:
    """Opens a critic.

    Args:
      path: a directory of ``digiq train-q`` or :func:`save_critic`.
      epoch: which checkpoint; None takes the chosen one.

    Raises:
      ArtifactError: no critic is there, it is unfinished, or the checkpoint is missing or of another architecture.
    """
    path = Path(path).absolute()
    if not (path / _DESCRIPTION).is_file():
        raise ArtifactError(f"{path}: no {_DESCRIPTION}, so it is not a critic; run 'digiq train-q'.")
    artifacts.check_directory(path, ("train-q",))
    description = json.loads((path / _DESCRIPTION).read_text(encoding="utf-8"))
    config = load(CriticConfig, description["critic"], where=str(path / _DESCRIPTION), recorded=True)
    with np.load(path / _STANDARDIZER, allow_pickle=False) as stored:
        standardizer = Standardizer(**{name: stored[name] for name in Standardizer._fields})
    shapes = jax.eval_shape(
        lambda key: Heads(config.heads).init(key, description["observation_dim"], description["pair_dim"]),
        jax.random.PRNGKey(0),
    )
    with Checkpoints(path / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(description["epoch"] if epoch is None else epoch, shapes)
    return Critic(
        config=config,
        params=params,
        standardizer=standardizer,
        observation_layers=tuple(description["observation_layers"]),
        pair_layers=tuple(description["pair_layers"]),
    )


@functools.partial(jax.jit, static_argnums=0)
def _q(heads: Any, params: Params, standardizer: Standardizer, observation: Array, pair: Array) -> Array:
    o, p = jnp.asarray(observation), jnp.asarray(pair)
    return Heads(heads).q_value(params, standardizer.observation(o), standardizer.pair(p))


@functools.partial(jax.jit, static_argnums=0)
def _v(heads: Any, params: Params, standardizer: Standardizer, observation: Array) -> Array:
    return Heads(heads).v_value(params, standardizer.observation(jnp.asarray(observation)))
