"""Best-of-N: imitate the candidate of highest Q wherever it beats the behaviour's value by more than a threshold.

Digi-Q (Bai et al., ICLR 2025), equation 4: maximise E_s[1{A(s, a*) > t} log pi(a* | s)], with a* the candidate of
highest Q and A(s, a) = Q(s, a) - V(s). The authors' code differs in three ways that change nothing here. It clamps A to
[0, 1], which does not matter for a threshold in [0, 1). It gives invalid candidates A = 0, which no threshold of at
least 0 lets through. It averages the loss over rejected rows too, which only scales the gradient, and Adam ignores the
scale.

Sound with policy evaluation (``td``, ``mc``, ``nstep``) over the critic's own V, where A > 0 means better than the
behaviour, and with ``iql``, whose V is higher. A ``quantile`` keeps its share whatever the states hold, so where most
candidates are mistakes it keeps mistakes. Values of the *best* policy (exact ones, ``backup: max``) have no behaviour
to beat; with the candidates' mean as baseline, a no-op passes wherever the other candidates are mistakes. Use
``progress`` there.
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
    """What the threshold applies to. ``absolute``: the advantage itself (paper: 0.10 general, 0.05 web shopping).
    ``quantile``: a quantile of the best advantages over states. ``z``: their mean plus this many deviations."""
    threshold: float = 0.5
    """In units of return, a share in [0, 1), or standard deviations, by ``threshold_mode``. The advantage must be
    strictly above it."""
    baseline: Literal["v", "logged", "candidate_mean"] | None = None
    """The value to beat: the V-head, Q of the logged action, or the mean Q of the candidates. None takes the default of
    the source of values; for a critic, that is in its config."""
    candidates: Annotated[int, Field(ge=1)] | None = None
    """N: only the first N stored candidates count, of which the logged action is the first; none counts all. 1 filters
    the logged actions."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Leave out candidates that are less likely under the proposer than this share of the likeliest candidate (discrete
    BCQ: Fujimoto et al. 2019). Q of actions that were hardly ever tried is noise, and the maximum over N picks that
    noise. 0 leaves out none (paper)."""

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
        """See :class:`digiq.extraction.base.Extraction`; ``rng`` is not used."""
        return of_choice(states, self.choose(states))


def best_of_n(
    q: npt.NDArray[np.float32],
    baseline: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    config: BestOfN,
    log_prob: npt.NDArray[np.float32] | None = None,
) -> Choice:
    """The candidate of highest Q at each state; the first one wins ties, so the logged action does.

    Args:
      q: float32[S, N]; entries of invalid candidates are ignored.
      baseline: float32[S], NaN where there is none.
      valid: bool[S, N]; a candidate that is invalid, or whose Q is not finite, is never chosen.
      config: see :class:`BestOfN`.
      log_prob: float32[S, N], log-probability under the proposer; needed if ``config.support`` is above 0.

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
    """The kept candidates as targets, at most one per state, all with the same weight."""
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
        # "lower" takes a value that occurs, so quantile 0 drops only the smallest, and rounding drops none.
        return float(np.quantile(advantages, config.threshold, method="lower"))
    return float(advantages.mean() + config.threshold * advantages.std())
