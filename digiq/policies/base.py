"""The `Policy` protocol: sample N actions with exact log-probabilities from a screenshot and a goal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from android_env.actions import Action
from digiq import artifacts
from digiq.errors import ArtifactError


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyInput:
    """All a learned policy may look at."""

    screenshot: np.ndarray
    """uint8[H, W, 3]; any H and W."""
    goal: str


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A sampled action and its log-probability under the distribution it was drawn from (temperature included)."""

    action: Action
    log_prob: float


class Policy(Protocol):
    """A memoryless policy: its distribution depends on the current screenshot and the goal alone."""

    def sample(
        self,
        inputs: Sequence[PolicyInput],
        n: int,
        rng: np.random.Generator | Sequence[np.random.Generator],
        temperature: float = 1.0,
    ) -> list[list[Candidate]]:
        """Draws ``n`` independent actions for each input.

        Args:
          inputs: B observations.
          n: draws an observation.
          rng: one generator for all inputs, or one each, so that a row's draws do not depend on the other rows.
          temperature: divides the logits of every choice the policy makes; 1 is the policy as it is.
        """
        ...

    def log_prob(
        self, inputs: Sequence[PolicyInput], actions: Sequence[Action], temperature: float = 1.0
    ) -> np.ndarray:
        """float32[B]: log-probability of one action an input; ``-inf`` for what the policy cannot do."""
        ...

    def support(self, inputs: Sequence[PolicyInput], k: int) -> list[list[tuple[Action, float]]]:
        """The ``k`` likeliest distinct actions of each input with exact probabilities, likeliest first.

        The probabilities sum to at most 1; what is missing is the mass of the actions left out.
        """
        ...

    def save(self, path: str | Path) -> None:
        """Writes the policy's files into the directory ``path``."""
        ...


def load_policy(path: str | Path) -> Policy:
    """Opens a policy: the artefact of ``fit-policy`` or ``distill``, or a directory that ``Policy.save`` wrote.

    Raises:
      ArtifactError: the directory is absent, unfinished, damaged or holds no policy.
    """
    from digiq.policies.grid import CONFIG_FILE, GridPolicy

    path = Path(path)
    if (path / artifacts.MANIFEST).is_file():
        artifacts.open(path).verify()
    if not (path / CONFIG_FILE).is_file():
        raise ArtifactError(
            f"{path}: no {CONFIG_FILE}, so it holds no policy; name a 'fit-policy' or 'distill' output."
        )
    return GridPolicy.load(path)
