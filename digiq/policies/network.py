"""GridPolicy's network: screenshot and goal in, logits of every choice out.

A small convolutional encoder turns the screenshot's luminance into a grid of cells. A coarser grid, the goal's words
and one state token go through a few transformer layers together, so that goal and screen attend to each other. Then the
output for its coarse neighbourhood and the state are added to each cell, and cells are scored one by one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from digiq.policies import spelling
from digiq.policies.goals import SHAPE_FEATURES, GoalWords, goal_words

if TYPE_CHECKING:
    from digiq.policies.grid import Grid

CELL = 8
"""Side of a touch cell in input pixels."""
KINDS = ("tap", "swipe", "type", "back", "home", "enter", "complete", "impossible")
SWIPES = ("up", "down", "left", "right")
_SHAPE_ONLY = nn.initializers.zeros  # initial_params() draws the values


class _Block(nn.Module):
    """A pre-norm transformer layer with one head; on a CPU, its time grows almost in proportion to the heads."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        """``x`` float32[B, T, width]; ``bias`` float32[B, 1, T] is added to the attention scores (padding: -1e9)."""
        normed = nn.LayerNorm(name="norm_attention")(x)
        query, key, value = (nn.Dense(self.width, name=name)(normed) for name in ("query", "key", "value"))
        attention = jax.nn.softmax(query @ key.swapaxes(-1, -2) * self.width**-0.5 + bias)
        x = x + nn.Dense(self.width, name="out")(attention @ value)
        hidden = nn.relu(nn.Dense(2 * self.width, name="up")(nn.LayerNorm(name="norm_mlp")(x)))
        return x + nn.Dense(self.width, name="down")(hidden)


class GridNetwork(nn.Module):
    """See the module's docstring; ``h`` and ``w`` are the input size, R = h / 8 and C = w / 8 the touch grid."""

    width: int
    layers: int
    buckets: int
    speller_width: int

    @nn.compact
    def __call__(
        self, image: jax.Array, buckets: jax.Array, shapes: jax.Array, keep_word: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Computes the logits.

        Args:
          image: float32[B, h, w], luminance in [0, 1].
          buckets: int32[B, L], hash bucket of each goal word, 0 = padding.
          shapes: float32[B, L, F].
          keep_word: bool[B, L]; a word not kept is read as an unseen one.

        Returns:
          ``kind`` [B, 8], ``cell`` [B, R * C], ``offset`` [B, R * C, 2] in (0, 1), ``swipe`` [B, 4],
          ``span`` [B, L, L] (unmasked), ``gate`` [B, 2] (copy, spell), ``speller`` [B, H].
        """
        batch, width = image.shape[0], self.width
        fine, coarse = self._encode(image)
        rows, columns = fine.shape[1:3]
        coarse_shape = coarse.shape
        place = self.param("place", _SHAPE_ONLY, coarse_shape[1:])
        seen = nn.relu(coarse).reshape(batch, -1, width)
        coarse = (coarse + place).reshape(batch, -1, width)
        words = self._read(buckets, shapes, keep_word)
        # The kind of a screen shows in what it holds, wherever that is. A pooled summary of it is learned much sooner
        # than the attention that could replace it.
        summary = nn.Dense(width, name="summary")(
            jnp.concatenate([seen.mean(axis=1), seen.max(axis=1)], axis=-1)
        )
        state = (summary + self.param("state", _SHAPE_ONLY, (width,)))[:, None]
        tokens = jnp.concatenate([state, coarse, words], axis=1)
        patches = coarse.shape[1]
        shown = jnp.concatenate([jnp.ones((batch, 1 + patches), bool), buckets > 0], axis=1)
        bias = jnp.where(shown, 0.0, -1e9)[:, None]
        for layer in range(self.layers):
            tokens = _Block(width, name=f"block{layer}")(tokens, bias)
        tokens = nn.LayerNorm(name="norm")(tokens)
        state, coarse, words = tokens[:, 0], tokens[:, 1 : 1 + patches], tokens[:, 1 + patches :]
        cells = self._cells(fine, coarse.reshape(coarse_shape), state)
        score = nn.Dense(3, name="touch")(cells).reshape(batch, rows * columns, 3)
        hidden = nn.relu(nn.Dense(2 * width, name="decide")(state))
        return {
            "kind": nn.Dense(len(KINDS), name="kind")(hidden),
            "cell": score[..., 0],
            "offset": 0.02 + 0.96 * jax.nn.sigmoid(score[..., 1:]),
            "swipe": nn.Dense(len(SWIPES), name="swipe")(hidden),
            "span": self._spans(words, hidden),
            "gate": nn.Dense(2, name="gate")(hidden),
            "speller": jnp.tanh(nn.Dense(self.speller_width, name="speller_state")(hidden)),
        }

    def _encode(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Fine cells float32[B, R, C, width], each of 20 × 20 input pixels, and coarse ones [B, R/2, C/2, width]."""
        x = nn.relu(nn.Conv(self.width // 2, (8, 8), (4, 4), name="stem")(image[..., None] - 0.5))
        fine = nn.relu(nn.Conv(self.width, (4, 4), (2, 2), name="fine")(x))
        coarse = nn.Conv(self.width, (4, 4), (2, 2), name="coarse")(fine)
        return fine, coarse + nn.Conv(self.width, (3, 3), name="near")(nn.relu(coarse))

    def _read(self, buckets: jax.Array, shapes: jax.Array, keep_word: jax.Array | None) -> jax.Array:
        """float32[B, L, width]."""
        table = self.param("words", _SHAPE_ONLY, (self.buckets, self.width))
        known = table[buckets]
        if keep_word is not None:
            known = known * keep_word[..., None]
        known = known + nn.Dense(self.width, name="shape")(shapes)
        around = nn.Conv(self.width, (5,), name="phrase")(known)
        place = self.param("word_place", _SHAPE_ONLY, (buckets.shape[1], self.width))
        return known + around + place

    def _cells(self, fine: jax.Array, coarse: jax.Array, state: jax.Array) -> jax.Array:
        """float32[B, R, C, width]: what each cell shows, where it is, and the state."""
        around = nn.Conv(self.width, (3, 3), name="around")(nn.relu(nn.Dense(self.width, name="mix")(coarse)))
        wide = nn.Dense(self.width, name="from_coarse")(coarse) + around
        wide = wide + nn.Dense(self.width, name="from_state")(state)[:, None, None]
        wide = jnp.repeat(jnp.repeat(wide, 2, axis=1), 2, axis=2)
        return nn.relu(nn.Dense(self.width, name="from_fine")(fine) + wide)

    def _spans(self, words: jax.Array, hidden: jax.Array) -> jax.Array:
        """float32[B, L, L]: one logit per span, from its first word, its last word and how well they fit."""
        wanted = nn.Dense(self.width, name="wanted")(hidden)[:, None]
        start = nn.relu(nn.Dense(self.width, name="start_from_word")(words) + wanted)
        end = nn.relu(nn.Dense(self.width, name="end_from_word")(words) + wanted)
        pair = nn.Dense(16, name="start_key")(start) @ nn.Dense(16, name="end_key")(end).swapaxes(-1, -2)
        return nn.Dense(1, name="start")(start) + nn.Dense(1, name="end")(end).swapaxes(-1, -2) + pair / 4


def network(config: Grid) -> GridNetwork:
    """The Flax module of a configuration."""
    return GridNetwork(
        width=config.width,
        layers=config.layers,
        buckets=config.word_buckets,
        speller_width=config.speller_width,
    )


def fit_screenshot(screenshot: np.ndarray, config: Grid) -> np.ndarray:
    """uint8[h, w]: luminance of any uint8[H, W, 3] screenshot at the network's input size, aspect squashed.

    Shapes show what a screen is for; themes differ in colours.
    """
    size = (config.input_width, config.input_height)
    return np.asarray(Image.fromarray(screenshot).convert("L").resize(size, Image.Resampling.BOX))


def read_goal(goal: str, config: Grid) -> GoalWords:
    """The goal's words as the network reads them."""
    return goal_words(goal, config.goal_words, config.word_buckets)


def initial_params(module: GridNetwork, height: int, width: int, words: int, seed: int) -> dict[str, Any]:
    """Fresh arrays: ``network`` for :class:`GridNetwork`, ``speller`` for :mod:`digiq.policies.spelling`.

    Weights are normal with deviation 1 / sqrt(fan-in), as in Flax; biases and word embeddings are zero, norms one. They
    are drawn with NumPy, because compiling the initialisers takes seconds; the shapes are those of the module.
    """
    rng = np.random.default_rng(seed)
    inputs = (
        jnp.zeros((1, height, width)),
        jnp.zeros((1, words), jnp.int32),
        jnp.zeros((1, words, SHAPE_FEATURES)),
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name in ("bias", "words"):
            return np.zeros(leaf.shape, np.float32)
        if name == "scale":
            return np.ones(leaf.shape, np.float32)
        deviation = math.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.02
        return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)

    network = jax.tree_util.tree_map_with_path(draw, shapes)
    return {"network": network, "speller": spelling.initial_params(module.speller_width, rng)}
