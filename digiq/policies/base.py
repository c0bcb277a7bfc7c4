"""The `Policy` protocol: sample N actions with exact log-probabilities from a screenshot and a goal.

A kind of policy is a member of :data:`digiq.policies.POLICIES`: a config that creates and loads such policies. On disk
a policy is a directory with ``policy.json``, which names its kind, and the policy's own files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

from android_env.actions import Action
from digiq import artifacts
from digiq.config import to_dict
from digiq.errors import ArtifactError, DigiQError
from digiq.policies import POLICIES

if TYPE_CHECKING:
    from digiq.policies.fitting import FitConfig

CONFIG_FILE = "policy.json"
Metrics = Callable[[dict[str, float]], None]
"""Called with the metrics of a fit as they come."""


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyInput:
    """Everything that a learned policy may look at."""

    screenshot: np.ndarray
    """uint8[H, W, 3]; any H and W."""
    goal: str


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A sampled action and its log-probability under the distribution it was drawn from (temperature included)."""

    action: Action
    log_prob: float


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One example to imitate."""

    input: PolicyInput
    action: Action
    weight: float = 1.0
    """At least 0; a row of weight 0 has no effect."""
    group: int = 0
    """Rows of one group (an episode) are held out together."""


class Policy(Protocol):
    """A memoryless policy: its distribution depends on the current screenshot and the goal alone."""

    @property
    def config(self) -> Any:
        """The :class:`Kind` that made it."""
        ...

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
          n: draws per observation.
          rng: one generator for all inputs, or one each, so that a row's draws do not depend on the other rows.
          temperature: divides the logits of every choice that the policy makes; 1 leaves the policy unchanged.
        """
        ...

    def log_prob(
        self, inputs: Sequence[PolicyInput], actions: Sequence[Action], temperature: float = 1.0
    ) -> np.ndarray:
        """float32[B]: log-probability of one action per input; ``-inf`` for actions that the policy cannot take."""
        ...

    def fit(
        self,
        rows: Iterable[Row],
        config: FitConfig,
        on_metrics: Metrics,
        description: str = "fit-policy",
        resume: Path | None = None,
    ) -> Self:
        """A policy of the same kind that imitates the rows, starting from this one, which does not change.

        Args:
          rows: read once, in order; their screenshots need not fit into memory together.
          config: the fitting; its ``chosen`` holds the settings of this kind.
          on_metrics: called with metrics as they come; ``update`` counts updates, ``*loss`` are in nats per row.
          description: text of the progress bar.
          resume: a file for the state of the fit, so that the same call after a kill continues from there and ends
            with the same policy; it is deleted when the fit ends. A kind whose fits are short may ignore it.

        Raises:
          DigiQError: there is nothing to fit, or a row that this kind cannot learn.
          ArtifactError: the file ``resume`` is damaged.
        """
        ...

    def save(self, path: str | Path) -> None:
        """Writes the policy's files into the directory ``path``."""
        ...


@runtime_checkable
class HasSupport(Protocol):
    """A policy that can list its likely actions, as exact values need; one that writes actions as free text cannot."""

    def support(self, inputs: Sequence[PolicyInput], k: int) -> list[list[tuple[Action, float]]]:
        """The ``k`` likeliest distinct actions of each input with exact probabilities, likeliest first.

        The probabilities sum to at most 1; the rest is the mass of the actions left out.
        """
        ...


class Kind(Protocol):
    """A member of :data:`digiq.policies.POLICIES`: the config of a policy, as ``policy.json`` holds it."""

    def create(self, seed: int) -> Policy:
        """A policy with fresh parameters."""
        ...

    def load(self, path: Path, about: Mapping[str, Any]) -> Policy:
        """Opens the policy that ``Policy.save`` wrote into ``path``.

        Args:
          path: the directory.
          about: the content of ``policy.json``.

        Raises:
          ArtifactError: a file is missing or does not hold such a policy.
        """
        ...


def describe(path: str | Path, config: Kind, **more: Any) -> None:
    """Completes a ``save`` after its other files are written.

    Writes ``policy.json``, which tells :func:`load_policy` the kind. If no stage writes checksums, it writes them too,
    so that the files can be verified.

    Args:
      path: the policy's directory.
      config: the config that creates and loads such policies.
      more: further entries that its ``load`` needs.
    """
    about = {"policy": POLICIES.name_of(type(config)), **more, "config": to_dict(config)}
    artifacts.atomic_write_json(Path(path) / CONFIG_FILE, about)
    if not (Path(path) / artifacts.MANIFEST).is_file():
        artifacts.write_checksums(Path(path))


def load_policy(path: str | Path) -> Policy:
    """Opens a policy: the artefact of ``fit-policy`` or ``distill``, or a directory that ``Policy.save`` wrote.

    Raises:
      ArtifactError: the directory is absent, unfinished, damaged or holds no policy.
      ConfigError: the policy is of a kind that only the directory names (see ``--trust-code``).
    """
    path = Path(path)
    file = path / CONFIG_FILE
    if not file.is_file():
        raise ArtifactError(
            f"{path}: no {CONFIG_FILE}, so it holds no policy; name a 'fit-policy' or 'distill' output."
        )
    artifacts.check_directory(path, ("fit-policy", "distill"))
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        kind, settings = about["policy"], about["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file}: does not describe a policy ({error}); fit it again.") from None
    return POLICIES.recorded(kind, settings, where=str(file)).load(path, about)


def with_support(policy: Policy, what: str) -> HasSupport:
    """The policy, if it can list its likeliest actions.

    Raises:
      DigiQError: it cannot; the message names ``what`` needs it.
    """
    if not isinstance(policy, HasSupport):
        raise DigiQError(
            f"{what} need a policy that lists its likeliest actions, but {type(policy).__name__} has no 'support'."
        )
    return policy
