"""Best-of-N: imitate the candidate of highest Q wherever it beats the behaviour's value by more than a threshold.

Digi-Q (Bai et al., ICLR 2025), equation 4: maximise E_s[1{A(s, a*) > t} log pi(a* | s)], with a* the candidate of
highest Q and A(s, a) = Q(s, a) - V(s). Upstream clamps A to [0, 1], which a threshold in [0, 1) does not notice, gives
invalid candidates A = 0, which no threshold of at least 0 lets through, and averages the loss over rejected rows too,
which only scales the gradient, to which Adam is indifferent.

Sound with policy evaluation (``td``, ``mc``, ``nstep``) over their own V, where A > 0 means better than the behaviour, and with
``iql``, whose V stands higher. A ``quantile`` keeps its share whatever the states hold, so mistakes too where most of them are
mistakes. Values of the *best* policy (exact ones, ``backup: max``) have no behaviour to beat, and over the candidates' mean a
no-op passes wherever its siblings are mistakes: take ``progress``.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from digiq.config import configclass
from digiq.extraction.base import Choice, States, Targets
from digiq.proposals.propose import supported


@configclass
class BestOfN:
    """Imitates the best candidate where it is good enough."""

    threshold_mode: Literal["absolute", "quantile", "z"] = "quantile"
    """``absolute``: the advantage itself (the paper: 0.10 general, 0.05 web shopping). ``quantile``: of the best
    advantages over states. ``z``: their mean plus this many standard deviations."""
    threshold: float = 0.5
    """In units of return, a share in [0, 1), or standard deviations, by ``threshold_mode``. Strictly above passes."""
    baseline: Literal["v", "logged", "candidate_mean"] | None = None
    """The value to beat: the V-head, Q of the logged action, or the mean Q of the candidates; none: as the source of
    the values says, for a critic its own config."""
    candidates: Annotated[int, Field(ge=1)] | None = None
    """N: only the first so many stored candidates count, the logged action being the first; none counts all. 1 filters
    the logged actions."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Leave out candidates less likely under the proposer than this share of the likeliest candidate's probability
    (discrete BCQ: Fujimoto et al. 2019): Q of what was hardly ever tried is noise, and the highest of N picks noise up.
    0 leaves out none (paper)."""

    @model_validator(mode="after")
    def _check(self) -> "BestOfN":
        if not np.isfinite(self.threshold) or (
            self.threshold_mode == "quantile" and not 0 <= self.threshold < 1
        ):
            raise ValueError(
                f"threshold {self.threshold} does not suit {self.threshold_mode}: a quantile is in [0, 1)"
            )
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"proposals", "q", "v"})

    def choose(self, states: States) -> Choice:
        """See :class:`digiq.extraction.base.Ranks`."""
        proposals, values = states.proposals, states.values
        assert proposals is not None and values is not None and values.q is not None
        return best_of_n(values.q, values.to_beat(self.baseline), proposals.valid, self, proposals.log_prob)

    def select(self, states: States, rng: np.random.Generator) -> Targets:
        """Nothing is drawn."""
        return of_choice(states, self.choose(states))


def best_of_n(
    q: npt.NDArray[np.float32],
    baseline: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    config: BestOfN,
    log_prob: npt.NDArray[np.float32] | None = None,
) -> Choice:
    """The candidate of highest Q at each state; the first of equals, so the logged action wins its ties.

    Args:
      q: float32[S, N]; what it holds for invalid candidates does not matter.
      baseline: float32[S], NaN where there is none.
      valid: bool[S, N]; an invalid candidate is never chosen, nor one whose Q is not finite.
      config: see :class:`BestOfN`.
      log_prob: float32[S, N], of the candidates under the proposer; needed when ``config.support`` is above 0.

    Raises:
      ValueError: the shapes disagree, or ``log_prob`` is missing.
    """
    choice, advantage = highest(
        q, baseline, valid, candidates=config.candidates, support=config.support, log_prob=log_prob
    )
    threshold = _threshold(advantage[choice >= 0], config)
    return Choice(choice=choice, advantage=advantage, keep=advantage > threshold, threshold=threshold)


def highest(
    q: npt.NDArray[np.float32],
    baseline: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    *,
    candidates: int | None = None,
    support: float = 0.0,
    log_prob: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The candidate of highest Q at each state, and by how much it exceeds the baseline; see :func:`best_of_n`.

    Returns:
      int64[S], -1 where there is no candidate or no baseline, and float64[S], -inf there.
    """
    if q.shape != valid.shape or baseline.shape != q.shape[:1]:
        raise ValueError(
            f"q {q.shape}, valid {valid.shape} and baseline {baseline.shape} are not [S, N], [S, N], [S]."
        )
    if candidates is not None:
        valid = valid & (np.arange(valid.shape[1]) < candidates)
    usable = valid & np.isfinite(q)
    if support > 0:
        if log_prob is None:
            raise ValueError("best_of_n.support needs the candidates' log-probabilities.")
        usable &= supported(log_prob, valid, support)
    values = np.where(usable, q.astype(np.float64), -np.inf)
    possible = usable.any(axis=1) & np.isfinite(baseline)
    choice = np.where(possible, values.argmax(axis=1), -1)
    best = values.max(axis=1, initial=-np.inf)
    return choice, np.where(possible, best - np.where(possible, baseline, 0.0), -np.inf)


def of_choice(states: States, chosen: Choice) -> Targets:
    """What is imitated where one candidate a state is kept or left, all of them weighing the same."""
    assert states.proposals is not None
    rows = np.flatnonzero(chosen.keep)
    kept = chosen.advantage[rows]
    return Targets(
        row=rows,
        action=[states.proposals.action(int(row), int(chosen.choice[row])) for row in rows],
        weight=np.ones(len(rows)),
        considered=int(np.isfinite(chosen.advantage).sum()),
        report={
            "threshold": chosen.threshold,
            "mean_advantage_kept": float(kept.mean()) if len(kept) else None,
            "logged_share": float((chosen.choice[rows] == 0).mean()) if len(kept) else None,
        },
    )


def _threshold(advantages: npt.NDArray[np.float64], config: BestOfN) -> float:
    if config.threshold_mode == "absolute" or not len(advantages):
        return config.threshold
    if config.threshold_mode == "quantile":
        # A value that occurs ("lower"), so that quantile 0 drops the smallest only, and float rounding none.
        return float(np.quantile(advantages, config.threshold, method="lower"))
    return float(advantages.mean() + config.threshold * advantages.std())
