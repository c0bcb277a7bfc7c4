"""How a policy is fitted, of whatever kind it is. Kinds may import this module, and not the stage, which imports them."""

import dataclasses
import math
from typing import Annotated, Self

from pydantic import Field

from digiq.config import configclass
from digiq.policies import FITTINGS
from digiq.tables import chosen_from


@configclass
class FitConfig(chosen_from(FITTINGS, default="grid", field="policy")):
    """How a policy is fitted, whatever it is fitted to. What only one kind of policy can be told stands under its name."""

    updates: Annotated[int, Field(ge=1)] = 1000
    """Optimiser steps; the same number for every arm makes a comparison fair."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the rows, instead of ``updates``: more data are then fitted for longer."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows an update, drawn with replacement."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Peak of the cosine schedule."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the updates over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest global norm of a gradient."""
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the groups (episodes) kept out of training; the parameters of least held-out loss are returned."""
    evaluate_every: Annotated[int, Field(ge=1)] = 100
    """Updates between looks at the held-out loss."""
    seed: int = 0
    """Of the held-out choice, the batches and the augmentation."""

    def for_rows(self, count: int) -> Self:
        """The same with ``updates`` for so many rows, where it is told in ``epochs``."""
        if self.epochs is None:
            return self
        return dataclasses.replace(self, updates=max(1, math.ceil(self.epochs * count / self.batch_size)))
