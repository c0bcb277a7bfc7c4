"""The interface of sources of candidates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from android_env.actions import Action
from digiq.policies.base import Candidate, PolicyInput


@dataclasses.dataclass(frozen=True, eq=False)
class StepInput(PolicyInput):
    """An observation with all that is known of it; for sources with ``reads_steps``, never for learned policies."""

    ui_elements: str = "[]"
    """As :attr:`digiq.data.schema.Step.ui_elements`."""
    extras: str = "{}"
    """As :attr:`digiq.data.schema.Step.extras`."""
    past: tuple[Action, ...] = ()
    """Previously executed actions, the latest last."""


def logged_candidate(action: Action | None) -> Candidate | None:
    """Candidate 0 if its probability is unknown."""
    return None if action is None else Candidate(action, math.nan)


@dataclasses.dataclass(frozen=True)
class Sourced(Candidate):
    """A candidate of mixed sources, which names its source."""

    source: str = ""


class Candidates(Protocol):
    """An opened source.

    If its ``reads_steps`` is true, it gets :class:`StepInput`. If it has a method ``report``, that is called after
    proposing and returns counts of what went wrong, by name; they go into the manifest.
    """

    def propose(
        self,
        inputs: Sequence[PolicyInput],
        logged: Sequence[Action | None],
        n: int,
        rngs: Sequence[np.random.Generator],
    ) -> list[list[Candidate | None]]:
        """Up to ``n`` candidates for each of B observations, the logged action first.

        Args:
          inputs: B observations.
          logged: the action executed at each, candidate 0; None, also in the result, if there was none.
          n: at least 1.
          rngs: one per observation, so that its candidates do not depend on draws for another.

        Returns:
          Candidates with their log-probabilities under the source: -inf for a logged action that it never proposes, NaN
          if the probability does not exist.
        """
        ...


class Source(Protocol):
    """A member of :data:`digiq.proposals.CANDIDATES`: a frozen config that opens the source.

    If its own fields name files or folders, it lists them in a property ``files`` (see :func:`files_of`).
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the artefacts that it reads: ``policy``, or none."""
        ...

    def open(self, paths: Mapping[str, Path]) -> Candidates:
        """Opens the source, once per run of the stage.

        Args:
          paths: paths of the artefacts named by ``reads``.
        """
        ...


def files_of(source: Source) -> Mapping[str, Path]:
    """Files and folders named by a source's own fields, each under a keyword. Their content is part of the artefact's
    identity, so the artefact is remade if they change."""
    return getattr(source, "files", {})
