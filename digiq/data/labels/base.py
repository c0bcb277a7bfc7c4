"""What a source of rewards is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from digiq.data.rewards import Label
from digiq.data.schema import Episode


class Labels(Protocol):
    """A config class whose fields are its settings."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label]:
        """One label a recorded episode, in their order, then those of copies under other goals, if it makes any.

        Args:
          episodes: as recorded. :func:`digiq.data.transitions.outlines_of` says what was paid without reading screens.

        Raises:
          DigiQError: these episodes cannot be labelled so.
        """
        ...
