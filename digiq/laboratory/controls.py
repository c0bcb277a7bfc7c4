"""Controls: values from elsewhere than a critic, for studies. Recipes name them as members of their own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from digiq import artifacts
from digiq.config import configclass, load
from digiq.extraction.base import States, Values, check_sizes
from digiq.laboratory.exact_values import ExactValuesConfig
from digiq.proposals.values import load_exact


@configclass
class ExactValues:
    """The simulator's own Q* and V*, the ceiling of every critic."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("exact",)

    def read(self, states: States, needs: frozenset[str], paths: Mapping[str, Path], seed: int) -> Values:
        """See :class:`digiq.extraction.base.ValueSource`.

        V* is the best action's, which no candidate beats, so unless told otherwise the candidates' mean is the
        baseline: candidates are draws of the behaviour policy.
        """
        exact = load_exact(paths["exact"])
        check_sizes({paths["exact"]: len(exact["best_q"])}, len(states))
        config = load(
            ExactValuesConfig,
            artifacts.open(paths["exact"]).manifest.config,
            where=str(paths["exact"]),
            recorded=True,
        )
        return Values(
            q=exact["best_q"].astype(np.float32),
            v=exact["best_v"].astype(np.float32),
            baseline="candidate_mean",
            discount=config.discount,
            bootstraps=False,
        )


@configclass
class RandomValues:
    """Chance: Q uniform in [0, 1), V its mean. A method that does as well with it has learned nothing from its critic."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def read(self, states: States, needs: frozenset[str], paths: Mapping[str, Path], seed: int) -> Values:
        """See :class:`digiq.extraction.base.ValueSource`."""
        q = None
        if "q" in needs:
            assert states.proposals is not None
            q = np.random.default_rng([seed, 7]).random(states.proposals.valid.shape, np.float32)
        return Values(
            q=q, v=np.full(len(states), 0.5, np.float32), baseline="v", discount=1.0, bootstraps=False
        )
