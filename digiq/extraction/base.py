"""The inputs and outputs of extraction objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq.critics.critic import Baseline, baseline_of
from digiq.data.schema import Episode
from digiq.errors import ArtifactError
from digiq.proposals.propose import Proposals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Values:
    """Q and V of S states, with what is needed to interpret them."""

    q: npt.NDArray[np.float32] | None
    """[S, N], Q of every candidate; NaN for candidates that are missing or not scored. None if Q was not asked for."""
    v: npt.NDArray[np.float32]
    """[S]."""
    baseline: Baseline
    """The value that a candidate must beat, unless the objective says otherwise."""
    discount: float
    """γ."""
    bootstraps: bool
    """Whether an episode that ran out of steps ends with V of its last observation, or with 0."""
    deviation: npt.NDArray[np.float32] | None = None
    """[S, N], standard deviation of Q - V over the ensemble's members; None unless ``members`` was asked for."""

    def to_beat(self, baseline: Baseline | None = None) -> npt.NDArray[np.float32]:
        """[S], the value that a candidate must exceed; NaN where there is no such value."""
        assert self.q is not None
        return baseline_of(self.q, self.v, baseline or self.baseline)


@dataclasses.dataclass(frozen=True, kw_only=True)
class States:
    """S observations of E episodes, episode by episode in the order of their steps, with their data.

    Data that an objective did not ask for (:attr:`Extraction.needs`) are absent.
    """

    episode: npt.NDArray[np.int32]
    """[S], number of the episode in the run."""
    step: npt.NDArray[np.int32]
    """[S], number of the step; the states of an episode are its steps from the first on, without gaps."""
    group: npt.NDArray[np.int32]
    """[S], the episode; relabelled copies count as their original, because they show the same screens."""
    logged: tuple[Action | None, ...]
    """[S], the logged action; None at the end of an episode that ran out of steps."""
    reward: npt.NDArray[np.float64]
    """[S], reward of the logged action; 0 without one."""
    total: npt.NDArray[np.float64]
    """[S], undiscounted return of the whole episode."""
    terminated: npt.NDArray[np.bool_]
    """[S], whether the episode ended rather than ran out of steps."""
    proposals: Proposals | None = None
    """The N candidates of each state, if ``needs`` has ``proposals``."""
    values: Values | None = None
    """Their values, if ``needs`` has ``q`` or ``v``."""

    def __len__(self) -> int:
        return len(self.step)

    @property
    def acted(self) -> npt.NDArray[np.bool_]:
        """bool[S], where an action was logged."""
        return np.array([action is not None for action in self.logged], bool)

    def where(self, chosen: npt.NDArray[np.bool_]) -> States:
        """The states where ``chosen`` is true."""
        rows = np.flatnonzero(chosen)
        changes: dict[str, Any] = {"logged": tuple(self.logged[row] for row in rows)}
        for name in ("episode", "step", "group", "reward", "total", "terminated"):
            changes[name] = getattr(self, name)[rows]
        if self.proposals is not None:
            changes["proposals"] = self.proposals.at(rows)
        if self.values is not None:
            q = None if self.values.q is None else self.values.q[rows]
            spread = None if self.values.deviation is None else self.values.deviation[rows]
            changes["values"] = dataclasses.replace(self.values, q=q, v=self.values.v[rows], deviation=spread)
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What is imitated: K pairs of a state and an action. For soft targets, a state is repeated."""

    row: npt.NDArray[np.int64]
    """[K], index of the state."""
    action: list[Action]
    """[K], the action to imitate there."""
    weight: npt.NDArray[np.float64]
    """[K], at least 0."""
    considered: int
    """How many states could have been chosen."""
    report: dict[str, Any]
    """Numbers about the choice to record, by name; ``threshold`` if a candidate had to exceed one."""


class Extraction(Protocol):
    """A member of :data:`digiq.extraction.EXTRACTIONS`: a frozen config whose ``select`` does the work."""

    @property
    def needs(self) -> frozenset[str]:
        """A subset of ``proposals``, ``q``, ``v`` and ``members``; nothing else is read. ``q`` brings ``v`` and
        ``proposals`` with it; ``members`` (an ensemble's :attr:`Values.deviation`) brings ``q``."""
        ...

    def select(self, states: States, rng: np.random.Generator) -> Targets:
        """Chooses among the states that may be learned from."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen candidate at each of S states."""

    choice: npt.NDArray[np.int64]
    """[S], the candidate; -1 for none."""
    advantage: npt.NDArray[np.float64]
    """[S], its Q minus the baseline; -inf without a candidate or a baseline."""
    keep: npt.NDArray[np.bool_]
    """[S], whether it is imitated: whether its advantage is above ``threshold``."""
    threshold: float
    """In units of return, whatever the mode."""

    @property
    def share_kept(self) -> float:
        """Share of kept states among those with a candidate and a baseline; 0 if there are none."""
        eligible = np.isfinite(self.advantage).sum()
        return float(self.keep.sum() / eligible) if eligible else 0.0


@runtime_checkable
class Ranks(Protocol):
    """An objective that takes at most one candidate per state, if it is good enough; ``q-metrics`` can judge these."""

    @property
    def support(self) -> float:
        """Candidates less likely than this share of the likeliest one are never chosen, so they need no features."""
        ...

    def choose(self, states: States) -> Choice:
        """The candidate at each state."""
        ...


class ValueSource(Protocol):
    """A member of :data:`digiq.extraction.VALUES`."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the artefacts that it reads."""
        ...

    def read(self, states: States, needs: frozenset[str], paths: Mapping[str, Path], seed: int) -> Values:
        """The values of all states of a run.

        Args:
          states: all states, in the order of :func:`digiq.data.transitions.observation_index`, with their candidates
            if ``needs`` has ``proposals``.
          needs: what the objective needs.
          paths: the artefacts that ``reads`` names.
          seed: seed of random draws.

        Raises:
          ArtifactError: the artefacts belong to other states.
        """
        ...


def read_states(episodes: Iterable[Episode]) -> tuple[States, npt.NDArray[np.str_]]:
    """All states of labelled episodes in the order of ``observation_index``, and the split of each, in one pass."""
    groups: dict[str, int] = {}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("episode", "step", "group", "reward", "total", "terminated")
    }
    logged: list[Action | None] = []
    splits: list[str] = []
    for number, episode in enumerate(episodes):
        group = groups.setdefault(episode.source_id, len(groups))
        of_episode = {
            "episode": number,
            "group": group,
            "total": episode.total_reward,
            "terminated": episode.is_terminated,
        }
        for t, step in enumerate(episode.steps):
            if step.is_terminal:
                continue
            row = {**of_episode, "step": t, "reward": 0.0 if step.action is None else step.reward}
            for name, value in row.items():
                columns[name].append(value)
            logged.append(step.action)
            splits.append(episode.split)
    kinds: dict[str, Any] = {"reward": np.float64, "total": np.float64, "terminated": bool}
    arrays: dict[str, Any] = {
        name: np.array(column, kinds.get(name, np.int32)) for name, column in columns.items()
    }
    return States(**arrays, logged=tuple(logged)), np.array(splits, str)


def check_sizes(observations: Mapping[Path, int], expected: int) -> None:
    """Raises ArtifactError if an artefact holds another number of states than the episodes."""
    if set(observations.values()) - {expected}:
        found = ", ".join(f"{path} has {count} observations" for path, count in observations.items())
        raise ArtifactError(f"{found}, the episodes {expected}; name artefacts of one run.")
