"""``digiq select``: chooses a checkpoint, of one critic or among many, without a device and without simulator truth.

Why no truth: where exact values exist (on the simulator), there is no need to choose by a proxy; where they do not (on
phones), a score tuned to them would promise too much. Nothing here takes them as an argument, and a test makes asking
for them an error. ``benchmarks/selection_correlation.py`` measures afterwards how well the score orders critics whose
true success is known.

Three numbers indicate how good the policy extracted from a critic may be. None is reliable alone, so a candidate's
score is the mean of its ranks by each, scaled to [0, 1]. Diagnostics that correlate with Monte-Carlo returns
(calibration, the rank of actions that led to success) are reported by ``diagnose`` but do not count here: over critics
of different objectives they order policies badly (``docs/results/selection.md``).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from digiq import artifacts
from digiq.config import configclass
from digiq.critics.diagnose import checkpoint_epochs, judge_checkpoint, training_data_of, training_of
from digiq.critics.learner import CriticConfig
from digiq.critics.measures import Diagnostics, Reference, correlation
from digiq.errors import DigiQError
from digiq.progress import track

STAGE, VERSION = "select", 1


@configclass
class SelectConfig:
    """How a checkpoint is chosen."""

    every_checkpoint: bool = True
    """Compare all checkpoints of each critic, or only its last one."""
    seed: int = 0
    """Seed of the bootstrap in fitted Q evaluation."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best candidate and why."""

    best: str
    scores: dict[str, float]
    """Score of every candidate, in [0, 1]."""
    why: str


CRITERIA = {
    "policy value": lambda d: d.policy_value.value,
    "one-step advantages": lambda d: d.step_agreement,
}
"""Criteria computed for each critic by itself, higher is better; :func:`agreement` is the third."""
AGREEMENT = "agreement"


def agreement(values: Sequence[Float[np.ndarray, "S N"]]) -> list[float]:
    """How far each critic orders the candidates of a state as the other critics do on average.

    It is the correlation of its Q, standardised within each state, with the mean of the others' Q. Critics that differ
    in objective, seed or epoch make partly different errors; what they agree on is more often right.
    """
    standard = np.stack([_standardised(q).ravel() for q in values])
    total = standard.sum(axis=0)
    return [correlation(one, total - one) for one in standard]


def _standardised(q: Float[np.ndarray, "S N"]) -> Float[np.ndarray, "S N"]:
    """Q with zero mean and unit deviation over a state's candidates; 0 for missing ones, and if all are equal."""
    known = ~np.isnan(q)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    centred = np.where(known, q - np.where(known, q, 0).sum(axis=1, keepdims=True) / count, 0)
    deviation = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / count)
    return (centred / np.maximum(deviation, 1e-6)).astype(np.float32)


def choose(candidates: Mapping[str, Diagnostics], values: Mapping[str, Float[np.ndarray, "S N"]]) -> Choice:
    """Scores critics by :data:`CRITERIA` and :func:`agreement`; those that overfit rank below all that do not.

    Args:
      candidates: diagnostics of each critic, by name.
      values: Q of the same candidate actions by each critic; NaN where there is no action.

    Raises:
      DigiQError: there is no critic.
    """
    if not candidates:
        raise DigiQError("select: no checkpoints to choose from; train a critic first.")
    names = list(candidates)
    found = {name: [f(candidates[c]) for c in names] for name, f in CRITERIA.items()}
    found[AGREEMENT] = agreement([values[c] for c in names])
    columns = {name: ranks for name, x in found.items() if (ranks := _ranks(x)) is not None}
    score = np.mean(list(columns.values()), axis=0) if columns else np.full(len(names), 0.5)
    overfits = np.array([candidates[c].verdict.kind == "overfitting" for c in names])
    best = int(np.lexsort((score, ~overfits))[-1])
    leads = [name for name, ranks in columns.items() if ranks[best] >= 0.75] or ["no single criterion"]
    d = candidates[names[best]]
    why = (
        f"{names[best]} has the highest mean rank of {len(names)} ({score[best]:.2f}), leading in "
        f"{', '.join(leads)}; estimated policy value {d.policy_value.value:.3f} "
        f"[{d.policy_value.low:.3f}, {d.policy_value.high:.3f}] against the behaviour's {d.behavior_value.value:.3f}; "
        f"{d.verdict.kind}."
    )
    return Choice(names[best], dict(zip(names, score.tolist(), strict=True)), why)


def run(
    config: SelectConfig,
    *,
    critics: Sequence[Path],
    features: Path,
    episodes: Path,
    rewards: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> artifacts.Artifact:
    """The stage: writes ``selection.json`` with the chosen critic and epoch, all scores, and the reason.

    Raises:
      DigiQError: critics that differ in discount, treatment of time-outs, or data.
    """
    inputs = {f"critic_{k}": path for k, path in enumerate(critics)}
    inputs |= {"features": features, "episodes": episodes, "rewards": rewards}
    trainings = [training_of(c, features=features, episodes=episodes, rewards=rewards) for c in critics]
    _refuse_other_returns(critics, [training.critic for training in trainings])
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        found, values, where = {}, {}, {}
        known = [critic.name for critic in critics]
        for critic in critics:
            label = critic.name if known.count(critic.name) == 1 else str(critic)
            data = training_data_of(critic, features=features, episodes=episodes, rewards=rewards)
            epochs = checkpoint_epochs(critic)
            reference = Reference.of(data, seed=config.seed)
            for epoch in track(epochs if config.every_checkpoint else epochs[-1:], f"select {critic.name}"):
                name = f"{label} epoch {epoch}"
                found[name], values[name] = judge_checkpoint(critic, epoch, data, 0.0, reference)
                where[name] = {"critic": str(critic), "epoch": epoch}
        choice = choose(found, values)
        artifacts.atomic_write_json(
            writer.path / "selection.json",
            {**where[choice.best], "why": choice.why, "scores": choice.scores},
        )
        print(choice.why)
        return writer.complete(counts={"candidates": len(found)}, extra=where[choice.best])


def _refuse_other_returns(critics: Sequence[Path], configs: Sequence[CriticConfig]) -> None:
    """A policy's value is a discounted sum, so values under different discounts do not compare."""
    kinds = [f"gamma {config.gamma} and timeout {config.timeout}" for config in configs]
    for path, kind in zip(critics, kinds, strict=True):
        if kind != kinds[0]:
            raise DigiQError(
                f"select: {critics[0]} has {kinds[0]}, {path} has {kind}, so their values do not compare; choose among "
                "critics that share both settings."
            )


def _ranks(values: Sequence[float]) -> np.ndarray | None:
    """Ranks in [0, 1], NaN last; None when nothing differs."""
    array = np.array([-math.inf if math.isnan(v) else v for v in values])
    if len(set(array.tolist())) < 2:
        return None
    return (rankdata(array) - 1) / (len(array) - 1)
