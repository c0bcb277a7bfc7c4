"""Filtered behaviour cloning: imitate every logged action of the episodes that succeeded, and nothing else."""

from typing import Annotated

from pydantic import Field

from digiq.config import configclass
from digiq.data.schema import Episode


@configclass
class FilteredBCConfig:
    """Which episodes count as successes."""

    min_return: Annotated[float, Field(gt=0)] = 0.5
    """Least undiscounted return of an imitated episode."""


def step_weights(episode: Episode, config: FilteredBCConfig) -> list[float]:
    """One weight an executed action: 1 in an episode that succeeded, else 0."""
    return [float(episode.total_reward >= config.min_return)] * episode.num_actions
