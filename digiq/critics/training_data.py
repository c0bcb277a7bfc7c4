"""Training data of a critic as arrays: checked on the host, gathered on the device.

Features are stored once; a transition holds indices into them. Everything that the learner reads is one pytree,
:class:`CriticData`, which is an *argument* of the jitted epoch, never a constant inside it.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from digiq.critics.placement import replicate, split_rows
from digiq.errors import DigiQError

Array = jax.Array | np.ndarray
"""On the host while data is prepared or streamed, on the device during training."""

_CHUNK, _CHUNK_VALUES = 8192, 2**24  # rows and numbers processed at once, so that float64 copies stay small
_LARGEST = 1e18
"""Largest magnitude of a feature; its square still fits a float32."""
_CONSTANT = 1e-6
"""A column with a smaller standard deviation counts as constant."""
_LARGE_RETURN = 100.0


class Standardizer(NamedTuple):
    """Mean and inverse scale of each input dimension, over the training split."""

    observation_mean: Float[Array, "Do"]
    observation_inverse_scale: Float[Array, "Do"]
    pair_mean: Float[Array, "Dp"]
    pair_inverse_scale: Float[Array, "Dp"]

    def observation(self, x: Any) -> Float[Array, "*batch Do"]:
        """Standardised float32 observation features."""
        return (x.astype(np.float32) - self.observation_mean) * self.observation_inverse_scale

    def pair(self, x: Any) -> Float[Array, "*batch Dp"]:
        """Standardised float32 pair features."""
        return (x.astype(np.float32) - self.pair_mean) * self.pair_inverse_scale


class Table(NamedTuple):
    """One row per transition, episodes contiguous and in order."""

    obs: Int[Array, "T"]
    next_obs: Int[Array, "T"]
    """0 where ``discount`` is 0; that row is read, and multiplied by 0."""
    reward: Float[Array, "T"]
    discount: Float[Array, "T"]
    """γ times the environment's step discount; 0 where the value does not continue."""
    returns: Float[Array, "T"]
    """Discounted sum of rewards from this transition to the end of its episode."""
    end: Int[Array, "T"]
    """Row of the last transition of the same episode."""
    first: Bool[Array, "T"]
    """Whether the episode starts here."""


class CriticData(NamedTuple):
    """Everything that an epoch reads."""

    observation: Any
    """[S, Do] in the stored dtype (on the device see :func:`place`); float32 after the gather."""
    pair: Any
    """[M, Dp]."""
    candidate_row: Int[Array, "S N"]
    """Row of each candidate in ``pair``, -1 where there is no candidate; column 0 is the logged action."""
    table: Table
    standardizer: Standardizer
    train_rows: Int[Array, "Tt"]
    """Rows of ``table`` to train on."""
    heldout_rows: Int[Array, "Th"]
    """Rows of ``table`` of the held-out episodes."""
    known_q: Float[Array, "S N"] | None = None
    """True values of the candidates, NaN where unknown; None if not given."""
    known_v: Float[Array, "S"] | None = None
    """True values of the observations."""


class Needs(NamedTuple):
    """What an objective reads from a batch beyond the single transition."""

    candidates: bool = False
    """Every stored candidate of the observation."""
    steps: int = 1
    """Length of the window of consecutive transitions."""
    every_step: bool = False
    """The observation after each step of the window, not only after the last."""
    known: bool = False
    """The true values of the observation and its candidates."""


class Batch(NamedTuple):
    """B sampled transitions with their standardised features."""

    observation: Float[Array, "B Do"]
    pair: Float[Array, "B Dp"]
    """Features of the observation with the logged action."""
    reward: Float[Array, "B n"]
    """Rewards of this and the following transitions of the episode; 0 after its end."""
    discount: Float[Array, "B n"]
    """As in :class:`Table`; 1 after an episode's end, so that the bootstrap value is not discounted further."""
    next_observation: Float[Array, "B Do"]
    """The observation at the end of the window, or of the episode if that is sooner."""
    returns: Float[Array, "B"]
    first: Bool[Array, "B"]
    """Whether an episode starts here."""
    next_observations: Float[Array, "B n Do"] | None = None
    """The observation after each step of the window."""
    candidates: Float[Array, "B N Dp"] | None = None
    mask: Bool[Array, "B N"] | None = None
    """Which candidates exist."""
    known_q: Float[Array, "B N"] | None = None
    """As in :class:`CriticData`."""
    known_v: Float[Array, "B"] | None = None


def gather(data: CriticData, rows: Int[Array, "B"], needs: Needs) -> Batch:
    """Reads the transitions ``rows`` of ``data``; works on NumPy arrays and, under ``jit``, on JAX arrays."""
    t, std = data.table, data.standardizer
    xp = np if isinstance(rows, np.ndarray) else jnp
    steps = rows[:, None] + np.arange(needs.steps)
    inside = steps <= t.end[rows][:, None]
    window = xp.minimum(steps, t.end[rows][:, None])
    obs = t.obs[rows]
    batch = Batch(
        observation=std.observation(_rows(data.observation, obs)),
        pair=std.pair(_rows(data.pair, data.candidate_row[obs, 0])),
        reward=xp.where(inside, t.reward[window], np.float32(0)),
        discount=xp.where(inside, t.discount[window], np.float32(1)),
        next_observation=std.observation(_rows(data.observation, t.next_obs[window[:, -1]])),
        returns=t.returns[rows],
        first=t.first[rows],
    )
    if needs.every_step:
        batch = batch._replace(next_observations=std.observation(_rows(data.observation, t.next_obs[window])))
    if needs.known:
        assert data.known_q is not None and data.known_v is not None, (
            "prepare refuses data without true values"
        )
        batch = batch._replace(known_q=data.known_q[obs], known_v=data.known_v[obs])
    if needs.candidates:
        candidates = data.candidate_row[obs]
        batch = batch._replace(
            candidates=std.pair(_rows(data.pair, xp.maximum(candidates, 0))), mask=candidates >= 0
        )
    return batch


def place(data: CriticData, mesh: Mesh | None = None) -> CriticData:
    """Moves prepared arrays to the device, each of them once; with a mesh, the rows of features are split over it.

    bfloat16 features are moved as their bits, uint16. XLA cannot gather bfloat16 on CPUs and would hold a second copy
    of the whole table, widened to float32, throughout an epoch. :func:`gather` reads the bits as bfloat16 again.
    """

    def features(x: Any) -> Array:
        if isinstance(x, jax.Array):
            return x  # already on the device
        return split_rows(x.view(np.uint16) if x.dtype == jnp.bfloat16 else x, mesh)

    rest = replicate(data._replace(observation=None, pair=None), mesh)
    return rest._replace(observation=features(data.observation), pair=features(data.pair))


def read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """The features of ``rows``, on the host, wherever ``array`` is."""
    return np.asarray(_rows(array, rows))


def _rows(array: Any, rows: Any) -> Any:
    """``array[rows]``, with the bits of bfloat16 (see :func:`place`) read as bfloat16."""
    found = array[rows]
    if found.dtype != np.uint16:
        return found
    if isinstance(found, np.ndarray):
        return found.view(jnp.bfloat16)
    return jax.lax.bitcast_convert_type(found, jnp.bfloat16)


def prepare(
    transitions: Any,
    features: Any,
    *,
    gamma: float,
    timeout: Literal["terminal", "bootstrap"] = "terminal",
    observation_layers: Sequence[str] = (),
    pair_layers: Sequence[str] = (),
    standardize: bool = True,
    heldout_fraction: float = 0.0,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
) -> CriticData:
    """Checks plain arrays and joins them into :class:`CriticData` (NumPy; move it with ``jax.device_put``).

    Args:
      transitions: an object or mapping with ``obs``, ``next_obs`` (-1 where nothing follows), ``reward``,
        ``terminated``, ``truncated`` (one of them true on an episode's last row) and ``episode``, each [T]; optionally
        the environment's ``discount`` [T] in [0, 1].
      features: an object or mapping with ``observation`` [S, Do], ``pair`` [M, Dp] (either may be a mapping from
        layer to array) and ``candidate_row`` int[S, N]; optionally, for the objective ``exact``, the true values
        ``known_q`` [S, N] and ``known_v`` [S], NaN where unknown.
      gamma: discount per action, in [0, 1).
      timeout: whether a truncated episode ends with value 0 (``terminal``) or with the value of its last observation.
      observation_layers: layers to concatenate; if empty, all in their order.
      pair_layers: the same for pairs.
      standardize: subtract the mean and divide by the standard deviation of the training split.
      heldout_fraction: share of episodes kept out of training.
      groups: one label per episode number; episodes with the same label are held out together (otherwise copies of an
        episode under other goals would leak).
      seed: seed of the choice of held-out episodes.

    Raises:
      DigiQError: features that are not matrices of numbers; NaN or infinite features or rewards; indices out of range;
        an episode whose rows are scattered, whose next observation leaves it or whose last row has no flag; a discount
        outside its range; or no transition that ends an episode.
    """
    observation = _matrix(features, "observation", observation_layers)
    pair = _matrix(features, "pair", pair_layers)
    candidate_row = _indices(_field(features, "candidate_row"), "features: candidate_row")
    if candidate_row.ndim != 2 or len(candidate_row) != len(observation) or not candidate_row.shape[1]:
        raise DigiQError(
            f"features: candidate_row has shape {candidate_row.shape}, but needs one row for each of the "
            f"{len(observation)} observations and one column per candidate."
        )
    if candidate_row.size and not -1 <= candidate_row.min() <= candidate_row.max() < len(pair):
        raise DigiQError(f"features: candidate_row points outside the {len(pair)} pair rows.")
    _refuse_non_finite(observation, "features: observation")
    _refuse_non_finite(pair, "features: pair")
    table = _table(transitions, candidate_row, gamma, timeout)
    episode = np.asarray(_field(transitions, "episode"))
    heldout = _heldout_episodes(episode, groups, heldout_fraction, seed)
    is_heldout = np.isin(episode, heldout)
    train_rows = np.flatnonzero(~is_heldout).astype(np.int32)
    trained = candidate_row[np.unique(table.obs[train_rows])]
    if standardize:
        statistics = (
            *_statistics(observation, np.unique(table.obs[train_rows])),
            *_statistics(pair, np.unique(trained[trained >= 0])),
        )
    else:
        zero_one = [
            (np.zeros(d, np.float32), np.ones(d, np.float32)) for d in (observation.shape[1], pair.shape[1])
        ]
        statistics = (*zero_one[0], *zero_one[1])
    return CriticData(
        observation=observation,
        pair=pair,
        candidate_row=candidate_row,
        table=table,
        standardizer=Standardizer(*statistics),
        train_rows=train_rows,
        heldout_rows=np.flatnonzero(is_heldout).astype(np.int32),
        known_q=_known(features, "known_q", candidate_row.shape),
        known_v=_known(features, "known_v", candidate_row.shape[:1]),
    )


def concatenate_layers(arrays: Any, layers: Sequence[str] = ()) -> Any:
    """Joins a mapping from layer to [rows, D] along the last axis; anything with a shape passes through unchanged.

    Raises:
      DigiQError: the mapping lacks a layer.
    """
    if not isinstance(arrays, Mapping):
        return arrays if hasattr(arrays, "shape") else np.asarray(arrays)
    chosen = [np.asarray(layer) for layer in choose_layers(arrays, layers)]
    return chosen[0] if len(chosen) == 1 else np.concatenate(chosen, axis=-1)


def _matrix(features: Any, name: str, layers: Sequence[str]) -> Any:
    """:func:`concatenate_layers` of a field, checked to be [rows, D] of numbers.

    Integers become float32, because uint16 would be taken for the bits of bfloat16 (see :func:`place`).
    """
    try:
        array = concatenate_layers(_field(features, name), layers)
    except ValueError as error:  # raised by NumPy for ragged lists or layers that do not fit together
        raise DigiQError(f"features: {name} is not an array of rows of equal length ({error}).") from None
    if len(array.shape) != 2 or not array.shape[1]:
        raise DigiQError(
            f"features: {name} has shape {tuple(array.shape)}, but needs two axes: one row per entry, and at least one "
            "column."
        )
    if isinstance(array, np.ndarray) and array.dtype.kind in "biu":
        return array.astype(np.float32)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DigiQError(
            f"features: {name} has dtype {array.dtype}, but needs real numbers; convert it to float32."
        )
    return array


def choose_layers(arrays: Mapping[str, Any], layers: Sequence[str] = ()) -> list[Any]:
    """The named arrays, or all of them.

    Raises:
      DigiQError: the mapping lacks a layer.
    """
    missing = [name for name in layers if name not in arrays]
    if missing:
        raise DigiQError(f"features: no layer '{missing[0]}'; stored layers: {', '.join(arrays)}.")
    return [arrays[name] for name in (layers or arrays)]


def layer_names(features: Any, kind: str, layers: Sequence[str] = ()) -> tuple[str, ...]:
    """The layers of ``kind`` features that :func:`prepare` concatenates; empty for a plain array."""
    arrays = _field(features, kind)
    return tuple(layers or arrays) if isinstance(arrays, Mapping) else ()


def discounted_returns(
    reward: Float[np.ndarray, "T"], discount: Float[np.ndarray, "T"], end: Int[np.ndarray, "T"]
) -> Float[np.ndarray, "T"]:
    """``G_t = r_t + discount_t G_{t+1}`` within each episode, 0 after its last transition."""
    total = np.zeros(len(reward), np.float64)
    for t in range(len(reward) - 1, -1, -1):
        total[t] = reward[t] + (discount[t] * total[t + 1] if end[t] != t else 0.0)
    return total.astype(np.float32)


def _table(transitions: Any, candidate_row: np.ndarray, gamma: float, timeout: str) -> Table:
    if not 0 <= gamma < 1:
        raise DigiQError(f"gamma = {gamma} must lie in [0, 1).")
    obs = _indices(_field(transitions, "obs"), "transitions: obs")
    next_obs = _indices(_field(transitions, "next_obs"), "transitions: next_obs")
    reward = np.asarray(_field(transitions, "reward"), np.float32)
    terminated = _flags(_field(transitions, "terminated"), "transitions: terminated")
    truncated = _flags(_field(transitions, "truncated"), "transitions: truncated")
    episode = np.asarray(_field(transitions, "episode"))
    step_discount = _field(transitions, "discount", None)
    step_discount = (
        np.ones(len(obs), np.float32) if step_discount is None else np.asarray(step_discount, np.float32)
    )
    columns = (obs, next_obs, reward, terminated, truncated, episode, step_discount)
    if len({c.shape for c in columns}) != 1 or obs.ndim != 1:
        raise DigiQError(f"transitions: columns differ in shape: {', '.join(str(c.shape) for c in columns)}.")
    if not len(obs):
        raise DigiQError("transitions: there are none; collect and label episodes first.")
    _refuse_non_finite(reward[:, None], "transitions: reward")
    bad = np.flatnonzero(~((step_discount >= 0) & (step_discount <= 1)))
    if len(bad):
        raise DigiQError(f"transitions: discount {step_discount[bad[0]]} at row {bad[0]} must lie in [0, 1].")
    if obs.min() < 0 or max(obs.max(), next_obs.max()) >= len(candidate_row):
        raise DigiQError(
            f"transitions: obs or next_obs lies outside the {len(candidate_row)} observations of the features; "
            "use features made from the same episodes, and next_obs -1 where nothing follows."
        )
    unlogged = np.flatnonzero(candidate_row[obs, 0] < 0)
    if len(unlogged):
        raise DigiQError(
            f"features: transition {unlogged[0]} has no logged action in candidate_row column 0 "
            "(-1); featurize the logged actions."
        )
    last = np.append(episode[1:] != episode[:-1], True)
    if last.sum() != len(np.unique(episode)):
        raise DigiQError(
            "transitions: rows of one episode must be contiguous and in order; sort them by episode and step."
        )
    early = np.flatnonzero(~last & (terminated | truncated))
    if len(early):
        row = early[0]
        raise DigiQError(
            f"transitions: row {row} ends episode {episode[row]}, but row {row + 1} belongs to it too; give rows after "
            "an end another episode number."
        )
    leaves = np.flatnonzero(~last[:-1] & (next_obs[:-1] != obs[1:]))
    if len(leaves):
        row = leaves[0]
        raise DigiQError(
            f"transitions: next_obs of row {row} is {next_obs[row]}, which leaves episode {episode[row]} "
            f"(its next row observes {obs[row + 1]})."
        )
    ends = terminated | truncated if timeout == "terminal" else terminated
    if not (ends | (step_discount == 0)).any():
        raise DigiQError(
            "transitions: there is no terminal state, so values are not anchored to any outcome; check the labels, "
            "or use timeout: terminal."
        )
    unsaid = np.flatnonzero(last & ~terminated & ~truncated)
    if len(unsaid):
        row = unsaid[0]
        raise DigiQError(
            f"transitions: row {row} is the last of episode {episode[row]}, but neither terminated nor truncated; mark "
            "an episode that was cut off, or that is still being recorded, as truncated."
        )
    foreign = np.flatnonzero(last & (next_obs >= 0) & _observes_another(obs, next_obs, episode, ends))
    if len(foreign):
        row = foreign[0]
        mend = (
            "set it to -1, as nothing follows"
            if ends[row]
            else "give the observation after the last action its own row in the features"
        )
        raise DigiQError(
            f"transitions: next_obs of row {row} is {next_obs[row]}, which leaves episode {episode[row]}; {mend}."
        )
    lost = np.flatnonzero(~ends & (next_obs < 0))
    if len(lost):
        raise DigiQError(
            f"transitions: row {lost[0]} is not terminal, but its next_obs is {next_obs[lost[0]]}."
        )
    if not reward.any():
        warnings.warn("transitions: every reward is 0, so there is nothing to learn.", stacklevel=3)
    discount = np.where(ends, 0.0, gamma * step_discount).astype(np.float32)
    last_rows = np.flatnonzero(last)
    end = last_rows[np.searchsorted(last_rows, np.arange(len(obs)))].astype(np.int32)
    returns = discounted_returns(reward, gamma * step_discount, end)
    if np.abs(returns).max() > _LARGE_RETURN:
        warnings.warn(
            f"transitions: returns reach {np.abs(returns).max():.3g}, but values start at 0 and move in steps of the "
            "learning rate; scale rewards so that returns are about 1.",
            stacklevel=3,
        )
    return Table(
        obs=obs,
        next_obs=np.where(ends, 0, next_obs).astype(np.int32),
        reward=reward,
        discount=discount,
        returns=returns,
        end=end,
        first=np.append(True, last[:-1]),
    )


def _observes_another(
    obs: np.ndarray, next_obs: np.ndarray, episode: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """bool[T]: where ``next_obs`` is observed by exactly one episode, and that is another one.

    Episodes of tabular data share observations, so an observation of several episodes may belong to this one too. Where
    no value follows (``ends``), nothing is read at ``next_obs``, and episodes that share any observation may point
    anywhere.
    """
    number = np.unique(episode, return_inverse=True)[1]
    size = 1 + int(max(obs.max(), next_obs.max()))
    visitor, visited = np.divmod(np.unique(number * size + obs), size)
    visitors = np.bincount(visited, minlength=size)
    owner = np.full(size, -1)
    owner[visited] = visitor
    shares = np.bincount(number, visitors[obs] > 1) > 0
    others = (visitors[next_obs] == 1) & (owner[next_obs] != number)
    return others & ~(ends & shares[number])


def _heldout_episodes(
    episode: np.ndarray, groups: Sequence[Any] | None, fraction: float, seed: int
) -> np.ndarray:
    numbers = np.unique(episode)
    labels = np.array([str(groups[int(e)]) if groups is not None else str(e) for e in numbers])
    names = np.unique(labels)
    count = min(round(fraction * len(names)), len(names) - 1)
    chosen = np.random.default_rng(seed).permutation(names)[:count]
    return numbers[np.isin(labels, chosen)]


def _statistics(array: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse standard deviation of the chosen rows; a constant column keeps its scale."""
    total = np.zeros(array.shape[1], np.float64)
    for part in _chunks(array, rows):
        total += array[part].astype(np.float64).sum(0)
    mean = total / len(rows)
    squares = np.zeros_like(mean)
    for part in _chunks(array, rows):
        difference = array[part].astype(np.float64)
        difference -= mean
        squares += np.square(difference, out=difference).sum(0)
    deviation = np.sqrt(squares / len(rows))
    if deviation.max() < _CONSTANT and deviation.any():
        warnings.warn(
            f"features: no column varies by more than {deviation.max():.3g} over the training split, so all count as "
            "constant and tell the critic nothing; scale them up.",
            stacklevel=3,
        )
    inverse = 1.0 / np.where(deviation < _CONSTANT, 1.0, deviation)
    return mean.astype(np.float32), inverse.astype(np.float32)


def _refuse_non_finite(array: Any, name: str) -> None:
    for part in _chunks(array, np.arange(len(array))):
        with np.errstate(over="ignore"):
            values = array[part].astype(np.float32)
        bad = part[~np.isfinite(values).all(axis=1)]
        if len(bad):
            shown = ", ".join(map(str, np.sort(bad)[:5]))
            raise DigiQError(f"{name} holds NaN or Inf in rows {shown}; extract or label these again.")
        large = part[(np.abs(values) > _LARGEST).any(axis=1)]
        if len(large):
            raise DigiQError(
                f"{name} holds a value of {np.abs(values).max():.3g} in row {np.sort(large)[0]}, whose square "
                "overflows float32; scale it down."
            )


def _known(features: Any, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The true values as float32, checked; None if there are none."""
    given = _field(features, name, None)
    if given is None:
        return None
    values = np.asarray(given, np.float32)
    if values.shape != shape:
        raise DigiQError(
            f"features: {name} has shape {values.shape}, but candidate_row asks for {shape}; give values of the same "
            "candidates."
        )
    if np.isinf(values).any():
        raise DigiQError(f"features: {name} holds Inf; use NaN for a value that is not known.")
    return values


def _indices(given: Any, name: str) -> np.ndarray:
    """Row numbers as int32; they must be whole numbers that fit."""
    array = np.asarray(given)
    if array.dtype.kind not in "iu":
        raise DigiQError(
            f"{name} has dtype {array.dtype}, but row numbers are whole numbers; convert it to int32."
        )
    if array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
        raise DigiQError(f"{name} holds {int(array.max())}, which is not a row number: those are below 2^31.")
    return array.astype(np.int32)


def _flags(given: Any, name: str) -> np.ndarray:
    """Flags as bool; they may be given as true and false or as the numbers 1 and 0."""
    array = np.asarray(given)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise DigiQError(f"{name} holds values other than true and false ({array.dtype}).")
    return array.astype(bool)


def _chunks(array: Any, rows: np.ndarray) -> Iterator[np.ndarray]:
    """``rows`` in parts, in the order in which an array on disk holds them (its ``order``), if it has one."""
    order = getattr(array, "order", None)
    if order is not None:
        rows = order[np.isin(order, rows, assume_unique=True)]
    size = min(_CHUNK, max(1, _CHUNK_VALUES // max(1, array.shape[1])))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _field(source: Any, name: str, *default: Any) -> Any:
    """A column of a mapping or an attribute of an object."""
    if isinstance(source, Mapping):
        if name not in source and not default:
            raise DigiQError(f"missing array '{name}'; given: {', '.join(source)}.")
        return source.get(name, *default)
    if not hasattr(source, name) and not default:
        raise DigiQError(f"missing array '{name}' on {type(source).__name__}.")
    return getattr(source, name, *default)
