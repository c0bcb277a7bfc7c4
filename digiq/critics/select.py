"""``digiq select``: chooses a checkpoint, of one critic or among many, without a device and without simulator truth.

Why no truth: where exact values exist (on the simulator) one would not need to choose by proxy, and where they do not
(on phones) a score tuned to them would be a promise nobody can keep. Nothing here takes them as an argument, and a test
makes asking for them an error. ``benchmarks/selection_correlation.py`` measures, afterwards, how well the score orders
critics whose true success is known.

Three numbers say how good the policy extracted from a critic may be; none is reliable alone, so a candidate's score is
the mean of its ranks by each, scaled to [0, 1]. What correlates with Monte-Carlo returns (calibration, the rank of actions
that led to success) is reported by ``diagnose`` and not counted: over critics of different objectives it orders
policies badly (``docs/results/selection.md``).
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
    """How to choose."""

    every_checkpoint: bool = True
    """All checkpoints of each critic, or their last alone."""
    seed: int = 0
    """Of the bootstrap in fitted Q evaluation."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best candidate and why."""

    best: str
    scores: dict[str, float]
    """Of every candidate, in [0, 1]."""
    why: str


CRITERIA = {
    "policy value": lambda d: d.policy_value.value,
    "one-step advantages": lambda d: d.step_agreement,
}
"""What is ranked of each critic by itself, the higher the better; beside it, :func:`agreement`."""
AGREEMENT = "agreement"


def agreement(values: Sequence[Float[np.ndarray, "S N"]]) -> list[float]:
    """How far each critic orders the candidates of a state as the others do on average.

    Correlation of its Q, standardised within each state, with the mean of the others'. Errors of critics that differ in
    objective, seed or epoch are partly their own; what they share is more often right.
    """
    standard = np.stack([_standardised(q).ravel() for q in values])
    total = standard.sum(axis=0)
    return [correlation(one, total - one) for one in standard]


def _standardised(q: Float[np.ndarray, "S N"]) -> Float[np.ndarray, "S N"]:
    """Zero mean and unit deviation over the candidates of a state; 0 where there is none, or nothing differs."""
    known = ~np.isnan(q)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    centred = np.where(known, q - np.where(known, q, 0).sum(axis=1, keepdims=True) / count, 0)
    deviation = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / count)
    return (centred / np.maximum(deviation, 1e-6)).astype(np.float32)


def choose(candidates: Mapping[str, Diagnostics], values: Mapping[str, Float[np.ndarray, "S N"]]) -> Choice:
    """Scores critics by :data:`CRITERIA` and :func:`agreement`; those that overfit stand behind all that do not.

    Args:
      candidates: diagnostics of each.
      values: Q of each, of the same candidate actions; NaN where there is none.

    Raises:
      DigiQError: there are none.
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
      DigiQError: critics of another discount or treatment of time-outs than the others', or of other data.
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
    """A policy's value is a discounted sum: under two discounts the higher one is not the better."""
    kinds = [f"gamma {config.gamma} and timeout {config.timeout}" for config in configs]
    for path, kind in zip(critics, kinds, strict=True):
        if kind != kinds[0]:
            raise DigiQError(
                f"select: {critics[0]} has {kinds[0]}, {path} has {kind}, so their values do not compare; choose among "
                "critics with the same of both."
            )


def _ranks(values: Sequence[float]) -> np.ndarray | None:
    """Ranks in [0, 1], NaN last; None when nothing differs."""
    array = np.array([-math.inf if math.isnan(v) else v for v in values])
    if len(set(array.tolist())) < 2:
        return None
    return (rankdata(array) - 1) / (len(array) - 1)
