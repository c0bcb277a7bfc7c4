"""What sources of candidates are asked for."""

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
    """An observation with what else is known of it: for sources that say ``reads_steps``, and for no learned policy."""

    ui_elements: str = "[]"
    """As :attr:`digiq.data.schema.Step.ui_elements`."""
    extras: str = "{}"
    """As :attr:`digiq.data.schema.Step.extras`."""
    past: tuple[Action, ...] = ()
    """Actions executed before, the latest last."""


def logged_candidate(action: Action | None) -> Candidate | None:
    """Candidate 0 where nobody knows its probability."""
    return None if action is None else Candidate(action, math.nan)


@dataclasses.dataclass(frozen=True)
class Sourced(Candidate):
    """A candidate that says where it comes from, where sources are mixed."""

    source: str = ""


class Candidates(Protocol):
    """An opened source.

    One whose ``reads_steps`` is true is given :class:`StepInput`. One that has a method ``report`` is asked, when it has
    proposed, for counts of what went wrong, by name; they come into the manifest.
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
          logged: the action executed at each, candidate 0; None, also in the result, where none was.
          n: at least 1.
          rngs: one each; an observation's candidates depend on nothing drawn for another.

        Returns:
          Candidates with their log-probabilities under whatever proposes them: -inf for a logged action that it never
          makes, NaN where there is no such probability.
        """
        ...


class Source(Protocol):
    """A member of :data:`digiq.proposals.CANDIDATES`: a frozen config that opens what it proposes from.

    One whose own fields name files or folders says so in a property ``files`` (see :func:`files_of`).
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the artefacts that it reads: ``policy`` or nothing."""
        ...

    def open(self, paths: Mapping[str, Path]) -> Candidates:
        """Opens what it reads, once a run of the stage.

        Args:
          paths: of the artefacts that ``reads`` names.
        """
        ...


def files_of(source: Source) -> Mapping[str, Path]:
    """Files and folders that a source's own fields name, by a word for each: what they hold is a part of what is made, so
    that an artefact is made anew where they have changed."""
    return getattr(source, "files", {})
