"""The ``distill`` stage: a policy that imitates what an objective selects, for one arm of a comparison.

Every arm runs the same fitting for the same number of updates from the same start, so arms differ in the imitated rows
alone.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from android_env.actions import Action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.critics.critic import candidate_values, load_critic
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.data.transitions import observation_index
from digiq.errors import ArtifactError, DigiQError
from digiq.extraction.best_of_n import BestOfNConfig, best_of_n
from digiq.extraction.filtered_bc import FilteredBCConfig, step_weights
from digiq.features.extract import load_features
from digiq.policies.base import PolicyInput, load_policy
from digiq.policies.fit import FitConfig, fit_policy, metrics_writer
from digiq.policies.grid import GridPolicy
from digiq.proposals.propose import load_proposals

STAGE, VERSION = "distill", 1
LEAST_SHARE = 0.05
"""Below this share of kept states a warning is given: so few rows seldom carry a policy."""


@configclass
class DistillConfig:
    """One arm."""

    arm: Literal["digiq", "filtered_bc"] = "digiq"
    """``digiq`` is Best-of-N under the learned critic."""
    init: Literal["behavior", "scratch"] = "behavior"
    """Start from the behaviour policy's parameters, or from fresh ones."""
    best_of_n: BestOfNConfig = BestOfNConfig()
    """Of the arm ``digiq``."""
    filtered_bc: FilteredBCConfig = FilteredBCConfig()
    """Of the arm ``filtered_bc``."""
    fit: FitConfig = FitConfig(updates=600, learning_rate=3e-3, heldout=0.0)
    """The fitting. Nothing is held out: the start imitates the same kind of rows already, so the held-out loss of a
    better policy is seldom lower than the start's."""
    split: str = "train"
    """Only episodes of this split are learned from."""
    seed: int = 0
    """Of fresh parameters."""


@dataclasses.dataclass(frozen=True)
class _Selection:
    """Which action to imitate at which (episode, step), and what to report."""

    targets: dict[tuple[int, int], Action]
    considered: int
    """States that could have been selected."""
    report: dict[str, Any]


def run(
    config: DistillConfig,
    *,
    behavior: Path,
    episodes: Path,
    out: Path,
    rewards: Path | None = None,
    proposals: Path | None = None,
    features: Path | None = None,
    critic: Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Fits the arm's policy; ``out`` opens with ``load_policy``.

    ``proposals``, ``features`` and ``critic`` are read by the arm ``digiq`` only.

    Raises:
      DigiQError: an input the arm needs is not given, inputs of different runs, or nothing is selected.
    """
    used = {"behavior": behavior, "episodes": episodes, "rewards": rewards}
    if config.arm == "digiq":
        needed = {"proposals": proposals, "features": features, "critic": critic}
        for name, path in needed.items():
            if path is None:
                raise DigiQError(f"distill: the arm 'digiq' needs --{name}.")
        used |= needed
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=used, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        store = LabelledEpisodes(episodes, rewards)
        if proposals is not None and features is not None and critic is not None and config.arm == "digiq":
            selection = _select_best_of_n(store, proposals, features, critic, config)
        else:
            selection = _select_filtered_bc(store, config)
        share = len(selection.targets) / max(selection.considered, 1)
        if not selection.targets:
            raise DigiQError(
                f"distill: the arm '{config.arm}' selects none of {selection.considered} states; lower the threshold, "
                "or collect episodes that succeed."
            )
        if share < LEAST_SHARE:
            warnings.warn(
                f"distill: the arm '{config.arm}' keeps {share:.1%} of {selection.considered} states; a policy "
                "fitted to so few seldom improves: lower the threshold or collect more.",
                stacklevel=2,
            )
        start = load_policy(behavior)
        if not isinstance(start, GridPolicy):
            raise DigiQError(f"{behavior}: distill fits a GridPolicy, got {type(start).__name__}.")
        if config.init == "scratch":
            start = GridPolicy.create(start.config, config.seed)
        keys = list(selection.targets)
        policy = fit_policy(
            start,
            _inputs(store, selection.targets),
            list(selection.targets.values()),
            [1.0] * len(keys),
            config.fit,
            groups=_groups(store, keys),
            on_metrics=metrics_writer(writer.path / "metrics.jsonl"),
            description=f"distill {config.arm}",
        )
        policy.save(writer.path)
        report = {"arm": config.arm, "share_kept": share, **selection.report}
        artifacts.atomic_write_json(writer.path / "selection.json", report)
        return writer.complete(
            counts={"selected": len(keys), "considered": selection.considered}, extra=report
        )


def _select_best_of_n(
    store: LabelledEpisodes,
    proposals_path: Path,
    features_path: Path,
    critic_path: Path,
    config: DistillConfig,
) -> _Selection:
    proposals, features = load_proposals(proposals_path), load_features(features_path)
    index = observation_index(store)
    if not len(index) == len(proposals) == len(features.candidate_row):
        raise ArtifactError(
            f"{proposals_path} has {len(proposals)} observations, {features_path} {len(features.candidate_row)}, the "
            f"episodes {len(index)}; name artefacts of one run."
        )
    q, baseline = candidate_values(load_critic(critic_path), features, baseline=config.best_of_n.baseline)
    in_split = np.array([episode.split == config.split for episode in store], bool)
    rows = np.flatnonzero(in_split[index[:, 0]])
    chosen = best_of_n(
        q[rows], baseline[rows], proposals.valid[rows], config.best_of_n, proposals.log_prob[rows]
    )
    targets = {
        (int(index[row, 0]), int(index[row, 1])): proposals.action(int(row), int(choice))
        for row, choice in zip(rows[chosen.keep], chosen.choice[chosen.keep], strict=True)
    }
    considered = int(np.isfinite(chosen.advantage).sum())
    kept = chosen.advantage[chosen.keep]
    report = {
        "threshold": chosen.threshold,
        "mean_advantage_kept": float(kept.mean()) if len(kept) else None,
        "logged_share": float((chosen.choice[chosen.keep] == 0).mean()) if len(kept) else None,
    }
    return _Selection(targets, considered, report)


def _select_filtered_bc(store: LabelledEpisodes, config: DistillConfig) -> _Selection:
    targets: dict[tuple[int, int], Action] = {}
    considered = successes = 0
    for number, episode in enumerate(store):
        if episode.split != config.split:
            continue
        weights = step_weights(episode, config.filtered_bc)
        considered += len(weights)
        successes += any(weights)
        for t, weight in enumerate(weights):
            action = episode.steps[t].action
            if weight and action is not None:
                targets[number, t] = action
    return _Selection(targets, considered, {"successful_episodes": successes})


def _inputs(store: LabelledEpisodes, targets: dict[tuple[int, int], Action]) -> Iterator[PolicyInput]:
    """The observations of ``targets``, in their order, which is the episodes'."""
    for number, episode in enumerate(store):
        for t, step in enumerate(episode.steps):
            if (number, t) in targets:
                yield PolicyInput(decode_png(step.screenshot), step.goal)


def _groups(store: LabelledEpisodes, keys: Sequence[tuple[int, int]]) -> list[int]:
    """One number a row; an episode and its relabelled copies share one, as they show the same screens."""
    numbers: dict[str, int] = {}
    of_episode = [numbers.setdefault(e.episode_id.split("~g")[0], len(numbers)) for e in store]
    return [of_episode[number] for number, _ in keys]
