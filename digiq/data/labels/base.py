"""The interface of a source of rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from digiq.data.rewards import Label
from digiq.data.schema import Episode


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """An episode without an answer. That does not make it a failure; later stages do not see it."""

    episode_id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Spent:
    """What the labelling used, such as calls and tokens; comes last and is added to the manifest's counts."""

    counts: Mapping[str, int]


class Labels(Protocol):
    """A config class whose fields are its settings."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label | Unlabelled | Spent]:
        """One label per recorded episode, in order, then those of copies under other goals, if it makes any. Where
        there is no label, the reason takes its place.

        Args:
          episodes: as recorded. :func:`digiq.data.transitions.outlines_of` gives their rewards without reading screens.

        Raises:
          DigiQError: these episodes cannot be labelled this way.
        """
        ...
