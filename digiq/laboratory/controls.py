"""Controls: members that know nothing, or more than they may, for studies. Recipes name them as members of their own."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from digiq.config import configclass
from digiq.data.labels.outcome import Outcome
from digiq.data.rewards import Label
from digiq.data.schema import Episode
from digiq.data.transitions import outlines_of


@configclass
class ShuffledOutcomes:
    """The episodes' outcomes dealt out again at random, within each split. Which episode succeeded is lost; when each one
    ended is not, and where success ends an episode that still says something of it."""

    seed: int = 0
    """Of the dealing."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label]:
        """Total rewards permuted within each split, all paid with the last action."""
        labels = list(Outcome().rewards(episodes))
        splits = np.array([episode.split for episode in outlines_of(episodes)])
        rng = np.random.default_rng(self.seed)
        totals = np.array([sum(label.rewards) for label in labels])
        for split in sorted(set(splits)):
            members = np.flatnonzero(splits == split)
            totals[members] = totals[rng.permutation(members)]
        for label, total in zip(labels, totals, strict=True):
            paid = (*(0.0,) * (len(label.rewards) - 1), float(total))[: len(label.rewards)]
            yield dataclasses.replace(label, rewards=paid, provenance="shuffled")
