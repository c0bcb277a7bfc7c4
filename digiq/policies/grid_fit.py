"""Supervised fitting of GridPolicy: maximum likelihood of weighted (screenshot, goal, action) rows.

One loop serves the behaviour policy (all weights 1), filtered behaviour cloning (the steps of successful episodes) and
Best-of-N (the chosen candidates): see :func:`fit_grid`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from pydantic import Field

from digiq.config import configclass
from digiq.errors import DigiQError
from digiq.policies import spelling
from digiq.policies.base import Metrics, Row
from digiq.policies.distribution import kind_of, swipe_of
from digiq.policies.network import KINDS, fit_screenshot, network, read_goal
from digiq.policies.pictures import Pictures
from digiq.policies.snapshots import Snapshots
from digiq.progress import Bar, progress

if TYPE_CHECKING:
    from digiq.policies.fitting import FitConfig
    from digiq.policies.grid import Grid

_SHOWN = 10  # updates between two looks at the progress bar
_MOST_HELDOUT = 1024  # most held-out rows whose loss is computed, so that looking takes a small part of a fit
_COPY, _SPELL = 0, 1
_TAP, _SWIPE, _TYPE = (KINDS.index(name) for name in ("tap", "swipe", "type"))


@configclass
class GridFitting:
    """Settings for fitting a :class:`~digiq.policies.grid.GridPolicy`."""

    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Probability that a goal word is shown as an unseen one, so that spans of unseen words can be copied."""
    shift: Annotated[int, Field(ge=0)] = 3
    """Shift screens, and the touched point with them, by up to this many input pixels in each direction."""
    contrast: Annotated[float, Field(ge=0)] = 0.2
    """Standard deviation of the log of the screens' random contrast, which helps with unseen themes; 0 for none."""


@configclass
class GridRefitting(GridFitting):
    """The same settings for few rows, starting from a policy that was fitted to many."""

    # A separate class: with another default instance of GridFitting, naming one setting would change the other.
    shift: Annotated[int, Field(ge=0)] = 16
    """Shift screens, and the touched point with them, by up to this many input pixels in each direction. With much less
    than two touch cells, the policy memorises where things stood on the screen in the few rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """M rows ready for the device. Each screen and goal is stored once, however many rows share it."""

    images: np.ndarray
    """uint8[U, h, w], luminance; a memory map if there are too many for memory."""
    image: np.ndarray
    """int32[M], row of ``images``."""
    buckets: np.ndarray
    """int32[G, L], goal words."""
    shapes: np.ndarray
    """float32[G, L, F]."""
    goal: np.ndarray
    """int32[M], row of ``buckets``."""
    kind: np.ndarray
    """int32[M], index into KINDS."""
    touch: np.ndarray
    """float32[M, 2], (y, x) of a tap in [0, 1); zeros for other kinds."""
    swipe: np.ndarray
    """int32[M], index into SWIPES."""
    gate: np.ndarray
    """int32[M]: 0 copied, 1 spelled, -1 neither (no text, or one that cannot be produced)."""
    span: np.ndarray
    """int32[M, 2], first and last word of a copied text."""
    text: np.ndarray
    """uint8[M, T], bytes of a spelled text with its end mark; T fits the longest, and is 1 if no row is spelled."""
    weight: np.ndarray
    """float32[M], mean 1."""
    group: np.ndarray
    """int64[M]."""

    @property
    def spells(self) -> bool:
        """Whether any text is not a span of its goal."""
        return bool((self.gate == _SPELL).any())

    @property
    def unreachable(self) -> int:
        """Number of typed texts that can be neither copied nor spelled; only their kind is learned."""
        return int(((self.kind == _TYPE) & (self.gate < 0)).sum())


def encode_rows(rows: Iterable[Row], config: Grid) -> Encoded:
    """Turns rows into arrays, one at a time, so a generator is fine. Rows of weight 0 are dropped.

    Raises:
      DigiQError: no row is left, a weight is negative or not finite, or an action has a type that the policy lacks.
    """
    pictures = Pictures()
    goals: dict[str, int] = {}
    columns: dict[str, list[Any]] = {
        field: [] for field in ("image", "goal", "kind", "touch", "swipe", "gate")
    }
    columns |= {"span": [], "text": [], "weight": [], "group": []}
    for row in rows:
        action, weight = row.action, row.weight
        if not (np.isfinite(weight) and weight >= 0):
            raise DigiQError(f"weights: {weight} must be a finite number of at least 0.")
        if weight == 0:
            continue
        kind = kind_of(action)
        if kind is None:
            raise DigiQError(
                f"actions: GridPolicy has no head for {action}; drop its row or give it weight 0."
            )
        small = np.ascontiguousarray(fit_screenshot(row.input.screenshot, config))
        words = read_goal(row.input.goal, config)
        span = words.find(action.text, config.max_span) if kind == _TYPE else None
        text = spelling.encode_text(action.text, config.max_text) if kind == _TYPE and span is None else None
        encoded = {
            "image": pictures.add(small),
            "goal": goals.setdefault(row.input.goal, len(goals)),
            "kind": kind,
            "touch": np.clip(action.touch_yx, 0, 1) if kind == _TAP else (0.0, 0.0),
            "swipe": swipe_of(action) if kind == _SWIPE else 0,
            "gate": _COPY if span is not None else _SPELL if text is not None else -1,
            "span": span or (0, 0),
            "text": text if text is not None else np.zeros(config.max_text + 1, np.uint8),
            "weight": weight,
            "group": row.group,
        }
        for name, value in encoded.items():
            columns[name].append(value)
    if not len(pictures):
        raise DigiQError("nothing to fit: no row has a weight above 0.")
    all_words = [read_goal(goal, config) for goal in goals]
    text = np.stack(columns["text"])
    weight = np.asarray(columns["weight"], np.float64)
    return Encoded(
        images=pictures.all(),
        image=np.asarray(columns["image"], np.int32),
        buckets=np.stack([w.buckets for w in all_words]),
        shapes=np.stack([w.shapes for w in all_words]),
        goal=np.asarray(columns["goal"], np.int32),
        kind=np.asarray(columns["kind"], np.int32),
        touch=np.asarray(columns["touch"], np.float32),
        swipe=np.asarray(columns["swipe"], np.int32),
        gate=np.asarray(columns["gate"], np.int32),
        span=np.asarray(columns["span"], np.int32),
        text=text[:, : 1 + (text > 0).sum(axis=1).max()],
        weight=(weight / weight.mean()).astype(np.float32),
        group=np.asarray(columns["group"], np.int64),
    )


def fit_grid(
    grid: Grid,
    params: Any,
    spells: bool,
    rows: Iterable[Row],
    config: FitConfig,
    on_metrics: Metrics,
    description: str,
    resume: Path | None = None,
) -> tuple[Any, bool]:
    """Maximises the weighted mean log-likelihood of the rows' actions, starting from ``params``, which do not change.

    Args:
      grid: the network.
      params: initial parameters.
      spells: whether texts that are not in the goal can already be drawn.
      rows: M rows; each screenshot is shrunk to the network's input size when it is read.
      config: the fitting.
      on_metrics: called with ``update``, ``train_loss`` (nats per row), ``heldout_loss`` and its parts, as they come.
      description: text of the progress bar.
      resume: see :meth:`digiq.policies.base.Policy.fit`.

    Returns:
      The new parameters and whether they spell.

    Raises:
      DigiQError: see :func:`encode_rows`; or the settings are those of another kind of policy.
    """
    fitting = config.chosen
    if not isinstance(fitting, GridFitting):
        raise DigiQError(
            f"fit.policy: '{config.choice}' is not how a 'grid' policy is fitted; set it to 'grid'."
        )
    encoded = encode_rows(rows, grid)
    train, heldout = split_rows(encoded.group, config.heldout, config.seed)
    heldout = heldout[:: -(-len(heldout) // _MOST_HELDOUT) or 1]
    config = config.for_rows(len(train))
    data = _to_device(encoded)
    images = None if "images" in data else encoded.images
    fit = _Fit.start(params, make_optimiser(config.gradient_clip, config.weight_decay), config.seed)
    update = _update(grid, config.gradient_clip, config.weight_decay, fitting)
    rates, train_rows = learning_rates(config), jnp.asarray(train)
    print(
        f"{description}: {len(train)} actions to imitate; compiling comes first, which can take half a minute.",
        file=sys.stderr,
        flush=True,
    )
    snapshots = Snapshots(resume)
    kept = snapshots.read()
    if kept is not None:
        fit = fit.restored(kept)
        for metrics in fit.metrics:
            on_metrics(metrics)
    else:
        metrics: dict[str, float] = {
            "update": 0,
            "train_rows": len(train),
            "unreachable_texts": encoded.unreachable,
        }
        if len(heldout):
            found = evaluate_loss(grid, params, data, heldout, config.batch_size, images)
            fit.best_loss = found["loss"]
            metrics |= {f"heldout_{k}": v for k, v in found.items()}
        fit.log(metrics, on_metrics)
    done = int(fit.metrics[-1]["update"])
    with contextlib.ExitStack() as stack:
        bar: Bar | None = None
        while done < config.updates:
            count = min(config.evaluate_every, config.updates - done)
            losses = []
            for number in range(count):
                rate = rates[done + number]
                if bar is not None and number and number % _SHOWN == 0:
                    jax.block_until_ready(losses[-1])  # else the bar would count what is only queued
                    bar.advance(_SHOWN)
                fit.key, augment, batch = _draw(config.batch_size, fit.key, data, train_rows)
                fit.state, loss = update(fit.state, _with_images(batch, images), augment, rate)
                losses.append(loss)
                if bar is None:  # compiled by now: what the bar reckons with are updates alone
                    jax.block_until_ready(loss)
                    bar = stack.enter_context(progress(description, config.updates, unit="update", done=done))
            assert bar is not None
            done += count
            metrics = {"update": done, "train_loss": float(np.mean(jax.device_get(losses)))}
            if len(heldout):
                found = evaluate_loss(grid, fit.state[0], data, heldout, config.batch_size, images)
                metrics |= {f"heldout_{k}": v for k, v in found.items()}
                if found["loss"] < fit.best_loss:
                    fit.best, fit.best_loss = jax.tree.map(np.asarray, fit.state[0]), found["loss"]
            fit.log(metrics, on_metrics)
            snapshots.write(fit.as_dict())
            rest = count - (count - 1) // _SHOWN * _SHOWN
            bar.advance(rest, **{k: v for k, v in metrics.items() if k.endswith("loss")})
    snapshots.clear()
    best = fit.best if len(heldout) else fit.state[0]
    return jax.tree.map(np.asarray, best), spells or encoded.spells


@dataclasses.dataclass(eq=False)
class _Fit:
    """The state of a fit."""

    state: Any
    """(parameters, optimiser state)."""
    key: jax.Array
    best: Any
    """Parameters with the lowest held-out loss so far."""
    best_loss: float
    metrics: list[dict[str, float]]
    """All metrics reported so far."""

    @classmethod
    def start(cls, params: Any, optimiser: optax.GradientTransformation, seed: int) -> _Fit:
        copied = jax.tree.map(jnp.array, params)  # the loop donates its state
        return cls((copied, optimiser.init(copied)), jax.random.key(seed), params, np.inf, [])

    def log(self, metrics: dict[str, float], on_metrics: Metrics) -> None:
        self.metrics.append(metrics)
        on_metrics(metrics)

    def as_dict(self) -> dict[str, Any]:
        host = jax.tree.map(np.asarray, {"state": self.state, "best": self.best})
        # Metrics are stored as JSON, which keeps every digit and their order.
        return {
            **host,
            "key": np.asarray(jax.random.key_data(self.key)),
            "best_loss": self.best_loss,
            "metrics": json.dumps(self.metrics),
        }

    def restored(self, kept: dict[str, Any]) -> _Fit:
        state, best = (
            serialization.from_state_dict(like, kept[name])
            for name, like in (("state", self.state), ("best", self.best))
        )
        return _Fit(
            jax.tree.map(jnp.asarray, state),
            jax.random.wrap_key_data(jnp.asarray(kept["key"])),
            best,
            float(kept["best_loss"]),
            json.loads(kept["metrics"]),
        )


def split_rows(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, held-out) row indices, int32. About ``share`` of the groups are held out, but never all rows."""
    distinct = np.unique(groups)
    count = min(round(share * len(distinct)), len(distinct) - 1)
    chosen = np.random.default_rng(seed).permutation(distinct)[:count]
    out = np.isin(groups, chosen)
    return np.flatnonzero(~out).astype(np.int32), np.flatnonzero(out).astype(np.int32)


def make_optimiser(clip: float, weight_decay: float) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) at a learning rate of 1, after clipping by the global norm.

    The momentum of matrices is orthogonalised; all other parameters get AdamW. On these networks Muon reaches the same
    held-out loss in half the updates of AdamW. The steps, weight decay included, are to be scaled by
    :func:`learning_rates`.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip), optax.contrib.muon(1.0, adam_b2=0.98, weight_decay=weight_decay)
    )


def learning_rates(config: FitConfig) -> jax.Array:
    """float32[updates]: the learning rate of each update, a warm-up and then a cosine decay."""
    warmup = round(config.warmup * config.updates)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate, config.learning_rate, warmup, config.updates + 1
    )
    return jnp.asarray(schedule(jnp.arange(config.updates)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _draw(size: int, key: jax.Array, data: dict[str, jax.Array], train: jax.Array) -> Any:
    """The next key, the key of the batch's augmentation, and the batch: ``size`` of the ``train`` rows of ``data``."""
    key, draw, augment = jax.random.split(key, 3)
    return key, augment, _gather(data, train[jax.random.randint(draw, (size,), 0, len(train))])


@functools.lru_cache(maxsize=16)
def _update(grid: Grid, clip: float, weight_decay: float, fitting: GridFitting) -> Any:
    """One jitted update: (state, batch, key of its augmentation, learning rate) -> (state, loss).

    It is not a scan over updates: XLA's CPU backend differentiates convolutions inside a loop about ten times slower,
    and the dispatch of an update costs next to nothing. Batches and learning rates come from outside, so that one
    program serves data of every size and fits of every length; compiling it takes a third of the time of a short fit.
    """
    optimiser = make_optimiser(clip, weight_decay)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: dict[str, jax.Array], augment: jax.Array, rate: jax.Array) -> Any:
        params, opt_state = state
        shown, images, keep_word = _augment(batch, grid, fitting, augment)

        def loss_fn(params: Any) -> jax.Array:
            losses, _ = row_losses(grid, params, shown, images, keep_word)
            return (batch["weight"] * losses).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        step, opt_state = optimiser.update(gradient, opt_state, params)
        step = jax.tree.map(lambda leaf: rate * leaf, step)
        return (optax.apply_updates(params, step), opt_state), loss

    return update


@functools.lru_cache(maxsize=16)
def _evaluate(grid: Grid) -> Any:
    @jax.jit
    def run(
        params: Any, data: dict[str, jax.Array], rows: jax.Array, counted: jax.Array
    ) -> dict[str, jax.Array]:
        def body(total: dict[str, jax.Array], item: tuple[jax.Array, jax.Array]) -> Any:
            index, counts = item
            return jax.tree.map(jnp.add, total, _sums(grid, params, _gather(data, index), counts)), None

        zeros: dict[str, jax.Array] = dict.fromkeys(
            ("loss", "kind_loss", "touch_loss", "text_loss", "weight"), jnp.zeros(())
        )
        return jax.lax.scan(body, zeros, (rows, counted))[0]

    return run


def _sums(grid: Grid, params: Any, batch: dict[str, jax.Array], counts: jax.Array) -> dict[str, jax.Array]:
    """Weighted sums over a batch of the loss, of its parts and of the weights; ``counts`` is 0 for padding."""
    images = batch["image"].astype(jnp.float32) / 255
    losses, parts = row_losses(grid, params, batch, images, None)
    weight = batch["weight"] * counts
    found = {name: (weight * value).sum() for name, value in {"loss": losses, **parts}.items()}
    return {**found, "weight": weight.sum()}


_sums_of_batch = jax.jit(_sums, static_argnums=0)
_gather_batch = jax.jit(lambda data, rows: _gather(data, rows))


def evaluate_loss(
    grid: Grid,
    params: Any,
    data: dict[str, jax.Array],
    rows: np.ndarray,
    batch_size: int,
    images: np.ndarray | None = None,
) -> dict[str, float]:
    """Weighted mean of the loss and of its parts over ``rows``, in nats per row, without augmentation.

    ``images`` are given if ``data`` does not hold them.
    """
    batches = -(-len(rows) // batch_size)
    padded = np.zeros(batches * batch_size, np.int32)
    padded[: len(rows)] = rows
    counted = (np.arange(len(padded)) < len(rows)).astype(np.float32)
    shape = (batches, batch_size)
    if images is None:
        total = _evaluate(grid)(params, data, padded.reshape(shape), counted.reshape(shape))
    else:
        total = jax.tree.map(
            lambda *parts: sum(parts),
            *(
                _sums_of_batch(grid, params, _with_images(_gather_batch(data, index), images), counts)
                for index, counts in zip(padded.reshape(shape), counted.reshape(shape), strict=True)
            ),
        )
    weight = float(total.pop("weight"))
    return {name: float(value) / weight for name, value in total.items()}


def row_losses(
    grid: Grid,
    params: Any,
    batch: dict[str, jax.Array],
    images: jax.Array,
    keep_word: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss float32[B], its parts): the negative log-likelihood of each action, plus the touch offset's error.

    The likelihood of a text is that of its encoding (its first span, or its bytes). This is a lower bound of the
    policy's likelihood, which sums over every way to produce the text.
    """
    # With ``mutable`` unset, ``apply`` returns only the module's output, though its type allows more.
    outputs: Any = network(grid).apply(
        {"params": params["network"]}, images, batch["buckets"], batch["shapes"], keep_word
    )
    rows, columns = grid.grid
    is_tap, is_swipe = batch["kind"] == _TAP, batch["kind"] == _SWIPE
    position = batch["touch"] * jnp.array([rows, columns], jnp.float32)
    cell_yx = jnp.clip(position.astype(jnp.int32), 0, jnp.array([rows - 1, columns - 1]))
    cell = cell_yx[:, 0] * columns + cell_yx[:, 1]
    offset = jnp.take_along_axis(outputs["offset"], cell[:, None, None], axis=1)[:, 0]
    offset_error = jnp.square(offset - (position - cell_yx)).sum(axis=-1)

    length = grid.goal_words
    last = (batch["buckets"] > 0).sum(axis=1)[:, None, None] - 1
    start, end = jnp.arange(length)[:, None], jnp.arange(length)[None]
    possible = (start <= end) & (end <= last) & (end - start < grid.max_span)
    spans = jnp.where(possible, outputs["span"], -1e9).reshape(len(cell), -1)
    span = batch["span"][:, 0] * length + batch["span"][:, 1]
    copied, spelled = batch["gate"] == _COPY, batch["gate"] == _SPELL
    gate_loss = _cross_entropy(outputs["gate"], jnp.maximum(batch["gate"], 0))
    text_loss = jnp.where(copied, gate_loss + _cross_entropy(spans, span), 0.0)
    if batch["text"].shape[1] > 1:
        spelling_loss = _spelling_loss(params["speller"], outputs["speller"], batch["text"])
        text_loss += jnp.where(spelled, gate_loss + spelling_loss, 0.0)

    parts = {
        "kind_loss": _cross_entropy(outputs["kind"], batch["kind"]),
        "touch_loss": jnp.where(is_tap, _cross_entropy(outputs["cell"], cell), 0.0),
        "text_loss": text_loss,
    }
    swipe_loss = jnp.where(is_swipe, _cross_entropy(outputs["swipe"], batch["swipe"]), 0.0)
    # The offset has no probability; its squared error is simply added to the loss.
    total = sum(parts.values()) + swipe_loss + jnp.where(is_tap, offset_error, 0.0)
    return total, parts


def _spelling_loss(speller: Any, hidden: jax.Array, text: jax.Array) -> jax.Array:
    """float32[B]: negative log-likelihood of each row's bytes up to and including its end mark."""
    byte = text.astype(jnp.int32)
    ended = jnp.cumsum(byte == spelling.END, axis=1) - (byte == spelling.END) > 0
    previous = jnp.pad(byte[:, :-1], ((0, 0), (1, 0)))

    def step(hidden: jax.Array, read: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = spelling.gru_step(jnp, speller, hidden, read)
        return hidden, hidden

    _, states = jax.lax.scan(step, hidden, previous.T)
    logits = spelling.byte_logits(speller, states)
    losses = _cross_entropy(logits, byte.T)
    return jnp.where(ended.T, 0.0, losses).sum(axis=0)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _to_device(rows: Encoded) -> dict[str, jax.Array]:
    """Moves the rows to the device, without the images if those are in a file."""
    left = {"group", "images"} if isinstance(rows.images, np.memmap) else {"group"}
    names = [f.name for f in dataclasses.fields(rows) if f.name not in left]
    return {name: jnp.asarray(getattr(rows, name)) for name in names}


def _with_images(batch: dict[str, jax.Array], images: np.ndarray | None) -> dict[str, jax.Array]:
    """A batch of :func:`_gather` with its images, taken from ``images`` unless they are on the device (None)."""
    if images is None:
        return batch
    return {**batch, "image": jnp.asarray(images[np.asarray(batch["image"])])}


def _gather(data: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
    """The batch of ``rows``: ``image`` uint8[B, h, w] and the goal's arrays in place of their indices.

    If the images are not in ``data``, ``image`` stays int32[B]; see :func:`_with_images`.
    """
    goal = data["goal"][rows]
    named = ("kind", "touch", "swipe", "gate", "span", "text", "weight")
    batch = {name: data[name][rows] for name in named}
    return batch | {
        "image": data["images"][data["image"][rows]] if "images" in data else data["image"][rows],
        "buckets": data["buckets"][goal],
        "shapes": data["shapes"][goal],
    }


def _augment(
    batch: dict[str, jax.Array], grid: Grid, config: GridFitting, key: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """(batch with the touched points moved, images float32, words kept bool[B, L])."""
    shift_key, contrast_key, word_key = jax.random.split(key, 3)
    images, size, reach = batch["image"], len(batch["kind"]), config.shift
    touch = batch["touch"]
    if reach:
        shift = jax.random.randint(shift_key, (size, 2), -reach, reach + 1)
        padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach)), mode="edge")

        def crop(image: jax.Array, by: jax.Array) -> jax.Array:
            corner = (reach - by[0], reach - by[1])
            return jax.lax.dynamic_slice(image, corner, (grid.input_height, grid.input_width))

        images = jax.vmap(crop)(padded, shift)
        touch = touch + shift / jnp.array([grid.input_height, grid.input_width], jnp.float32)
        touch = jnp.clip(touch, 0.0, 1.0)
    images = images.astype(jnp.float32) / 255
    gain = jnp.exp(config.contrast * jax.random.normal(contrast_key, (size, 1, 1)))
    images = 0.5 + (images - 0.5) * gain
    keep = jax.random.uniform(word_key, batch["buckets"].shape) >= config.word_dropout
    return {**batch, "touch": touch}, images, keep
