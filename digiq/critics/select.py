"""``digiq select``: chooses a checkpoint, of one critic or among many, without a device and without simulator truth.

Why no truth: where exact values exist (on the simulator) one would not need to choose by proxy, and where they do not
(on phones) a score tuned to them would be a promise nobody can keep. Nothing here takes them as an argument, and a test
makes asking for them an error. ``benchmarks/selection_correlation.py`` measures, afterwards, how well the score orders
critics whose true success is known.

Four numbers say how good the policy extracted from a critic may be; none is reliable alone, so a candidate's score is
the mean of its ranks by each, scaled to [0, 1].
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from digiq import artifacts
from digiq.config import configclass
from digiq.critics.diagnose import checkpoint_epochs, diagnose_checkpoint, training_data_of
from digiq.critics.diagnostics import Diagnostics, Reference
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
    "order of logged actions": lambda d: (
        1 - d.logged_ranking.mean_rank / max(d.logged_ranking.random_rank, 1e-9)
    ),
    "success against failure": lambda d: d.success_auc,
    "calibration": lambda d: -d.calibration.ece,
}
"""What is ranked, the higher the better."""


def choose(candidates: Mapping[str, Diagnostics]) -> Choice:
    """Scores candidates by :data:`CRITERIA`; those that overfit stand behind all that do not.

    Raises:
      DigiQError: there are none.
    """
    if not candidates:
        raise DigiQError("select: no checkpoints to choose from; train a critic first.")
    names = list(candidates)
    columns = {name: _ranks([f(candidates[c]) for c in names]) for name, f in CRITERIA.items()}
    columns = {name: ranks for name, ranks in columns.items() if ranks is not None}
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
    """The stage: writes ``selection.json`` with the chosen critic and epoch, all scores, and the reason."""
    inputs = {f"critic_{k}": path for k, path in enumerate(critics)}
    inputs |= {"features": features, "episodes": episodes, "rewards": rewards}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        found, where = {}, {}
        known = [critic.name for critic in critics]
        for critic in critics:
            label = critic.name if known.count(critic.name) == 1 else str(critic)
            data = training_data_of(critic, features=features, episodes=episodes, rewards=rewards)
            epochs = checkpoint_epochs(critic)
            reference = Reference.of(data, seed=config.seed)
            for epoch in track(epochs if config.every_checkpoint else epochs[-1:], f"select {critic.name}"):
                name = f"{label} epoch {epoch}"
                found[name] = diagnose_checkpoint(critic, epoch, data, 0.0, reference)
                where[name] = {"critic": str(critic), "epoch": epoch}
        choice = choose(found)
        artifacts.atomic_write_json(
            writer.path / "selection.json",
            {**where[choice.best], "why": choice.why, "scores": choice.scores},
        )
        print(choice.why)
        return writer.complete(counts={"candidates": len(found)}, extra=where[choice.best])


def _ranks(values: Sequence[float]) -> np.ndarray | None:
    """Ranks in [0, 1], NaN last; None when nothing differs."""
    array = np.array([-math.inf if math.isnan(v) else v for v in values])
    if len(set(array.tolist())) < 2:
        return None
    return (rankdata(array) - 1) / (len(array) - 1)
