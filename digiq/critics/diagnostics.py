"""What can be known of a critic from its data alone: calibration, ranking, gaps, novelty, verdict, policy value.

Everything here is NumPy on arrays that :func:`diagnose` collects once; simulator truth is an optional argument that
nothing else reads (``select`` never passes it).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from digiq.critics.arrays import CriticData
from digiq.critics.critic import Critic, candidate_values

_CHUNK = 2048
_BLOCKS = 200  # episodes are pooled into at most this many resampling units, which bounds memory


class Interval(NamedTuple):
    """A point estimate with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Predicted values against the returns that followed, in bins of equal count."""

    predicted: list[float]
    """Mean prediction of each bin."""
    observed: list[float]
    """Mean return of each bin."""
    count: list[int]
    ece: float
    """Expected calibration error: the bins' mean |predicted - observed|, weighted by count."""
    bias: float
    """Mean prediction minus mean return."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How well values order the candidates of one state, averaged over states."""

    accuracy: float
    """Share of candidate pairs with different truth that are ordered rightly; ties count half. Chance is 0.5."""
    rank_at_1: float
    """Share of states whose best candidate by value is a best one by truth; ties share."""
    states: int
    """States that have something to order."""


@dataclasses.dataclass(frozen=True)
class LoggedRanking:
    """Rank of the logged action among its candidates where it led to success; mid-ranks for ties."""

    mean_rank: float
    """From 1 (best) to N."""
    rank_at_1: float
    random_rank: float
    """Mean rank of a random scorer on the same states."""
    random_at_1: float
    states: int


@dataclasses.dataclass(frozen=True)
class Gaps:
    """Advantage of the best candidate over the baseline."""

    quantiles: list[float]
    """At 0, 10, ..., 100 %."""
    threshold: float
    share: float
    """Of states strictly above the threshold."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Over- or underfitting, with the advice of Kumar et al. 2021 in words."""

    kind: Literal["overfitting", "underfitting", "sound", "unknown"]
    reason: str
    advice: str


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """Everything :func:`diagnose` reports; JSON-able by ``dataclasses.asdict``."""

    calibration: Calibration
    success_auc: float
    """Chance that a logged action of a successful episode has a higher Q than one of a failed episode."""
    logged_ranking: LoggedRanking
    gaps: Gaps
    disagreement: float
    """Deviation of the members' Q, mean over candidates, as a share of the deviation of Q over candidates."""
    novelty: float
    """Mean quantile of the chosen candidates' distance from the logged actions (0.5: as usual as those)."""
    initial_value: float
    """Mean over first states of the best candidate's Q: what the critic promises."""
    policy_value: Interval
    """Fitted Q evaluation of Best-of-N with this critic, over first states."""
    behavior_value: Interval
    """The same estimator for the logged actions: the yardstick of ``policy_value``."""
    verdict: Verdict
    truth: Ranking | None = None
    """Against ground truth, where it was given."""


def diagnose(
    critic: Critic,
    data: CriticData,
    *,
    rows: Any = None,
    threshold: float = 0.1,
    history: Sequence[dict[str, float]] = (),
    truth: Float[np.ndarray, "S N"] | None = None,
    seed: int = 0,
) -> Diagnostics:
    """All diagnostics of one checkpoint.

    Args:
      critic: of the data's features.
      data: as :func:`digiq.critics.arrays.prepare` gives it, on the host.
      rows: transitions to judge on; the held-out ones by default (all of them when there are none).
      threshold: of the extraction gate.
      history: the run's metrics, for the verdict.
      truth: true value of every candidate (NaN: unknown), from a simulator.
      seed: of the bootstrap.
    """
    features = {"observation": data.observation, "pair": data.pair, "candidate_row": data.candidate_row}
    flat = dataclasses.replace(critic, observation_layers=(), pair_layers=())
    q, baseline = candidate_values(flat, features)
    if rows is None:
        rows = data.heldout_rows if len(data.heldout_rows) else np.arange(len(data.table.obs))
    obs, returns = np.asarray(data.table.obs[rows]), np.asarray(data.table.returns[rows])
    success = returns > 0
    logged = q[obs, 0]
    chosen = np.nanargmax(np.where(np.isnan(q), -np.inf, q), axis=1)
    fqe = LinearFQE(data, seed=seed)
    with np.errstate(invalid="ignore"):
        spread = float(np.nanstd(q[obs]))
    members = _members(flat, data, obs)
    gap = np.nanmax(q[obs], axis=1) - baseline[obs]
    first = obs[data.table.first[rows]]
    return Diagnostics(
        calibration=calibration(logged, returns),
        success_auc=auc(logged, success),
        logged_ranking=logged_ranking(q[obs][success]),
        gaps=gaps(gap, threshold),
        disagreement=float(np.nanmean(members)) / max(spread, 1e-9),
        novelty=float(np.mean(novelty(data)[obs, chosen[obs]])),
        initial_value=float(np.nanmean(np.nanmax(q[first], axis=1))) if len(first) else math.nan,
        policy_value=fqe.value(chosen),
        behavior_value=fqe.value(np.zeros(len(q), np.int64)),
        verdict=verdict(history),
        truth=None if truth is None else ranking(q[obs], truth[obs]),
    )


def calibration(
    predicted: Float[np.ndarray, "n"], observed: Float[np.ndarray, "n"], bins: int = 10
) -> Calibration:
    """Bins by predicted value; see :class:`Calibration`."""
    parts = [p for p in np.array_split(np.argsort(predicted, kind="stable"), bins) if len(p)]
    mean_predicted = np.array([predicted[p].mean() for p in parts])
    mean_observed = np.array([observed[p].mean() for p in parts])
    count = np.array([len(p) for p in parts])
    return Calibration(
        predicted=mean_predicted.tolist(),
        observed=mean_observed.tolist(),
        count=count.tolist(),
        ece=float(np.average(np.abs(mean_predicted - mean_observed), weights=count)),
        bias=float(predicted.mean() - observed.mean()),
    )


def ranking(q: Float[np.ndarray, "S N"], truth: Float[np.ndarray, "S N"], tolerance: float = 1e-6) -> Ranking:
    """Orders against a known truth; candidates that are NaN in either are left out."""
    accuracies, firsts = [], []
    for values, true in zip(q, truth, strict=True):
        both = ~np.isnan(values) & ~np.isnan(true)
        values, true = values[both], true[both]
        if len(true) < 2 or np.ptp(true) <= tolerance:
            continue
        better = true[:, None] > true[None, :] + tolerance
        right = np.where(
            values[:, None] > values[None, :], 1.0, np.where(values[:, None] == values[None, :], 0.5, 0)
        )
        accuracies.append(right[better].mean())
        top = values == values.max()
        firsts.append((true[top] >= true.max() - tolerance).mean())
    if not accuracies:
        return Ranking(math.nan, math.nan, 0)
    return Ranking(float(np.mean(accuracies)), float(np.mean(firsts)), len(accuracies))


def logged_ranking(q: Float[np.ndarray, "S N"]) -> LoggedRanking:
    """Rank of column 0 among the candidates of each row; NaN is no candidate."""
    ranks, firsts, counts = [], [], []
    for values in q:
        values = values[~np.isnan(values)]
        if len(values) < 2:
            continue
        rank = rankdata(-values)[0]
        ranks.append(rank)
        top = values == values.max()
        firsts.append(top[0] / top.sum())
        counts.append(len(values))
    if not ranks:
        return LoggedRanking(math.nan, math.nan, math.nan, math.nan, 0)
    n = np.array(counts)
    return LoggedRanking(
        float(np.mean(ranks)),
        float(np.mean(firsts)),
        float(np.mean((n + 1) / 2)),
        float(np.mean(1 / n)),
        len(n),
    )


def auc(score: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> float:
    """Area under the ROC curve, ties half; NaN with one class only."""
    count = int(positive.sum())
    other = len(positive) - count
    if not count or not other:
        return math.nan
    ranks = rankdata(score)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * other))


def gaps(gap: Float[np.ndarray, "S"], threshold: float) -> Gaps:
    """Quantiles of the advantage and the share above the threshold."""
    return Gaps(
        quantiles=np.quantile(gap, np.linspace(0, 1, 11)).tolist(),
        threshold=threshold,
        share=float(np.mean(gap > threshold)),
    )


def verdict(history: Sequence[dict[str, float]]) -> Verdict:
    """Reads learning curves as Kumar et al. 2021 ("A Workflow for Offline Model-Free Robotic RL") do.

    Overfitting: the held-out error has risen clearly from its least, or Q of the data has fallen from a peak.
    Underfitting: the training error is still a large part of the spread of the values, or still falling fast.
    """
    train = np.array([row["td_error"] for row in history if "td_error" in row])
    if len(train) < 4:
        return Verdict("unknown", "fewer than four epochs were logged", "train for longer, then look again")
    heldout = np.array([row["heldout_return_error"] for row in history if "heldout_return_error" in row])
    q = np.array([row["q_mean"] for row in history])
    if len(heldout) == len(train):
        curve = _smooth(heldout)
        if curve[-1] > 1.1 * curve.min() and np.argmin(curve) < 0.8 * len(curve):
            return Verdict(
                "overfitting",
                f"the held-out error rose from {curve.min():.3g} to {curve[-1]:.3g} after epoch "
                f"{int(np.argmin(curve)) + 1}",
                "take an earlier checkpoint (choose: heldout); then try smaller heads, dropout or more weight decay",
            )
    peak = _smooth(q)
    rise = peak.max() - peak[0]
    if rise > 0 and peak.max() - peak[-1] > 0.3 * rise + 0.02 and np.argmax(peak) < 0.8 * len(peak):
        return Verdict(
            "overfitting",
            f"Q of the data fell from {peak.max():.3g} to {peak[-1]:.3g} after its peak",
            "take the checkpoint at the peak; then try smaller heads, dropout or a smaller penalty",
        )
    curve = _smooth(train)
    falling = curve[-1] < 0.9 * curve[-max(2, len(curve) // 4)]
    if falling:
        return Verdict(
            "underfitting",
            f"the training error is still falling ({curve[-1]:.3g})",
            "train for more epochs, or with a higher learning rate",
        )
    if len(heldout) and train[-1] > 0.9 * heldout[-1] and train[-1] > 0.5 * train[0]:
        return Verdict(
            "underfitting",
            f"the training error stays at {train[-1]:.3g}, as high as on held-out episodes",
            "larger heads, more layers of features, less regularisation",
        )
    return Verdict("sound", "training and held-out curves are flat", "nothing to mend here")


def novelty(data: CriticData, components: int = 64) -> Float[np.ndarray, "S N"]:
    """How unusual each candidate is: quantile of its distance among those of the logged actions, in [0, 1].

    The distance is Mahalanobis' in the leading principal components of the pairs' standardised features, fitted to
    the logged actions of the training split.
    """
    logged = np.unique(data.candidate_row[data.table.obs[data.train_rows], 0])
    x = data.standardizer.pair(data.pair[logged])
    basis, scale, centre = _principal(x, components)
    distances = np.concatenate(
        [
            np.square(
                (data.standardizer.pair(data.pair[start : start + _CHUNK]) - centre) @ basis / scale
            ).sum(1)
            for start in range(0, len(data.pair), _CHUNK)
        ]
    )
    reference = np.sort(distances[logged])
    quantile = np.searchsorted(reference, distances) / len(reference)
    return np.where(data.candidate_row >= 0, quantile[np.maximum(data.candidate_row, 0)], np.nan)


class LinearFQE:
    """Fitted Q evaluation with a linear Q, solved exactly (LSTD-Q, Lagoudakis & Parr 2003), any policy over candidates.

    ``w = (Σ φ (φ - γ (1 - terminal) φ'_π)ᵀ + λ)⁻¹ Σ φ r`` on the principal components of the standardised features of
    observation and pair. No network, no learning rate, and an interval by resampling episodes.
    """

    def __init__(self, data: CriticData, *, components: int = 96, ridge: float = 1e-2, seed: int = 0):
        self._data, self._ridge, self._seed = data, ridge, seed
        logged = data.candidate_row[data.table.obs, 0]
        sample = np.random.default_rng(seed).permutation(len(logged))[:4096]
        joint = self._joint(data.table.obs[sample], logged[sample])
        self._basis, self._scale, self._centre = _principal(joint, components)
        self._phi = self._features(data.table.obs, logged)

    def value(self, choice: Int[np.ndarray, "S"], resamples: int = 200) -> Interval:
        """Mean value of first states when ``choice[s]`` (a column of ``candidate_row``) is taken in every state."""
        data, t = self._data, self._data.table
        row = data.candidate_row[np.arange(len(choice)), choice]
        row = np.where(row >= 0, row, np.max(data.candidate_row, axis=1))
        following = self._features(t.next_obs, np.maximum(row[t.next_obs], 0)) * t.discount[:, None]
        start = t.obs[t.first]
        initial = self._features(start, row[start])
        episode = np.cumsum(t.first) - 1
        blocks = episode * min(_BLOCKS, episode[-1] + 1) // (episode[-1] + 1)
        edges = np.flatnonzero(np.diff(blocks, prepend=-1))
        stops = np.append(edges[1:], len(blocks))
        difference = self._phi - following
        a = np.stack([self._phi[i:j].T @ difference[i:j] for i, j in zip(edges, stops, strict=True)])
        b = np.stack([self._phi[i:j].T @ t.reward[i:j] for i, j in zip(edges, stops, strict=True)])
        c = np.stack(
            [initial[episode[i] : episode[j - 1] + 1].sum(0) for i, j in zip(edges, stops, strict=True)]
        )
        n = np.array([episode[j - 1] + 1 - episode[i] for i, j in zip(edges, stops, strict=True)], np.float64)

        def solve(weights: np.ndarray) -> float:
            size = a.shape[-1]
            matrix = (weights @ a.reshape(len(a), -1)).reshape(size, size)
            matrix += self._ridge * len(t.obs) * np.eye(size) / size
            return float((weights @ c) @ np.linalg.solve(matrix, weights @ b) / (weights @ n))

        rng = np.random.default_rng(self._seed)
        draws = [
            solve(rng.multinomial(len(a), np.full(len(a), 1 / len(a))).astype(float))
            for _ in range(resamples)
        ]
        low, high = np.quantile(draws, [0.025, 0.975])
        return Interval(solve(np.ones(len(a))), float(low), float(high))

    def _joint(self, obs: Any, pair_row: Any) -> np.ndarray:
        d = self._data
        return np.concatenate(
            [d.standardizer.observation(d.observation[obs]), d.standardizer.pair(d.pair[pair_row])], axis=1
        )

    def _features(self, obs: Any, pair_row: Any) -> np.ndarray:
        """Whitened principal components and a constant, float64[n, K + 1]."""
        parts = [
            (self._joint(obs[i : i + _CHUNK], pair_row[i : i + _CHUNK]) - self._centre)
            @ self._basis
            / self._scale
            for i in range(0, len(obs), _CHUNK)
        ]
        x = np.concatenate(parts).astype(np.float64)
        return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _smooth(x: np.ndarray) -> np.ndarray:
    return np.convolve(x, np.ones(3) / 3, "valid") if len(x) >= 6 else x


def _members(critic: Critic, data: CriticData, obs: Any) -> np.ndarray:
    """Deviation of the members' Q of every candidate of ``obs``, NaN where there is none."""
    out = np.full((len(obs), data.candidate_row.shape[1]), np.nan)
    for i in range(0, len(obs), 512):
        here = obs[i : i + 512]
        rows = data.candidate_row[here]
        values = critic.q(data.observation[here][:, None], data.pair[np.maximum(rows, 0)])
        out[i : i + 512] = np.where(rows >= 0, values.std(-1), np.nan)
    return out


def _principal(x: Any, components: int) -> tuple[Any, Any, Any]:
    """Leading directions [D, K], their deviations [K], and the mean [D]."""
    centre = x.mean(0)
    covariance = np.cov((x - centre).astype(np.float64), rowvar=False)
    variance, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    keep = np.argsort(variance)[::-1][: min(components, max(1, len(x) // 8))]
    keep = keep[variance[keep] > 1e-6 * variance.max()]
    return vectors[:, keep].astype(np.float32), np.sqrt(variance[keep]).astype(np.float32), centre
