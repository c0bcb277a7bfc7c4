"""Several sources in turn."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typing_extensions import Doc

from android_env.actions import Action
from digiq.config import configclass, load
from digiq.errors import ConfigError
from digiq.policies.base import Candidate, PolicyInput
from digiq.proposals.base import Candidates, Sourced, files_of
from digiq.tables import json_argument

_Parts = Annotated[
    dict[str, dict[str, Any]],
    json_argument,
    Doc(
        "The settings of each source by name, in the order of their turns, such as {policy: {}, elements: {}}."
    ),
]


@configclass
class Mix:
    """The sources take turns, each adding a candidate that is not there yet, until there are enough."""

    parts: _Parts = dataclasses.field(
        default_factory=lambda: {"recorded": {}, "elements": {}, "perturbed": {}}, hash=False
    )

    @property
    def sources(self) -> dict[str, Any]:
        """Members of :data:`digiq.proposals.CANDIDATES` by name.

        Raises:
          ConfigError: there is no such source, its settings do not fit, or it is a mix.
        """
        from digiq.proposals import CANDIDATES

        found: dict[str, Any] = {}
        for name, settings in self.parts.items():
            if name == "mix" or (name not in CANDIDATES and ":" not in name):
                known = ", ".join(other for other in CANDIDATES if other != "mix")
                raise ConfigError(f"mix.parts: '{name}' is not a source to mix; use one of: {known}.")
            where = f"mix.parts.{name}"
            member: Any = CANDIDATES.get(name)
            found[name] = (
                CANDIDATES.own(name, settings) if member is None else load(member, settings, where=where)
            )
        if not found:
            raise ConfigError("mix.parts: names no source; name at least one.")
        return found

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(read for source in self.sources.values() for read in source.reads))

    @property
    def files(self) -> Mapping[str, Path]:
        return {
            f"{name}_{word}": path
            for name, source in self.sources.items()
            for word, path in files_of(source).items()
        }

    def open(self, paths: Mapping[str, Path]) -> "Mixer":
        """See :class:`digiq.proposals.base.Source`."""
        return Mixer({name: source.open(paths) for name, source in self.sources.items()})


@dataclasses.dataclass(frozen=True)
class Mixer:
    """Opened sources that take turns; each candidate names its source. Log-probabilities are the source's own."""

    sources: Mapping[str, Candidates]
    reads_steps: bool = True

    def propose(
        self,
        inputs: Sequence[PolicyInput],
        logged: Sequence[Action | None],
        n: int,
        rngs: Sequence[np.random.Generator],
    ) -> list[list[Candidate | None]]:
        """See :class:`digiq.proposals.base.Candidates`."""
        plain = [PolicyInput(seen.screenshot, seen.goal) for seen in inputs]
        # Each source draws from its own stream, so that adding one leaves the others' draws unchanged.
        seeds = [[int(s) for s in rng.integers(2**63, size=2)] for rng in rngs]
        offered = []
        for place, (name, source) in enumerate(self.sources.items()):
            own = [np.random.default_rng([*seed, place]) for seed in seeds]
            shown = inputs if getattr(source, "reads_steps", False) else plain
            offered.append([(name, row) for row in source.propose(shown, logged, n, own)])
        return [_taken(list(rows), n) for rows in zip(*offered, strict=True)]

    def report(self) -> dict[str, int]:
        """The sources' counts, summed."""
        total: dict[str, int] = {}
        for source in self.sources.values():
            if report := getattr(source, "report", None):
                for what, number in report().items():
                    total[what] = total.get(what, 0) + number
        return total


def _taken(rows: list[tuple[str, list[Candidate | None]]], n: int) -> list[Candidate | None]:
    known = [row[0] for _, row in rows if row[0] is not None]
    # The logged action's probability is that of the first source that knows it.
    first = next((c for c in known if c.log_prob == c.log_prob), known[0] if known else None)
    kept: list[Candidate | None] = [
        None if first is None else Sourced(first.action, first.log_prob, "logged")
    ]
    there = {first.action} if first else set[Action]()
    for turn in itertools.zip_longest(*(row[1:] for _, row in rows)):
        for (name, _), candidate in zip(rows, turn, strict=True):
            if candidate is not None and candidate.action not in there and len(kept) < n:
                there.add(candidate.action)
                kept.append(Sourced(candidate.action, candidate.log_prob, name))
    return kept
