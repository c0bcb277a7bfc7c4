"""``digiq diagnose``: the diagnostics of every checkpoint of a critic, as numbers, plots and words."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digiq import artifacts
from digiq.config import configclass
from digiq.critics.checkpoints import Checkpoints
from digiq.critics.critic import load_critic
from digiq.critics.measures import Diagnostics, Reference, diagnose, draw_reliability, values_of
from digiq.critics.train import TrainQConfig, load_training_data
from digiq.critics.training_data import CriticData
from digiq.errors import DigiQError
from digiq.progress import track
from digiq.proposals.values import load_exact

STAGE, VERSION = "diagnose", 1


@configclass
class DiagnoseConfig:
    """Which checkpoints are diagnosed, and how."""

    threshold: float = 0.1
    """Threshold of the extraction gate whose share of passing states is reported, in units of Q."""
    every_checkpoint: bool = True
    """Diagnose all checkpoints, or only the chosen one."""
    seed: int = 0
    """Seed of the bootstrap."""


def run(
    config: DiagnoseConfig,
    *,
    critic: Path,
    features: Path,
    episodes: Path,
    rewards: Path | None = None,
    truth: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> artifacts.Artifact:
    """The stage: writes ``diagnostics.json`` and plots.

    Args:
      config: see :class:`DiagnoseConfig`.
      critic: an artefact of ``train-q``.
      features, episodes, rewards: what it was trained on; rewards only if it was trained with any.
      truth: optional artefact of ``digiq value``, or ``.npy`` float[S, N]: the true value of every candidate (from a
        simulator), NaN where unknown.
      out: where the artefact is written.
      overwrite: start anew.

    Raises:
      DigiQError: see :func:`training_of`.
    """
    inputs = {
        "critic": critic,
        "features": features,
        "episodes": episodes,
        "rewards": rewards,
        "truth": truth,
    }
    training_of(
        critic, features=features, episodes=episodes, rewards=rewards
    )  # checked before ``out`` is claimed
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        known = None if truth is None else _load_truth(truth)
        data = training_data_of(critic, features=features, episodes=episodes, rewards=rewards)
        if known is not None and known.shape != data.candidate_row.shape:
            raise DigiQError(
                f"{truth}: shape {known.shape}, but the candidates have {data.candidate_row.shape}."
            )
        chosen = json.loads((critic / "critic.json").read_text(encoding="utf-8"))["epoch"]
        epochs = checkpoint_epochs(critic) if config.every_checkpoint else [chosen]
        reference = Reference.of(data, seed=config.seed)
        found = {
            epoch: judge_checkpoint(critic, epoch, data, config.threshold, reference, known)[0]
            for epoch in track(epochs, "diagnose", unit="checkpoint")
        }
        table = {str(epoch): dataclasses.asdict(d) for epoch, d in found.items()}
        artifacts.atomic_write_json(
            writer.path / "diagnostics.json", {"chosen": chosen, "checkpoints": table}
        )
        plot(found[chosen], metrics_of(critic), writer.path)
        print(in_words(found[chosen]))
        return writer.complete(counts={"checkpoints": len(found)})


def _load_truth(path: Path) -> np.ndarray:
    if path.is_dir():
        return load_exact(path)["best_q"]
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DigiQError(
            f"{path}: not an array of true values ({error}); name an artefact of 'digiq value'."
        ) from None
    if isinstance(found, np.ndarray):
        return found
    with found:
        if "best_q" not in found:
            raise DigiQError(f"{path}: holds no 'best_q'; name an artefact of 'digiq value', or a .npy.")
        return found["best_q"]


def training_data_of(critic: Path, *, features: Path, episodes: Path, rewards: Path | None) -> CriticData:
    """The data that a ``train-q`` artefact was trained on, with its split.

    Raises:
      DigiQError: see :func:`training_of`.
    """
    config = training_of(critic, features=features, episodes=episodes, rewards=rewards)
    return load_training_data(config, features=features, episodes=episodes, rewards=rewards)[0]


def training_of(critic: Path, *, features: Path, episodes: Path, rewards: Path | None) -> TrainQConfig:
    """The config of a ``train-q`` artefact that was trained on these data; reads manifests alone.

    Raises:
      DigiQError: it was trained on other data, or exactly one of the training and this call has rewards.
    """
    from digiq.config import load

    manifest = artifacts.read_manifest(critic, stage="train-q")
    if rewards is None and "rewards" in manifest.inputs:
        raise DigiQError(f"{critic}: was trained with rewards from an artefact; name it with --rewards.")
    if rewards is not None and "rewards" not in manifest.inputs:
        raise DigiQError(
            f"{critic}: was trained on the episodes' own rewards; leave out --rewards {rewards}."
        )
    for name, path in {"features": features, "episodes": episodes, "rewards": rewards}.items():
        if path is not None and manifest.inputs[name] != artifacts.content_digest(path):
            raise DigiQError(f"{path}: not the {name} that {critic} was trained on; name the original ones.")
    return load(TrainQConfig, manifest.config, where=str(critic), recorded=True)


def checkpoint_epochs(critic: Path) -> list[int]:
    """Epochs that have a checkpoint."""
    with Checkpoints(critic / "checkpoints") as checkpoints:
        return checkpoints.epochs


def judge_checkpoint(
    critic: Path, epoch: int, data: CriticData, threshold: float, reference: Reference, truth: Any = None
) -> tuple[Diagnostics, np.ndarray]:
    """:func:`diagnose` of one checkpoint on disk, judged by the epochs up to it; and its Q, float32[S, N]."""
    opened = load_critic(critic, epoch)
    values = values_of(opened, data)
    found = diagnose(
        opened,
        data,
        threshold=threshold,
        history=[row for row in metrics_of(critic) if row["epoch"] <= epoch],
        truth=truth,
        reference=reference,
        values=values,
    )
    return found, opened.aggregate(values[0])


def metrics_of(critic: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.jsonl``."""
    return [json.loads(line) for line in (critic / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def in_words(d: Diagnostics) -> str:
    """A few lines for the terminal."""
    lines = [
        f"errors       TD {d.td_error:.3f}, Bellman residual {d.bellman_residual:.3f}; Q changes by {d.q_trend:+.2g} "
        f"per epoch; best Q of first states {d.initial_value:.3f}",
        f"verdict      {d.verdict.kind}: {d.verdict.reason}; advice: {d.verdict.advice}",
        f"rests on     {d.evidence.successes} successes and {d.evidence.failures} failures"
        f"{', held out' if d.evidence.held_out else ', seen in training'}; {d.evidence.pairs} pairs",
        f"calibration  ECE {d.calibration.ece:.3f}, bias {d.calibration.bias:+.3f}",
        f"ranking      AUC success/failure {d.success_auc:.3f}; logged action of successes above "
        f"{100 * d.logged_ranking.accuracy:.0f} % of its candidates, first in {100 * d.logged_ranking.rank_at_1:.0f} % "
        f"(chance {100 * d.logged_ranking.random_at_1:.0f} %)",
        f"steps        correlation with one-step advantages {d.step_agreement:+.2f}",
        f"gate         {100 * d.gaps.share:.1f} % of states above {d.gaps.threshold:g}",
        f"ensemble     disagreement {d.disagreement:.2f} of the spread of Q; novelty of the chosen {d.novelty:.2f}",
        f"policy value {d.policy_value.value:.3f} [{d.policy_value.low:.3f}, {d.policy_value.high:.3f}]; "
        f"behaviour {d.behavior_value.value:.3f} [{d.behavior_value.low:.3f}, {d.behavior_value.high:.3f}]",
    ]
    if d.truth is not None:
        lines.append(
            f"truth        pairs ordered correctly {d.truth.accuracy:.3f}, rank at 1 {d.truth.rank_at_1:.3f}"
        )
    return "\n".join(lines)


def plot(d: Diagnostics, history: Sequence[dict[str, float]], path: Path) -> None:
    """``diagnostics.png``: reliability, Q trend, and the advantage of the best candidate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    reliability, trend, gap = figure.subplots(1, 3)
    draw_reliability(reliability, d.calibration)
    for name in ("q_mean", "v_mean", "heldout_q_mean", "heldout_initial_q"):
        points = [(row["epoch"], row[name]) for row in history if name in row]
        if points:
            trend.plot(*zip(*points, strict=True), label=name)
    trend.set(xlabel="epoch", title="Q trend")
    trend.legend()
    gap.stairs(d.gaps.counts, d.gaps.edges, fill=True)
    gap.axvline(d.gaps.threshold, linestyle="--", color="grey")
    gap.set(
        xlabel="best Q minus baseline",
        ylabel="states",
        title=f"{100 * d.gaps.share:.1f} % pass",
    )
    with artifacts.atomic_path(path / "diagnostics.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
