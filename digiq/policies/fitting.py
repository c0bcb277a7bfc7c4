"""How a policy of any kind is fitted. Kinds may import this module, but not the stage, which imports them."""

import dataclasses
import math
from typing import Annotated, Self

from pydantic import Field

from digiq.config import configclass
from digiq.policies import FITTINGS
from digiq.tables import chosen_from


@configclass
class FitConfig(chosen_from(FITTINGS, default="grid", field="policy")):
    """How a policy is fitted. Settings that only one kind of policy has stand under its name."""

    updates: Annotated[int, Field(ge=1)] = 1000
    """Optimiser steps; the same number for every arm makes a comparison fair."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the rows, instead of ``updates``; the fit then takes longer on more data."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows per update, drawn with replacement."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Peak learning rate of the cosine schedule."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the updates over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest global norm of a gradient."""
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of groups (episodes) held out of training; the parameters with the lowest held-out loss are returned."""
    evaluate_every: Annotated[int, Field(ge=1)] = 100
    """Updates between evaluations of the held-out loss."""
    seed: int = 0
    """Seed of the held-out choice, the batches and the augmentation."""

    def for_rows(self, count: int) -> Self:
        """This config for ``count`` rows: ``epochs``, if given, sets ``updates``."""
        if self.epochs is None:
            return self
        return dataclasses.replace(self, updates=max(1, math.ceil(self.epochs * count / self.batch_size)))
