"""GridPolicy: the embedded default policy, memoryless, from pixels and the goal's words.

Its actions are the seven types of Android in the Wild, with DUAL_POINT split into taps and swipes. Texts are copied
from the goal; they are spelled if the demonstrations hold texts that are not spans of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from pydantic import Field

from android_env.actions import Action
from digiq import artifacts
from digiq.config import configclass
from digiq.errors import ArtifactError
from digiq.policies.base import CONFIG_FILE, Candidate, Metrics, PolicyInput, Row, describe
from digiq.policies.distribution import GridDistribution
from digiq.policies.goals import SHAPE_FEATURES
from digiq.policies.grid_fit import fit_grid
from digiq.policies.network import CELL, fit_screenshot, initial_params, network, read_goal

if TYPE_CHECKING:
    from digiq.policies.fitting import FitConfig

_PARAMS_FILE = "params.msgpack"
# Every query is padded to one batch shape, so there is one compilation, and rows do not depend on one another.
_BATCH = 32


@configclass
class Grid:
    """The network's shape, and its temperature."""

    input_height: Annotated[int, Field(ge=32, multiple_of=2 * CELL)] = 160
    """Height in pixels that screenshots are resized to; touch cells are 8 of these pixels high."""
    input_width: Annotated[int, Field(ge=32, multiple_of=2 * CELL)] = 96
    """Width in pixels that screenshots are resized to; touch cells are 8 of these pixels wide."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    """Features per cell or word."""
    layers: Annotated[int, Field(ge=0)] = 1
    """Transformer layers over coarse cells and goal words."""
    goal_words: Annotated[int, Field(ge=1)] = 24
    """Number of words of the goal that are read, and that texts are copied from."""
    word_buckets: Annotated[int, Field(ge=2)] = 4096
    """Rows of the hashed word embedding."""
    max_span: Annotated[int, Field(ge=1)] = 12
    """Longest text copied from the goal, in words."""
    max_text: Annotated[int, Field(ge=1)] = 48
    """Longest spelled text, in UTF-8 bytes."""
    speller_width: Annotated[int, Field(ge=1)] = 64
    """Hidden units of the byte decoder."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits of everything that the policy draws and scores; below 1 it is more confident than what it
    imitates. Fitting ignores it."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of touch cells."""
        return self.input_height // CELL, self.input_width // CELL

    def create(self, seed: int) -> GridPolicy:
        """See :class:`digiq.policies.base.Kind`."""
        height, width = self.input_height, self.input_width
        params = initial_params(network(self), height, width, self.goal_words, seed)
        return GridPolicy(self, params, spells=False)

    def load(self, path: Path, about: Mapping[str, Any]) -> GridPolicy:
        """See :class:`digiq.policies.base.Kind`."""
        fresh = self.create(seed=0)
        try:
            params = serialization.from_bytes(fresh.params, (path / _PARAMS_FILE).read_bytes())
            spells = bool(about["spells"])
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{path}: holds no readable GridPolicy ({error}); fit it again.") from None
        jax.tree.map(_same_shape(path), fresh.params, params)
        return GridPolicy(self, params, spells)


@functools.lru_cache(maxsize=8)
def _forward(config: Grid) -> Any:
    module = network(config)

    @jax.jit
    def forward(params: Any, images: jax.Array, buckets: jax.Array, shapes: jax.Array) -> Any:
        return module.apply({"params": params}, images.astype(jnp.float32) / 255, buckets, shapes)

    return forward


@dataclasses.dataclass(frozen=True, eq=False)
class GridPolicy:
    """A network with parameters; implements :class:`~digiq.policies.base.Policy` and ``HasSupport``."""

    config: Grid
    params: Any
    """``network``: the Flax parameters; ``speller``: the arrays of the byte decoder."""
    spells: bool
    """Whether texts that are not in the goal can be drawn; False unless the fit saw some."""

    def sample(
        self,
        inputs: Sequence[PolicyInput],
        n: int,
        rng: np.random.Generator | Sequence[np.random.Generator],
        temperature: float = 1.0,
    ) -> list[list[Candidate]]:
        """See :meth:`digiq.policies.base.Policy.sample`; one forward pass for any ``n``."""
        rngs = [rng] * len(inputs) if isinstance(rng, np.random.Generator) else list(rng)
        result: list[list[Candidate]] = []
        for start, distribution in self._distributions(inputs, temperature):
            rows = distribution.draw(n, rngs[start : start + len(distribution.goals)])
            for actions, log_probs in zip(rows, distribution.log_prob(rows), strict=True):
                result.append([Candidate(a, lp) for a, lp in zip(actions, log_probs, strict=True)])
        return result

    def log_prob(
        self, inputs: Sequence[PolicyInput], actions: Sequence[Action], temperature: float = 1.0
    ) -> np.ndarray:
        """See :meth:`digiq.policies.base.Policy.log_prob`."""
        if len(inputs) != len(actions):
            raise ValueError(f"{len(inputs)} inputs but {len(actions)} actions; give one action per input.")
        result = np.empty(len(inputs), np.float32)
        for start, distribution in self._distributions(inputs, temperature):
            stop = start + len(distribution.goals)
            result[start:stop] = [lp for (lp,) in distribution.log_prob([[a] for a in actions[start:stop]])]
        return result

    def support(self, inputs: Sequence[PolicyInput], k: int) -> list[list[tuple[Action, float]]]:
        """See :meth:`digiq.policies.base.HasSupport.support`."""
        return [
            row for _, distribution in self._distributions(inputs, 1.0) for row in distribution.support(k)
        ]

    def fit(
        self,
        rows: Iterable[Row],
        config: FitConfig,
        on_metrics: Metrics,
        description: str = "fit-policy",
        resume: Path | None = None,
    ) -> GridPolicy:
        """See :meth:`digiq.policies.base.Policy.fit` and :func:`digiq.policies.grid_fit.fit_grid`."""
        params, spells = fit_grid(
            self.config, self.params, self.spells, rows, config, on_metrics, description, resume
        )
        return GridPolicy(self.config, params, spells)

    def save(self, path: str | Path) -> None:
        """Writes ``policy.json`` and ``params.msgpack`` into ``path``."""
        host = jax.tree.map(np.asarray, self.params)
        artifacts.atomic_write_bytes(Path(path) / _PARAMS_FILE, serialization.msgpack_serialize(host))
        describe(path, self.config, spells=self.spells)

    @functools.cached_property
    def _speller(self) -> dict[str, np.ndarray] | None:
        return jax.tree.map(np.asarray, self.params["speller"]) if self.spells else None

    def _distributions(
        self, inputs: Sequence[PolicyInput], temperature: float
    ) -> Iterator[tuple[int, GridDistribution]]:
        """Yields (index of the first input, distribution of up to 32 inputs)."""
        if not temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; use support() for the likeliest actions."
            )
        config = self.config
        for start in range(0, len(inputs), _BATCH):
            chunk = inputs[start : start + _BATCH]
            goals = [read_goal(item.goal, config) for item in chunk]
            images = np.zeros((_BATCH, config.input_height, config.input_width), np.uint8)
            buckets = np.zeros((_BATCH, config.goal_words), np.int32)
            shapes = np.zeros((_BATCH, config.goal_words, SHAPE_FEATURES), np.float32)
            for i, (item, goal) in enumerate(zip(chunk, goals, strict=True)):
                images[i] = fit_screenshot(item.screenshot, config)
                buckets[i], shapes[i] = goal.buckets, goal.shapes
            outputs = _forward(config)(self.params["network"], images, buckets, shapes)
            outputs = {name: np.asarray(value)[: len(chunk)] for name, value in outputs.items()}
            yield (
                start,
                GridDistribution(
                    outputs=outputs,
                    goals=goals,
                    grid=config.grid,
                    max_span=config.max_span,
                    max_bytes=config.max_text,
                    speller=self._speller,
                    temperature=temperature * config.temperature,
                ),
            )


def _same_shape(path: Path) -> Any:
    def check(expected: Any, found: Any) -> None:
        if np.shape(expected) != np.shape(found):
            raise ArtifactError(
                f"{path / _PARAMS_FILE}: holds an array of shape {np.shape(found)} where {CONFIG_FILE} "
                f"needs {np.shape(expected)}; fit the policy again."
            )

    return check
