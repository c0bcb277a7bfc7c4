"""Failures made from successes: the same screens under another episode's goal, with reward 0."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from digiq.config import configclass
from digiq.data.labels.outcome import Outcome
from digiq.data.rewards import Label
from digiq.data.schema import Episode
from digiq.data.transitions import outlines_of
from digiq.errors import DigiQError


@configclass
class OtherGoals:
    """Recorded rewards, plus copies of each episode under goals of other episodes of its split, with reward 0. Needed
    where every episode ends in success."""

    copies: Annotated[int, Field(ge=1)] = 1
    """Copies per episode."""
    seed: int = 0
    """Seed for choosing the goals."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label]:
        """Goals are drawn without replacement from the same split, so nothing leaks into a held-out app."""
        yield from Outcome().rewards(episodes)
        rng = np.random.default_rng(self.seed)
        goals: dict[str, list[str]] = {}
        for episode in outlines_of(episodes):
            group = goals.setdefault(episode.split, [])
            if episode.goal not in group:
                group.append(episode.goal)
        for episode in outlines_of(episodes):
            others = [goal for goal in goals[episode.split] if goal != episode.goal]
            if not others:
                raise DigiQError(
                    f"label: all episodes of split '{episode.split}' share one goal, so source: other_goals has none to "
                    "offer; use source: outcome."
                )
            chosen: list[int] = rng.permutation(len(others))[: self.copies].tolist()
            for k, index in enumerate(chosen, start=1):
                yield Label(
                    episode_id=f"{episode.episode_id}~g{k}",
                    source_id=episode.episode_id,
                    goal=others[index],
                    rewards=(0.0,) * episode.num_actions,
                    provenance="other_goals",
                )
