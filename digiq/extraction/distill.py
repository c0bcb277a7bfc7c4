"""The ``distill`` stage: a policy that imitates what an objective selects, for one arm of a comparison.

Every arm runs the same fitting for the same number of updates from the same start, so arms differ in the imitated rows
alone.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from android_env.actions import Action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.critics.critic import candidate_values, load_critic, state_values
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.data.transitions import observation_index
from digiq.errors import ArtifactError, DigiQError
from digiq.extraction.best_of_n import BestOfNConfig, best_of_n
from digiq.extraction.digirl import DigiRLConfig, best_trajectories, step_advantages
from digiq.extraction.filtered_bc import FilteredBCConfig, step_weights
from digiq.features.extract import open_features
from digiq.policies.base import PolicyInput, load_policy
from digiq.policies.fit import FitConfig, fit_policy, metrics_writer
from digiq.policies.grid import GridPolicy
from digiq.proposals.propose import load_proposals
from digiq.proposals.values import load_exact

STAGE, VERSION = "distill", 1
LEAST_SHARE = 0.05
"""Below this share of kept states a warning is given: so few rows seldom carry a policy."""


@configclass
class DistillFitConfig(FitConfig):
    """Fitting to few rows, from a policy that was fitted to many.

    Nothing is held out: the start imitates the same kind of rows already, so the held-out loss of a better policy is
    seldom lower than the start's.
    """

    # A class of its own: with another default of FitConfig, naming one setting would change the others.
    updates: Annotated[int, Field(ge=1)] = 600
    """Optimiser steps; the same number for every arm makes a comparison fair."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """Peak of Muon's cosine schedule."""
    shift: Annotated[int, Field(ge=0)] = 16
    """Screens are moved by up to this many input pixels each way, the touched point with them. With much less than two
    touch cells the policy learns where on the screen things stood in the few rows."""
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the groups (episodes) kept out of training; the parameters of least held-out loss are returned."""


@configclass
class DistillConfig:
    """One arm."""

    arm: Literal["digiq", "filtered_bc", "digirl"] = "digiq"
    """``digiq`` is Best-of-N, ``digirl`` the logged steps that DigiRL's offline filter lets through."""
    values: Literal["critic", "exact", "random"] = "critic"
    """What ranks the candidates of ``digiq``: the learned critic; the simulator's own Q and V, the ceiling of every
    critic; or chance, a control."""
    init: Literal["behavior", "scratch"] = "behavior"
    """Start from the behaviour policy's parameters, or from fresh ones."""
    best_of_n: BestOfNConfig = BestOfNConfig()
    """Of the arm ``digiq``."""
    filtered_bc: FilteredBCConfig = FilteredBCConfig()
    """Of the arm ``filtered_bc``."""
    digirl: DigiRLConfig = DigiRLConfig()
    """Of the arm ``digirl``."""
    fit: DistillFitConfig = DistillFitConfig()
    """The fitting."""
    split: str = "train"
    """Only episodes of this split are learned from."""
    seed: int = 0
    """Of fresh parameters, and of ``values: random``."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the arm needs beside episodes, rewards and the behaviour policy."""
        if self.arm == "filtered_bc":
            return ()
        if self.arm == "digirl":
            return ("features", "critic")
        of_values = {"critic": ("features", "critic"), "exact": ("exact",), "random": ()}
        return ("proposals", *of_values[self.values])


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
    exact: Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Fits the arm's policy; ``out`` opens with ``load_policy``.

    Which of ``proposals``, ``features``, ``critic`` and ``exact`` are read, ``config.reads`` says.

    Raises:
      DigiQError: an input the arm needs is not given, inputs of different runs, or nothing is selected.
    """
    used = {"behavior": behavior, "episodes": episodes, "rewards": rewards}
    given = {"proposals": proposals, "features": features, "critic": critic, "exact": exact}
    for name in config.reads:
        if given[name] is None:
            raise DigiQError(f"distill: the arm '{config.arm}' needs --{name}.")
        used[name] = given[name]
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=used, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        store = LabelledEpisodes(episodes, rewards)
        read = {name: path for name, path in used.items() if name in config.reads and path is not None}
        select = {"digiq": _select_best_of_n, "digirl": _select_digirl, "filtered_bc": _select_filtered_bc}
        selection = select[config.arm](store, config, **read)
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
    config: DistillConfig,
    *,
    proposals: Path,
    features: Path | None = None,
    critic: Path | None = None,
    exact: Path | None = None,
) -> _Selection:
    stored = load_proposals(proposals)
    index = observation_index(store)
    if features is not None and critic is not None:
        opened = open_features(features)
        sizes = {proposals: len(stored), features: len(opened.candidate_row)}
        _check_sizes(sizes, len(index))
        q, baseline = candidate_values(load_critic(critic), opened, baseline=config.best_of_n.baseline)
    elif exact is not None:
        q, baseline = _exact_values(exact, config.best_of_n.baseline)
        _check_sizes({proposals: len(stored), exact: len(q)}, len(index))
    else:
        _check_sizes({proposals: len(stored)}, len(index))
        rng = np.random.default_rng([config.seed, 7])
        q = rng.random(stored.valid.shape, np.float32)
        baseline = np.full(len(q), 0.5, np.float32)
    in_split = np.array([episode.split == config.split for episode in store], bool)
    rows = np.flatnonzero(in_split[index[:, 0]])
    chosen = best_of_n(q[rows], baseline[rows], stored.valid[rows], config.best_of_n, stored.log_prob[rows])
    targets = {
        (int(index[row, 0]), int(index[row, 1])): stored.action(int(row), int(choice))
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


def _exact_values(path: Path, baseline: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Q* of every candidate, float32[S, N], and the value to beat, float32[S]; NaN where nothing is known.

    V* is the best action's, which no candidate beats, so unless told otherwise the candidates' mean is the baseline:
    candidates are draws of the behaviour policy.
    """
    exact = load_exact(path)
    q, v = exact["best_q"].astype(np.float32), exact["best_v"].astype(np.float32)
    if baseline == "v":
        return q, v
    if baseline == "logged":
        return q, q[:, 0]
    known = ~np.isnan(q)
    mean = np.where(known, q, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return q, np.where(known.any(axis=1), mean, np.nan).astype(np.float32)


def _check_sizes(observations: dict[Path, int], expected: int) -> None:
    if set(observations.values()) != {expected}:
        found = ", ".join(f"{path} has {count} observations" for path, count in observations.items())
        raise ArtifactError(f"{found}, the episodes {expected}; name artefacts of one run.")


def _select_digirl(
    store: LabelledEpisodes, config: DistillConfig, *, features: Path, critic: Path
) -> _Selection:
    opened, learned = open_features(features), load_critic(critic)
    index = observation_index(store)
    _check_sizes({features: len(opened.candidate_row)}, len(index))
    v = state_values(learned, opened).astype(np.float64)
    first_row = {int(e): row for row, (e, t) in reversed(list(enumerate(index))) if t == 0}
    episodes = [(n, episode) for n, episode in enumerate(store) if episode.split == config.split]
    returns = np.array([episode.total_reward for _, episode in episodes])
    first_values = np.array([v[first_row[n]] for n, _ in episodes])
    looked_at = best_trajectories(returns, first_values, config.digirl.trajectories)
    targets: dict[tuple[int, int], Action] = {}
    considered = 0
    for (number, episode), good in zip(episodes, looked_at, strict=True):
        count, start = episode.num_actions, first_row[number]
        considered += count
        # Running out of steps ends in value 0 unless the critic bootstraps; an end has no observation of its own.
        goes_on = not episode.is_terminated and learned.config.timeout == "bootstrap"
        after = v[start + count] if goes_on else 0.0
        rewards = np.array([step.reward for step in episode.steps[:count]])
        advantages = step_advantages(
            rewards, np.append(v[start : start + count], after), config.digirl.decay, learned.config.gamma
        )
        for t in np.flatnonzero(good & (advantages > config.digirl.threshold)):
            action = episode.steps[t].action
            if action is not None:
                targets[number, int(t)] = action
    return _Selection(targets, considered, {"trajectories": int(looked_at.sum())})


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
