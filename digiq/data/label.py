"""The ``label`` stage: which reward every executed action gets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import Label, write_labels
from digiq.data.store import EpisodeStore
from digiq.errors import DigiQError

STAGE, VERSION = "label", 1


@configclass
class LabelConfig:
    """Where rewards and negatives come from."""

    negatives: Literal["none", "other_goals"] = "none"
    """``other_goals`` adds each episode again under goals of other episodes of its split, with reward 0: needed
    where every episode ends in success."""
    copies: Annotated[int, Field(ge=1)] = 1
    """Copies an episode under ``other_goals``."""
    shuffle: bool = False
    """Deal the episodes' outcomes out again at random, within each split: a control. Which episode succeeded is lost;
    when each one ended is not, and where success ends an episode that still says something of it."""
    seed: int = 0
    """Chooses the other goals, and shuffles."""


def run(config: LabelConfig, *, episodes: Path, out: Path, overwrite: bool = False) -> Artifact:
    """Writes the recorded rewards and, where asked, the negatives.

    Raises:
      DigiQError: ``other_goals`` with a split whose episodes share one goal.
    """
    inputs = {"episodes": episodes}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        store = EpisodeStore(episodes)
        labels = [
            Label(
                episode_id=episode.episode_id,
                source_id=episode.episode_id,
                goal=None,
                rewards=tuple(step.reward for step in episode.steps[:-1]),
                provenance="recorded",
            )
            for episode in store
        ]
        if config.shuffle:
            labels = shuffled(labels, [episode.split for episode in store], config.seed)
        positives = sum(sum(label.rewards) > 0 for label in labels)
        if config.negatives == "other_goals":
            labels += _other_goals(store, config)
        write_labels(w.path, labels)
        return w.complete(counts={"episodes": len(labels), "recorded": len(store), "successes": positives})


def shuffled(labels: Sequence[Label], splits: Sequence[str], seed: int) -> list[Label]:
    """The labels with their total rewards permuted within each split, all paid with the last action.

    Args:
      labels: one an episode.
      splits: of the same episodes.
      seed: of the permutation.
    """
    rng = np.random.default_rng(seed)
    totals = np.array([sum(label.rewards) for label in labels])
    for split in sorted(set(splits)):
        members = np.flatnonzero([s == split for s in splits])
        totals[members] = totals[rng.permutation(members)]
    return [
        dataclasses.replace(
            label,
            rewards=(*(0.0,) * (len(label.rewards) - 1), float(total))[: len(label.rewards)],
            provenance="shuffled",
        )
        for label, total in zip(labels, totals, strict=True)
    ]


def _other_goals(store: EpisodeStore, config: LabelConfig) -> list[Label]:
    """Copies under goals drawn without replacement from the same split, so nothing crosses into a held-out app."""
    rng = np.random.default_rng(config.seed)
    goals: dict[str, list[str]] = {}
    for episode in store:
        group = goals.setdefault(episode.split, [])
        if episode.goal not in group:
            group.append(episode.goal)
    labels = []
    for episode in store:
        others = [goal for goal in goals[episode.split] if goal != episode.goal]
        if not others:
            raise DigiQError(
                f"{store.path}: all episodes of split '{episode.split}' share one goal, so label.negatives: "
                "other_goals has none to offer; use label.negatives: none."
            )
        chosen = rng.permutation(len(others))[: config.copies]
        for k, index in enumerate(chosen, start=1):
            labels.append(
                Label(
                    episode_id=f"{episode.episode_id}~g{k}",
                    source_id=episode.episode_id,
                    goal=others[index],
                    rewards=(0.0,) * episode.num_actions,
                    provenance="other_goals",
                )
            )
    return labels
