"""What an importer is: it says what there is to read, and reads it. The stage stores, resumes, counts and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from digiq.data.schema import Episode
from digiq.errors import DigiQError


class BadEpisode(DigiQError):
    """A part of the source that cannot be used; the message names file, episode and field, and what to do."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An episode found in the source; made only if it is not stored yet, because screens take their time."""

    episode_id: str
    make: Callable[[], Episode]
    """Of this id, with split and outcome; may raise :class:`BadEpisode`."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    """What was mended or left out on the way, such as ``clamped`` coordinates; the stage adds it up."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """What there is to read."""

    parts: Sequence[Any]
    """Usually files, in the order they are read; ``str(part)`` says in errors where an episode is."""
    missing: Sequence[Any] = ()
    """Parts that should be there and are not."""
    ignored: int = 0
    """What lies beside them and is not read, such as what an interrupted download left."""


class Importer(Protocol):
    """A config class whose fields say where the recordings are and how they become episodes."""

    def find(self) -> Sources:
        """Looks at the source without reading it; also asked before a recipe's first stage starts.

        Raises:
          DigiQError: nothing is there, or the settings do not fit it.
        """
        ...

    def read(self, part: Any) -> Iterator[Entry | BadEpisode]:
        """The episodes of a part in order, and, in the place of those that cannot be used, why."""
        ...
