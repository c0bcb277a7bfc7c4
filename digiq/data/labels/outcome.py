"""Labels from the recording itself: the rewards that the device or importer gave."""

from collections.abc import Iterator, Sequence

from digiq.config import configclass
from digiq.data.rewards import Label
from digiq.data.schema import Episode
from digiq.data.transitions import outlines_of


@configclass
class Outcome:
    """Recorded rewards, unchanged."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label]:
        for episode in outlines_of(episodes):
            yield Label(
                episode_id=episode.episode_id,
                source_id=episode.episode_id,
                goal=None,
                rewards=episode.rewards,
                provenance="recorded",
            )
