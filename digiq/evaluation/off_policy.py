"""Off-policy estimates of a policy's value from the logs of another: FQE, WIS and doubly robust, on plain arrays.

The T logged actions of E episodes are rows, with episodes contiguous and in order. ``discount`` is γ times the
environment's own discount, which is 0 where the episode ends. All estimates are of the mean discounted return from the
first observation on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from digiq.errors import DigiQError
from digiq.statistics import Estimate, cluster_bootstrap

Numbers = npt.NDArray[np.floating]
_ITERATIONS, _TOLERANCE, _RESAMPLES, _AWAY = 2000, 1e-10, 2000, 1e30


class Weights(NamedTuple):
    """Importance weights of padded episodes; after its end, an episode keeps its last weights."""

    weight: Numbers
    """[E, L], product of the ratios up to and including the step."""
    before: Numbers
    """[E, L], product of the ratios up to the previous step; 1 at the first step."""
    scale: Numbers
    """[E, L], product of the discounts before the step; 0 after the end."""
    row: npt.NDArray[np.int64]
    """[E, L], row of the step; -1 after the end."""


def ratios(policy: Numbers, behavior: Numbers) -> Numbers:
    """π(a|s) / b(a|s) of the logged actions, float64[T].

    Args:
      policy: log-probabilities of the logged actions under the policy, float[T].
      behavior: log-probabilities under the behaviour policy, from the log.

      Raises:
        DigiQError: the log does not hold them, or gives a logged action probability 0.
    """
    policy, behavior = np.asarray(policy, np.float64), np.asarray(behavior, np.float64)
    unknown = int((~np.isfinite(behavior)).sum())
    if unknown:
        raise DigiQError(
            f"importance weights: the log has no log-probability of {unknown} of {len(behavior)} logged actions; log it with "
            "the actions (jsonl: 'log_prob'), or use estimate 'fqe' alone, which needs none."
        )
    return np.exp(policy - behavior)


def fitted_q(
    features: Numbers, following: Numbers, reward: Numbers, discount: Numbers, *, ridge: float = 1e-3
) -> Numbers:
    """Fitted Q evaluation with a linear Q: the weights, float64[D], that map features of a pair to its Q.

    Ridge regressions on ``r + discount · Q(s', π)``, repeated until Q converges (Le, Voloshin & Yue 2019).

    Args:
      features: [T, D] of the logged observation and action.
      following: [T, D], features at the next observation, averaged over the policy's actions; ignored where
        ``discount`` is 0.
      reward, discount: [T].
      ridge: penalty per row.

      Raises:
        DigiQError: Q does not converge.
    """
    x, y = np.asarray(features, np.float64), np.asarray(following, np.float64)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += ridge * len(x)
    solved = cho_solve(
        cho_factor(gram),
        x.T @ np.column_stack([reward, np.asarray(discount)[:, None] * y]),
        check_finite=True,
    )
    start, step = solved[:, 0], solved[:, 1:]
    found = start
    for _ in range(_ITERATIONS):
        new = start + step @ found
        change, size = np.abs(new - found).max(), np.abs(new).max()
        if not size < _AWAY:
            break
        found = new
        if change <= _TOLERANCE * max(1.0, size):
            return found
    raise DigiQError(
        f"fqe: Q has not converged after {_ITERATIONS} regressions; raise ridge, or evaluate a policy closer to the log."
    )


def weights(episode: npt.NDArray[np.integer], discount: Numbers, ratio: Numbers) -> Weights:
    """The weights of every episode, padded to the length of the longest.

    Args:
      episode: int[T].
      discount, ratio: [T].
    """
    starts = np.flatnonzero(np.r_[True, np.diff(episode) != 0])
    lengths = np.diff(np.r_[starts, len(episode)])
    at = np.arange(lengths.max())
    row = np.where(at < lengths[:, None], starts[:, None] + at, -1)
    ended = row < 0
    weight: Numbers = np.cumprod(
        np.where(ended, 1.0, np.asarray(ratio, np.float64)[row]), axis=1, dtype=np.float64
    )
    before: Numbers = np.column_stack([np.ones(len(row)), weight[:, :-1]])
    passed = np.cumprod(np.where(ended, 0.0, discount[row]), axis=1)
    scale = np.where(ended, 0.0, np.column_stack([np.ones(len(row)), passed[:, :-1]]))
    return Weights(weight, before, scale, row)


def effective_episodes(w: Weights) -> float:
    """(Σw)² / Σw² of the episodes' final weights: this many episodes of the policy itself would be as informative."""
    last = w.weight[:, -1]
    return float(last.sum() ** 2 / max(np.square(last).sum(), np.finfo(float).tiny))


def cross_fitted(
    episode: npt.NDArray[np.integer],
    features: Numbers,
    following: Numbers,
    here: Numbers,
    reward: Numbers,
    discount: Numbers,
    *,
    ridge: float = 1e-3,
    seed: int = 0,
) -> tuple[Numbers, Numbers]:
    """Q of the logged actions [T] and V of their observations [T]: for each half of the episodes, :func:`fitted_q` is
    fitted on the other half.

    A model fitted on the same episodes that correct it would hide its error from the doubly robust interval.

    Args:
      episode: int[T]; at least two episodes.
      features, following, reward, discount, ridge: as for :func:`fitted_q`.
      here: [T, D], like ``following``, but at the observation itself.
      seed: seed of the split into halves.
    """
    names, code = np.unique(episode, return_inverse=True)
    if len(names) < 2:
        raise DigiQError("dr: needs at least two episodes, as Q for one half is fitted on the other.")
    half = np.random.default_rng(seed).permutation(len(names))[code] % 2 == 0
    q, v = np.zeros(len(episode)), np.zeros(len(episode))
    for fitted in (half, ~half):
        w = fitted_q(features[fitted], following[fitted], reward[fitted], discount[fitted], ridge=ridge)
        q[~fitted], v[~fitted] = features[~fitted] @ w, here[~fitted] @ w
    return q, v


def weighted_importance(w: Weights, reward: Numbers) -> Estimate:
    """Per-step weighted importance sampling (Precup, Sutton & Singh 2000), 95 % by bootstrap over episodes."""
    paid = w.scale * np.where(w.row < 0, 0.0, np.asarray(reward, np.float64)[w.row])
    return _resampled([(w.weight, paid)])


def doubly_robust(w: Weights, reward: Numbers, q: Numbers, v: Numbers) -> Estimate:
    """Weighted doubly robust (Thomas & Brunskill 2016): a model's value, corrected by its weighted errors.

    Args:
      w: the result of :func:`weights`.
      reward: [T].
      q, v: [T], a model's Q of the logged actions and its value of the observations under the policy
        (:func:`cross_fitted`).

    Returns:
      The estimate, with a 95 % interval by bootstrap over episodes.
    """
    ended = w.row < 0
    error = w.scale * np.where(ended, 0.0, (np.asarray(reward, np.float64) - q)[w.row])
    model = w.scale * np.where(ended, 0.0, np.asarray(v, np.float64)[w.row])
    return _resampled([(w.weight, error), (w.before, model)])


def model_value(episode: npt.NDArray[np.integer], v: Numbers) -> Estimate:
    """Mean value of the first observations; the interval is over episodes, and ignores the error of the fit itself."""
    first = np.r_[True, np.diff(episode) != 0]
    return cluster_bootstrap(np.asarray(v, np.float64)[first], np.arange(int(first.sum())).tolist())


def _resampled(terms: Sequence[tuple[Numbers, Numbers]]) -> Estimate:
    """Sum over terms and steps of the weighted mean over episodes, with an interval from resampling episodes.

    Args:
      terms: (weights, values), both [E, L].
    """
    episodes = len(terms[0][0])
    drawn = np.random.default_rng(0).multinomial(episodes, np.full(episodes, 1 / episodes), _RESAMPLES)
    counts = np.vstack([np.ones(episodes), drawn])
    total = np.zeros(len(counts))
    for weight, value in terms:
        mass = counts @ weight
        total += (counts @ (weight * value) / np.where(mass > 0, mass, 1.0)).sum(axis=1)
    low, high = np.quantile(total[1:], (0.025, 0.975))
    return Estimate(float(total[0]), float(low), float(high))
