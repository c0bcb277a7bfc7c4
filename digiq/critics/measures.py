"""What a critic's data alone tell about it: calibration, ranking, gaps, novelty, verdict, policy value.

Everything here is NumPy on arrays that :func:`diagnose` collects once. Simulator truth is an optional argument that
nothing else depends on (``select`` never passes it).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from digiq.critics.critic import Critic, baseline_of, flat, member_values
from digiq.critics.training_data import CriticData, Standardizer, Table, read_rows
from digiq.statistics import auc

_CHUNK = 2048
_SAMPLE = 4096  # rows that principal components are fitted to
LEAST_EPISODES = 4
"""A critic is called sound only if at least this many held-out episodes succeed, and as many fail."""
LEAST_PAIRS = 30
"""Likewise, the least number of pairs of a logged action that led to success and another candidate."""
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
    """Share of candidate pairs of different true value that are ordered correctly; ties count half. Chance is 0.5."""
    rank_at_1: float
    """Share of states whose best candidate by value is also a truly best one; ties share the credit."""
    states: int
    """States with at least two candidates whose true values differ."""


@dataclasses.dataclass(frozen=True)
class LoggedRanking:
    """Rank of the logged action among its candidates where it led to success; mid-ranks for ties."""

    accuracy: float
    """Share of the other candidates that rank below the logged action; ties count half. Chance is 0.5."""
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
    edges: list[float]
    """Edges of the bins of ``counts``, one more than there are bins."""
    counts: list[int]
    """Histogram over states."""
    threshold: float
    share: float
    """Share of states strictly above the threshold."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the critic over- or underfits, with the advice of Kumar et al. 2021 in words."""

    kind: Literal["overfitting", "underfitting", "sound", "unknown"]
    reason: str
    advice: str


@dataclasses.dataclass(frozen=True)
class Evidence:
    """How much data the diagnostics of a critic rest on."""

    held_out: bool
    """Whether the judged episodes were kept out of training."""
    successes: int
    """Judged episodes with a return above 0."""
    failures: int
    """The other judged episodes."""
    pairs: int
    """Pairs of a logged action of a successful episode and another candidate of its state."""

    def lacks(self) -> str:
        """Why the evidence is too thin for a verdict, in words; empty if it suffices."""
        if not self.held_out:
            return "no episode was held out, so memorised episodes cannot be told from learning"
        counts = ((self.successes, "success", "successes"), (self.failures, "failure", "failures"))
        few = [
            f"{count or 'no'} {one if count == 1 else more}"
            for count, one, more in counts
            if count < LEAST_EPISODES
        ]
        if few:
            return f"the held-out episodes have {' and '.join(few)}, but at least {LEAST_EPISODES} of each are needed"
        if self.pairs < LEAST_PAIRS:
            pairs = self.pairs or "no"
            return f"the held-out episodes have {pairs} pairs to order, but at least {LEAST_PAIRS} are needed"
        return ""


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """Everything that :func:`diagnose` reports; JSON-able by ``dataclasses.asdict``."""

    td_error: float
    """Root mean square error against the objective's own target on held-out transitions, as the trainer logged it for
    this epoch; NaN if it did not."""
    bellman_residual: float
    """Root mean square of ``Q(s, a) - r - γ (1 - terminal) V(s')``, members aggregated, on the judged transitions."""
    q_trend: float
    """Change of the mean held-out Q per epoch over the last quarter of the epochs; NaN with fewer than two epochs."""
    calibration: Calibration
    success_auc: float
    """Chance that a logged action of a successful episode has a higher Q than one of a failed episode."""
    logged_ranking: LoggedRanking
    step_agreement: float
    """Correlation between two advantages of the judged logged actions. One is the critic's, ``Q(s, a)`` minus the mean
    Q of the candidates. The other is the one-step advantage ``r + γ V(s') - V(s)`` under a V fitted to the behaviour
    policy. A return says as much about everything that followed as about the action; a single step says less, with far
    less noise."""
    gaps: Gaps
    disagreement: float
    """Deviation of Q over members, averaged over candidates, as a share of the deviation of Q over candidates."""
    novelty: float
    """Mean quantile of the chosen candidates' distance from the logged actions (0.5: as typical as those)."""
    initial_value: float
    """Mean Q of the best candidate over first states: what the critic promises."""
    policy_value: Interval
    """Fitted Q evaluation of Best-of-N with this critic, over first states."""
    behavior_value: Interval
    """The same estimate for the logged actions, to compare ``policy_value`` with."""
    verdict: Verdict
    evidence: Evidence
    """What the diagnostics rest on; with too little of it the verdict is not ``sound``."""
    truth: Ranking | None = None
    """Ranking against the true values, if they were given."""


def diagnose(
    critic: Critic,
    data: CriticData,
    *,
    rows: Any = None,
    threshold: float = 0.1,
    history: Sequence[dict[str, float]] = (),
    truth: Float[np.ndarray, "S N"] | None = None,
    seed: int = 0,
    reference: "Reference | None" = None,
    values: tuple[Float[np.ndarray, "S N E"], Float[np.ndarray, "S E"]] | None = None,
) -> Diagnostics:
    """All diagnostics of one checkpoint.

    Args:
      critic: a critic of the data's features.
      data: as :func:`digiq.critics.training_data.prepare` returns it, on the host.
      rows: transitions to judge on; by default the held-out ones, or all if there are none.
      threshold: threshold of the extraction gate.
      history: the run's metrics, for the verdict.
      truth: true value of every candidate (NaN: unknown), from a simulator.
      seed: seed of the bootstrap.
      reference: the part that does not depend on the critic, to share it between critics; computed if not given.
      values: the members' Q and V as :func:`values_of` returns them, if they are already known.
    """
    q_members, v_members = values or values_of(critic, data)
    q, v = critic.aggregate(q_members), critic.aggregate(v_members)
    baseline = baseline_of(q, v, critic.config.baseline)
    reference = reference or Reference.of(data, seed=seed)
    if rows is None:
        rows = data.heldout_rows if len(data.heldout_rows) else np.arange(len(data.table.obs))
    obs, returns = np.asarray(data.table.obs[rows]), np.asarray(data.table.returns[rows])
    success = returns > 0
    logged = q[obs, 0]
    chosen = np.nanargmax(np.where(np.isnan(q), -np.inf, q), axis=1)
    spread = float(np.nanstd(q[obs]))
    members = q_members[obs].std(-1)
    residual = logged - data.table.reward[rows] - data.table.discount[rows] * v[data.table.next_obs[rows]]
    gap = np.nanmax(q[obs], axis=1) - baseline[obs]
    first = obs[data.table.first[rows]]
    ends, at = np.unique(np.asarray(data.table.end)[rows], return_index=True)
    won = int(success[at].sum())
    evidence = Evidence(
        held_out=bool(np.isin(rows, data.heldout_rows).all()),
        successes=won,
        failures=len(ends) - won,
        pairs=int(np.maximum((~np.isnan(q[obs][success])).sum(1) - 1, 0).sum()),
    )
    return Diagnostics(
        td_error=float(history[-1].get("heldout_td_error", math.nan)) if history else math.nan,
        bellman_residual=float(np.sqrt(np.mean(np.square(residual)))),
        q_trend=q_trend(history),
        calibration=calibration(logged, returns),
        success_auc=auc(logged, success),
        logged_ranking=logged_ranking(q[obs][success]),
        step_agreement=correlation(logged - np.nanmean(q[obs], axis=1), reference.step_advantage[rows]),
        gaps=gaps(gap, threshold),
        disagreement=float(np.nanmean(members)) / max(spread, 1e-9),
        novelty=float(np.mean(reference.novelty[obs, chosen[obs]])),
        initial_value=float(np.nanmean(np.nanmax(q[first], axis=1))) if len(first) else math.nan,
        policy_value=reference.fqe.value(chosen),
        behavior_value=reference.behavior_value,
        verdict=verdict(history, evidence),
        evidence=evidence,
        truth=None if truth is None else ranking(q[obs], truth[obs]),
    )


def values_of(
    critic: Critic, data: CriticData
) -> tuple[Float[np.ndarray, "S N E"], Float[np.ndarray, "S E"]]:
    """Q of every candidate (NaN: no candidate) and V of every observation, by each of the E members."""
    features = {"observation": data.observation, "pair": data.pair, "candidate_row": data.candidate_row}
    return member_values(flat(critic), features)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What diagnostics measure a critic against; the same for all critics of the data."""

    fqe: "LinearFQE"
    novelty: Float[np.ndarray, "S N"]
    behavior_value: Interval
    step_advantage: Float[np.ndarray, "R"]
    """``r + γ (1 - terminal) V(s') - V(s)`` of every transition. V is that of the behaviour policy by
    :class:`LinearFQE`: its mean Q over the candidates, which are draws from that policy."""

    @classmethod
    def of(
        cls, data: CriticData, *, novelty_: Float[np.ndarray, "S N"] | None = None, seed: int = 0
    ) -> "Reference":
        """The reference for data on the host; give ``novelty_`` if it is known from a larger set."""
        fqe = LinearFQE(data, seed=seed)
        logged = np.zeros(len(data.candidate_row), np.int64)
        v, t = np.nanmean(fqe.q_values(logged), axis=1), data.table
        step = t.reward + t.discount * np.where(t.discount > 0, v[t.next_obs], 0.0) - v[t.obs]
        return cls(fqe, novelty(data) if novelty_ is None else novelty_, fqe.value(logged), step)


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Diagnostics during training, at a bounded cost: over a sample of episodes held in memory."""

    sample: CriticData
    reference: Reference
    threshold: float = 0.1
    """Threshold of the extraction gate whose share of passing states is reported, in units of Q."""

    @classmethod
    def of(cls, data: CriticData, states: int, threshold: float = 0.1) -> "Monitor":
        """A monitor over whole held-out episodes (any if none are held out) with about ``states`` observations.

        Args:
          data: on the host, on the device, or on disk; only the sample and 4,096 logged actions are read.
          states: observations of the sample; at least one episode is taken.
          threshold: threshold of the gate.
        """
        small, observations = sample_episodes(data, states)
        reference = Reference.of(small, novelty_=novelty(data, states=observations))
        return cls(small, reference, threshold)

    def look(self, critic: Critic, history: Sequence[dict[str, float]]) -> Diagnostics:
        """:func:`diagnose` on the sample."""
        return diagnose(
            critic, self.sample, threshold=self.threshold, history=history, reference=self.reference
        )


def scalars(d: Diagnostics) -> dict[str, float]:
    """The scalar diagnostics, by the name they are logged under; NaN values are left out."""
    found = {
        "bellman_residual": d.bellman_residual,
        "ece": d.calibration.ece,
        "bias": d.calibration.bias,
        "success_auc": d.success_auc,
        "step_agreement": d.step_agreement,
        "ranking_accuracy": d.logged_ranking.accuracy,
        "rank_at_1": d.logged_ranking.rank_at_1,
        "mean_rank": d.logged_ranking.mean_rank,
        "gap_median": d.gaps.quantiles[len(d.gaps.quantiles) // 2],
        "share_over_threshold": d.gaps.share,
        "disagreement": d.disagreement,
        "novelty": d.novelty,
        "initial_value": d.initial_value,
        "trend": d.q_trend,
    }
    for name, interval in (("policy_value", d.policy_value), ("behavior_value", d.behavior_value)):
        found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {f"diagnostic_{name}": float(x) for name, x in found.items() if not math.isnan(x)}


def sample_episodes(data: CriticData, states: int, seed: int = 0) -> tuple[CriticData, Int[np.ndarray, "S"]]:
    """A sample of ``data``: whole held-out episodes (any episodes if none are held out), their features in memory.

    Returns:
      the sample, all of it held out, with indices of its own; and the observations of ``data`` that it holds.
    """
    t = Table(*(np.asarray(column) for column in data.table))
    rows = np.asarray(data.heldout_rows)
    rows = rows if len(rows) else np.arange(len(t.obs))
    starts = rows[t.first[rows]]
    drawn = np.random.default_rng(seed).permutation(starts)
    count = max(1, int(np.sum(np.cumsum(t.end[drawn] - drawn + 1) <= states)))
    rows = np.concatenate([np.arange(start, int(t.end[start]) + 1) for start in np.sort(drawn[:count])])
    goes_on = t.discount[rows] > 0
    observations = np.unique(np.concatenate([t.obs[rows], t.next_obs[rows][goes_on]]))
    candidates = np.asarray(data.candidate_row)[observations]
    pairs = np.unique(candidates[candidates >= 0])
    table = Table(
        obs=np.searchsorted(observations, t.obs[rows]),
        next_obs=np.where(goes_on, np.searchsorted(observations, np.where(goes_on, t.next_obs[rows], 0)), 0),
        reward=t.reward[rows],
        discount=t.discount[rows],
        returns=t.returns[rows],
        end=np.searchsorted(rows, t.end[rows]),
        first=t.first[rows],
    )
    part = CriticData(
        observation=read_rows(data.observation, observations),
        pair=read_rows(data.pair, pairs),
        candidate_row=np.where(candidates >= 0, np.searchsorted(pairs, candidates), -1),
        table=table,
        standardizer=_on_host(data.standardizer),
        train_rows=np.zeros(0, np.int32),
        heldout_rows=np.arange(len(rows)),
    )
    return part, observations


def q_trend(history: Sequence[dict[str, float]]) -> float:
    """Change of the mean Q (held-out, if that is logged) per epoch, over the last quarter of the epochs."""
    name = "heldout_q_mean" if history and "heldout_q_mean" in history[-1] else "q_mean"
    q = [row[name] for row in history if name in row]
    if len(q) < 2:
        return math.nan
    back = min(len(q) - 1, max(1, len(q) // 4))
    return (q[-1] - q[-1 - back]) / back


def draw_reliability(axes: Any, c: Calibration) -> None:
    """Reliability plot on Matplotlib axes: mean return against mean prediction of each bin."""
    limit = max(*c.predicted, *c.observed, 1e-3)
    axes.plot([0, limit], [0, limit], "--", color="grey")
    axes.plot(c.predicted, c.observed, "o-")
    axes.set(xlabel="predicted Q", ylabel="return that followed", title=f"ECE {c.ece:.3f}")


def calibration(
    predicted: Float[np.ndarray, "n"], observed: Float[np.ndarray, "n"], bins: int = 10
) -> Calibration:
    """Calibration in bins by predicted value; see :class:`Calibration`."""
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
    """Ranking by ``q`` against known true values; candidates that are NaN in either are left out."""
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
    """Rank of column 0 among the candidates of each row; NaN marks a missing candidate."""
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
        return LoggedRanking(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    n = np.array(counts)
    return LoggedRanking(
        float(np.mean((n - np.array(ranks)) / (n - 1))),
        float(np.mean(ranks)),
        float(np.mean(firsts)),
        float(np.mean((n + 1) / 2)),
        float(np.mean(1 / n)),
        len(n),
    )


def gaps(gap: Float[np.ndarray, "S"], threshold: float) -> Gaps:
    """Quantiles of the advantage and the share above the threshold."""
    counts, edges = np.histogram(gap, bins=20)
    return Gaps(
        quantiles=np.quantile(gap, np.linspace(0, 1, 11)).tolist(),
        edges=edges.tolist(),
        counts=counts.tolist(),
        threshold=threshold,
        share=float(np.mean(gap > threshold)),
    )


def verdict(history: Sequence[dict[str, float]], evidence: Evidence | None = None) -> Verdict:
    """Judges learning curves as Kumar et al. 2021 ("A Workflow for Offline Model-Free Robotic RL") do.

    Overfitting: the held-out error has risen clearly from its minimum, or Q of the data has fallen from a peak.
    Underfitting: the training error is as high as the held-out error and has hardly fallen, or is still falling fast.
    Flat curves are ``sound`` only if the ``evidence`` suffices; if None is given, it is not checked.
    """
    train = np.array([row["td_error"] for row in history if "td_error" in row])
    if len(train) < 4:
        return Verdict("unknown", "fewer than four epochs were logged", "train longer, then look again")
    heldout = np.array([row["heldout_return_error"] for row in history if "heldout_return_error" in row])
    q = np.array([row["q_mean"] for row in history])
    if len(heldout) == len(train):
        curve = _smooth(heldout)
        if curve[-1] > 1.1 * curve.min() and np.argmin(curve) < 0.8 * len(curve):
            return Verdict(
                "overfitting",
                f"the held-out error rose from {curve.min():.3g} to {curve[-1]:.3g} after epoch "
                f"{(len(heldout) - len(curve)) // 2 + int(np.argmin(curve)) + 1}",
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
    held = [row["heldout_td_error"] for row in history if "heldout_td_error" in row]
    if held and train[-1] > 0.9 * held[-1] and train[-1] > 0.5 * train[0]:
        return Verdict(
            "underfitting",
            f"the training error stays at {train[-1]:.3g}, as high as on held-out episodes",
            "try larger heads, more feature layers or less regularisation",
        )
    lack = "" if evidence is None else evidence.lacks()
    if lack:
        return Verdict("unknown", lack, "collect more episodes of tasks that sometimes succeed")
    return Verdict("sound", "training and held-out curves are flat", "nothing to change")


def novelty(
    data: CriticData, components: int = 64, states: Int[np.ndarray, "S"] | None = None
) -> Float[np.ndarray, "S N"]:
    """How unusual each candidate is: the quantile of its distance among those of the logged actions, in [0, 1].

    It is the Mahalanobis distance in the leading principal components of the pairs' standardised features, fitted to
    the logged actions of the training split (to 4,096 of them if there are more).

    Args:
      data: on the host, on the device, or on disk.
      components: largest number of components.
      states: observations to look at; None for all.
    """
    std = _on_host(data.standardizer)
    candidates = np.asarray(data.candidate_row)
    logged = np.unique(candidates[np.asarray(data.table.obs)[np.asarray(data.train_rows)], 0])
    if len(logged) > _SAMPLE:
        logged = np.sort(np.random.default_rng(0).choice(logged, _SAMPLE, replace=False))
    x = std.pair(read_rows(data.pair, logged))
    basis, scale, centre = _principal(x, components)

    def distance(x: Any) -> np.ndarray:
        return np.square((x - centre) @ basis / scale).sum(1)

    candidates = candidates if states is None else candidates[states]
    pairs = np.unique(candidates[candidates >= 0])
    parts = [pairs[i : i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    distances = np.concatenate([distance(std.pair(read_rows(data.pair, part))) for part in parts])
    reference = np.sort(distance(x))
    quantile = np.searchsorted(reference, distances) / len(reference)
    where = np.searchsorted(pairs, np.maximum(candidates, pairs[0]))
    return np.where(candidates >= 0, quantile[where], np.nan)


class LinearFQE:
    """Fitted Q evaluation of any policy over candidates, by an exact linear Q (LSTD-Q, Lagoudakis & Parr 2003).

    ``w = (Σ φ (φ - γ (1 - terminal) φ'_π)ᵀ + λ)⁻¹ Σ φ r`` on the principal components of the standardised features of
    observation and pair. It needs no network and no learning rate; resampling episodes gives an interval.
    """

    def __init__(self, data: CriticData, *, components: int = 96, ridge: float = 1e-2, seed: int = 0):
        self._data, self._ridge, self._seed = data, ridge, seed
        logged = data.candidate_row[data.table.obs, 0]
        sample = np.random.default_rng(seed).permutation(len(logged))[:_SAMPLE]
        joint = self._joint(data.table.obs[sample], logged[sample])
        self._basis, self._scale, self._centre = _principal(joint, components)
        self._phi = self._features(data.table.obs, logged)

    def value(self, choice: Int[np.ndarray, "S"], resamples: int = 200) -> Interval:
        """Mean value of first states if ``choice[s]`` (a column of ``candidate_row``) is taken in every state."""
        t, row = self._data.table, self._rows(choice)
        difference = self._difference(row)
        start = t.obs[t.first]
        initial = self._features(start, row[start])
        episode = np.cumsum(t.first) - 1
        blocks = episode * min(_BLOCKS, episode[-1] + 1) // (episode[-1] + 1)
        edges = np.flatnonzero(np.diff(blocks, prepend=-1))
        stops = np.append(edges[1:], len(blocks))
        a = np.stack([self._phi[i:j].T @ difference[i:j] for i, j in zip(edges, stops, strict=True)])
        b = np.stack([self._phi[i:j].T @ t.reward[i:j] for i, j in zip(edges, stops, strict=True)])
        c = np.stack(
            [initial[episode[i] : episode[j - 1] + 1].sum(0) for i, j in zip(edges, stops, strict=True)]
        )
        n = np.array([episode[j - 1] + 1 - episode[i] for i, j in zip(edges, stops, strict=True)], np.float64)

        def solve(weights: np.ndarray) -> float:
            matrix = (weights @ a.reshape(len(a), -1)).reshape(a.shape[1:])
            return float((weights @ c) @ self._solve(matrix, weights @ b) / (weights @ n))

        rng = np.random.default_rng(self._seed)
        draws = [
            solve(rng.multinomial(len(a), np.full(len(a), 1 / len(a))).astype(float))
            for _ in range(resamples)
        ]
        low, high = np.quantile(draws, [0.025, 0.975])
        return Interval(solve(np.ones(len(a))), float(low), float(high))

    def q_values(self, choice: Int[np.ndarray, "S"]) -> Float[np.ndarray, "S N"]:
        """Q of every candidate under the policy that takes ``choice``; NaN where there is no candidate."""
        t, candidates = self._data.table, np.asarray(self._data.candidate_row)
        difference = self._difference(self._rows(choice))
        weights = self._solve(self._phi.T @ difference, self._phi.T @ t.reward)
        q = np.full(candidates.shape, np.nan)
        for n in range(candidates.shape[1]):
            states = np.flatnonzero(candidates[:, n] >= 0)  # may be empty
            for part in (states[i : i + _CHUNK] for i in range(0, len(states), _CHUNK)):
                q[part, n] = self._features(part, candidates[part, n]) @ weights
        return q

    def _rows(self, choice: Int[np.ndarray, "S"]) -> Int[np.ndarray, "S"]:
        """Pair rows of ``choice``; those of any other candidate where it is missing."""
        candidates = np.asarray(self._data.candidate_row)
        row = candidates[np.arange(len(choice)), choice]
        return np.where(row >= 0, row, np.max(candidates, axis=1))

    def _difference(self, row: Int[np.ndarray, "S"]) -> Float[np.ndarray, "R K"]:
        """``φ - γ (1 - terminal) φ'_π`` of every transition, where π takes pair ``row[s]`` in state s."""
        t = self._data.table
        following = self._features(t.next_obs, np.maximum(row[t.next_obs], 0)) * t.discount[:, None]
        return self._phi - following

    def _solve(self, matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
        size = len(matrix)
        ridge = self._ridge * len(self._data.table.obs) * np.eye(size) / size
        return np.linalg.solve(matrix + ridge, right)

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


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; NaN if either argument does not vary."""
    known = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[known], b[known]
    if len(a) < 2 or np.ptp(a) <= 1e-9 or np.ptp(b) <= 1e-9:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _smooth(x: np.ndarray) -> np.ndarray:
    return np.convolve(x, np.ones(3) / 3, "valid") if len(x) >= 6 else x


def _on_host(standardizer: Standardizer) -> Standardizer:
    return Standardizer(*(np.asarray(x) for x in standardizer))


def _principal(x: Any, components: int) -> tuple[Any, Any, Any]:
    """Leading directions [D, K], their deviations [K], and the mean [D]."""
    centre = x.mean(0)
    y = (x - centre).astype(np.float64)
    # Two matrices have the same spectrum; the smaller one is decomposed.
    small = y.T @ y if y.shape[1] <= len(y) else y @ y.T
    variance, vectors = np.linalg.eigh(small)
    keep = np.argsort(variance)[::-1][: min(components, max(1, len(x) // 8))]
    keep = keep[variance[keep] > 1e-6 * max(variance.max(), 1e-12)]
    vectors = vectors[:, keep]
    if y.shape[1] > len(y):
        vectors = y.T @ vectors / np.sqrt(variance[keep])
    deviation = np.sqrt(variance[keep] / max(len(x) - 1, 1))
    return vectors.astype(np.float32), deviation.astype(np.float32), centre
