"""The interface of an importer, which finds recordings and reads them. The stage does the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from digiq.data.schema import Episode
from digiq.errors import DigiQError


class BadEpisode(DigiQError):
    """A part of the source that cannot be used; the message names the file, episode and field, and says what to do."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An episode found in the source; made only if it is not stored yet, because screens take time."""

    episode_id: str
    make: Callable[[], Episode]
    """Makes the episode of this id, with split and outcome; may raise :class:`BadEpisode`."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    """What was repaired or left out on the way, such as ``clamped`` coordinates; the stage adds it up."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """What there is to read."""

    parts: Sequence[Any]
    """Usually files, in the order they are read; error messages use ``str(part)`` to say where an episode is."""
    missing: Sequence[Any] = ()
    """Parts that should be there but are not."""
    ignored: int = 0
    """Number of files beside them that are not read, such as the remains of an interrupted download."""


class Importer(Protocol):
    """A config class whose fields say where the recordings are (the first one) and how they become episodes."""

    def find(self) -> Sources:
        """Looks at the source without reading it; also asked before a recipe's first stage starts.

        Raises:
          DigiQError: nothing is there, or the settings do not fit it.
        """
        ...

    def read(self, part: Any) -> Iterator[Entry | BadEpisode]:
        """The episodes of a part, in order; for one that cannot be used, the reason in its place."""
        ...
