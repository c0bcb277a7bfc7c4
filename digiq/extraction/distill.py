"""The ``distill`` stage: a policy that imitates what an objective selects, for one arm of a comparison.

Every arm runs the same fit, with the same updates and the same start, so arms differ only in the imitated rows.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.errors import DigiQError
from digiq.extraction import EXTRACTIONS, VALUES
from digiq.extraction.base import Ranks, States, Targets, ValueSource, check_sizes, read_states
from digiq.policies import REFITTINGS
from digiq.policies.base import PolicyInput, Row, load_policy
from digiq.policies.divergence import divergence
from digiq.policies.fit import FITTING, metrics_writer
from digiq.policies.fitting import FitConfig
from digiq.proposals.propose import load_proposals
from digiq.tables import chosen_from

STAGE, VERSION = "distill", 1
LEAST_SHARE = 0.05
"""A smaller share of kept states gives a warning: so few rows seldom improve a policy."""
MOST_SHARE = 0.95
"""A gate that keeps a larger share is reported as no gate: it imitates the best candidate, good or bad."""
_SELECTING, _LOOKING = (
    8,
    9,
)  # seeds, with the stage's, of the objective's draws and of the final sample of states
_LOOKED_AT = 128  # states over which entropy and divergence are averaged


@configclass
class DistillFitConfig(chosen_from(REFITTINGS, default="grid", field="policy"), FitConfig):
    """Fitting to few rows, starting from a policy that was fitted to many.

    Nothing is held out: the start already imitates the same kind of rows, so the held-out loss of a better policy is
    seldom lower than that of the start.
    """

    # A separate class: with another default instance of FitConfig, naming one setting would change the others.
    updates: Annotated[int, Field(ge=1)] = 600
    """Optimiser steps; the same number for every arm makes a comparison fair."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """Peak learning rate of the cosine schedule."""
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of groups (episodes) held out of training; the parameters with the lowest held-out loss are returned."""


@configclass
class ValuesConfig(chosen_from(VALUES, default="critic")):
    """The source of the Q and V that the objective needs."""


@configclass
class DistillConfig(chosen_from(EXTRACTIONS, default="best_of_n")):
    """One arm: what it imitates, and how it is fitted."""

    values: ValuesConfig = ValuesConfig()
    """What ranks candidates and values states; by default the learned critic. ``digiq.laboratory.controls:ExactValues``
    and ``:RandomValues`` are controls."""
    init: Literal["behavior", "scratch"] = "behavior"
    """Start from the behaviour policy's parameters, or from fresh ones."""
    fit: DistillFitConfig = DistillFitConfig()
    """How the policy is fitted."""
    split: str = "train"
    """Learn only from episodes of this split."""
    seed: int = 0
    """Seed of fresh parameters, and of the draws of objectives and sources of values."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the arm needs besides episodes, rewards and the behaviour policy."""
        needs = self.chosen.needs
        candidates = ("proposals",) if needs & {"proposals", "q"} else ()
        return (*candidates, *(self.values.chosen.reads if needs & {"q", "v"} else ()))


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

    ``config.reads`` names which of ``proposals``, ``features``, ``critic`` and ``exact`` are read.

    Raises:
      DigiQError: an input that the objective needs is not given, inputs are of different runs, or nothing is selected.
    """
    objective = config.chosen
    used = {"behavior": behavior, "episodes": episodes, "rewards": rewards}
    given = {"proposals": proposals, "features": features, "critic": critic, "exact": exact}
    read: dict[str, Path] = {}
    for name in config.reads:
        path = given.get(name)
        if path is None:
            raise DigiQError(f"distill: the objective '{config.choice}' needs --{name}.")
        read[name] = path
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=used | read, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        store = LabelledEpisodes(episodes, rewards)
        states, splits = read_states(store)
        states = fill(states, objective.needs, config.values.chosen, read, config.seed)
        states = states.where(splits == config.split)
        targets = objective.select(states, np.random.default_rng([config.seed, _SELECTING]))
        selected = len(np.unique(targets.row))
        share = selected / max(targets.considered, 1)
        if not selected:
            raise DigiQError(
                f"distill: the objective '{config.choice}' selects none of {targets.considered} states; lower the "
                "threshold, or collect episodes that succeed."
            )
        if share < LEAST_SHARE:
            warnings.warn(
                f"distill: the objective '{config.choice}' keeps {share:.1%} of {targets.considered} states; a policy "
                "fitted to so few seldom improves, so lower the threshold or collect more.",
                stacklevel=2,
            )
        ranks = isinstance(objective, Ranks)
        if ranks and share > MOST_SHARE:
            warnings.warn(
                f"distill: the gate of '{config.choice}' keeps {share:.1%} of {targets.considered} states, so it "
                "filters almost nothing; with these values use another objective (see its docstring).",
                stacklevel=2,
            )
        start = original = load_policy(behavior)
        if config.init == "scratch":
            start = start.config.create(config.seed)
        policy = start.fit(
            _rows(store, states, targets),
            config.fit,
            metrics_writer(writer.path / "metrics.jsonl"),
            description=f"distill {config.choice}",
            resume=writer.path / FITTING,
        )
        policy.save(writer.path)
        moved = divergence(policy, original, _some_inputs(store, states, config.seed), seed=config.seed)
        report = {
            "arm": config.choice,
            "needs": sorted(objective.needs),
            "share_kept": share,
            "entropy": moved.entropy,
            "kl_to_behavior": moved.kl,
            **({"gate": "none" if share > MOST_SHARE else "some"} if ranks else {}),
            **targets.report,
        }
        artifacts.atomic_write_json(writer.path / "selection.json", report)
        return writer.complete(counts={"selected": selected, "considered": targets.considered}, extra=report)


def fill(
    states: States, needs: frozenset[str], source: ValueSource, paths: Mapping[str, Path], seed: int
) -> States:
    """All states of a run, with only those candidates and values that the objective needs.

    Raises:
      ArtifactError: the artefacts belong to other states.
    """
    if needs & {"proposals", "q"}:
        proposals = load_proposals(paths["proposals"])
        check_sizes({paths["proposals"]: len(proposals)}, len(states))
        states = dataclasses.replace(states, proposals=proposals)
    if needs & {"q", "v"}:
        states = dataclasses.replace(states, values=source.read(states, needs, paths, seed))
    return states


def _some_inputs(store: LabelledEpisodes, states: States, seed: int) -> list[PolicyInput]:
    """A random sample of the states that could have been imitated, in their order."""
    count = min(_LOOKED_AT, len(states))
    drawn = np.sort(np.random.default_rng([seed, _LOOKING]).choice(len(states), count, replace=False))
    steps = [store[int(states.episode[row])].steps[states.step[row]] for row in drawn]
    return [PolicyInput(decode_png(step.screenshot), step.goal) for step in steps]


def _rows(store: LabelledEpisodes, states: States, targets: Targets) -> Iterator[Row]:
    """The targets by state; each episode is read once, and screenshots are decoded on demand."""
    order = np.argsort(targets.row, kind="stable")
    for number, of_episode in itertools.groupby(order, lambda k: int(states.episode[targets.row[k]])):
        steps = store[number].steps
        for k in of_episode:
            row = targets.row[k]
            step = steps[states.step[row]]
            shown = PolicyInput(decode_png(step.screenshot), step.goal)
            yield Row(shown, targets.action[k], float(targets.weight[k]), int(states.group[row]))
