"""What a source of rewards is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from digiq.data.rewards import Label
from digiq.data.schema import Episode


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """An episode about which there is no answer, which is no failure of it: later stages do not see it."""

    episode_id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Spent:
    """What the labelling took, such as calls and tokens; comes last, into the manifest's counts."""

    counts: Mapping[str, int]


class Labels(Protocol):
    """A config class whose fields are its settings."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label | Unlabelled | Spent]:
        """One label a recorded episode, in their order, then those of copies under other goals, if it makes any. In the
        place of a label, why there is none.

        Args:
          episodes: as recorded. :func:`digiq.data.transitions.outlines_of` says what was paid without reading screens.

        Raises:
          DigiQError: these episodes cannot be labelled so.
        """
        ...
