"""Supervised fitting: maximum likelihood of (screenshot, goal, action) rows with a weight each.

One loop serves the behaviour policy (all weights 1), filtered behaviour cloning (the steps of successful episodes) and
Best-of-N (the chosen candidates): see :func:`fit_policy`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from android_env.actions import Action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode, decode_png
from digiq.errors import DigiQError
from digiq.policies import spelling
from digiq.policies.base import PolicyInput
from digiq.policies.distribution import kind_of, swipe_of
from digiq.policies.grid import GridConfig, GridPolicy, fit_screenshot, network, read_goal
from digiq.policies.network import KINDS
from digiq.progress import progress

_COPY, _SPELL = 0, 1
_TAP, _SWIPE, _TYPE = (KINDS.index(name) for name in ("tap", "swipe", "type"))


STAGE, VERSION = "fit-policy", 1


@configclass
class FitConfig:
    """How a policy is fitted, whatever it is fitted to."""

    updates: Annotated[int, Field(ge=1)] = 1000
    """Optimiser steps; the same number for every arm makes a comparison fair."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows an update, drawn with replacement."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Peak of Muon's cosine schedule."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the updates over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest global norm of a gradient."""
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Probability that a goal word is shown as an unseen one: what makes spans of unseen words copyable."""
    shift: Annotated[int, Field(ge=0)] = 3
    """Screens are moved by up to this many input pixels each way, the touched point with them."""
    contrast: Annotated[float, Field(ge=0)] = 0.2
    """Deviation of the logarithm of the random contrast of screens, 0 for none: for themes never seen."""
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the groups (episodes) kept out of training; the parameters of least held-out loss are returned."""
    evaluate_every: Annotated[int, Field(ge=1)] = 100
    """Updates between looks at the held-out loss."""
    seed: int = 0
    """Of the held-out choice, the batches and the augmentation."""


@configclass
class FitPolicyConfig:
    """Of the stage ``fit-policy``: imitation of every logged action."""

    policy: GridConfig = GridConfig()
    """The network."""
    fit: FitConfig = FitConfig()
    """The fitting."""
    split: str = "train"
    """Only episodes of this split are imitated."""
    seed: int = 0
    """Of the initial parameters."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """M rows ready for the device. Screens and goals are stored once however many rows show them."""

    images: np.ndarray
    """uint8[U, h, w], luminance."""
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
    """int32[M], 0 copied, 1 spelled, -1 neither (no text, or one that cannot be produced)."""
    span: np.ndarray
    """int32[M, 2], first and last word of a copied text."""
    text: np.ndarray
    """uint8[M, T], bytes of a spelled text with its end mark; T fits the longest, and is 1 when no row is spelled."""
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
        """Typed texts that can be neither copied nor spelled: only their kind is learned."""
        return int(((self.kind == _TYPE) & (self.gate < 0)).sum())


def encode_rows(
    inputs: Iterable[PolicyInput],
    actions: Sequence[Action],
    weights: Sequence[float],
    groups: Sequence[int],
    config: GridConfig,
) -> Rows:
    """Turns rows into arrays, one at a time: ``inputs`` may be a generator. Rows of weight 0 are dropped.

    Raises:
      DigiQError: no row is left, a weight is negative or not finite, or an action has a type the policy lacks.
    """
    images: dict[bytes, int] = {}
    pixels: list[np.ndarray] = []
    goals: dict[str, int] = {}
    columns: dict[str, list[Any]] = {
        field: [] for field in ("image", "goal", "kind", "touch", "swipe", "gate")
    }
    columns |= {"span": [], "text": [], "weight": [], "group": []}
    for item, action, weight, group in zip(inputs, actions, weights, groups, strict=True):
        if not (np.isfinite(weight) and weight >= 0):
            raise DigiQError(f"weights: {weight} is not a finite number of at least 0.")
        if weight == 0:
            continue
        kind = kind_of(action)
        if kind is None:
            raise DigiQError(
                f"actions: GridPolicy has no head for {action}; drop its row or give it weight 0."
            )
        small = np.ascontiguousarray(fit_screenshot(item.screenshot, config))
        image = images.setdefault(small.tobytes(), len(images))
        if image == len(pixels):
            pixels.append(small)
        words = read_goal(item.goal, config)
        span = words.find(action.text, config.max_span) if kind == _TYPE else None
        text = spelling.encode_text(action.text, config.max_text) if kind == _TYPE and span is None else None
        row = {
            "image": image,
            "goal": goals.setdefault(item.goal, len(goals)),
            "kind": kind,
            "touch": np.clip(action.touch_yx, 0, 1) if kind == _TAP else (0.0, 0.0),
            "swipe": swipe_of(action) if kind == _SWIPE else 0,
            "gate": _COPY if span is not None else _SPELL if text is not None else -1,
            "span": span or (0, 0),
            "text": text if text is not None else np.zeros(config.max_text + 1, np.uint8),
            "weight": weight,
            "group": group,
        }
        for name, value in row.items():
            columns[name].append(value)
    if not pixels:
        raise DigiQError("nothing to fit: no row has a weight above 0.")
    all_words = [read_goal(goal, config) for goal in goals]
    text = np.stack(columns["text"])
    weight = np.asarray(columns["weight"], np.float64)
    return Rows(
        images=np.stack(pixels),
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


def fit_policy(
    policy: GridPolicy,
    inputs: Iterable[PolicyInput],
    actions: Sequence[Action],
    weights: Sequence[float],
    config: FitConfig,
    *,
    groups: Sequence[int] | None = None,
    on_metrics: Callable[[dict[str, float]], None] = lambda metrics: None,
    description: str = "fit-policy",
) -> GridPolicy:
    """Maximises the weighted mean log-likelihood of ``actions``, starting from the parameters of ``policy``.

    Args:
      policy: gives the network and the initial parameters; it is not changed.
      inputs: M observations; a generator is fine, each is shrunk to the network's input size as it comes.
      actions: M actions to imitate.
      weights: M numbers of at least 0; a row of weight 0 is as good as absent.
      config: the fitting.
      groups: M numbers; rows of one group (an episode) are held out together. Each row is its own group by default.
      on_metrics: called with ``update``, ``train_loss`` (nats a row), ``heldout_loss`` and its parts, as they come.
      description: of the progress bar.

    Raises:
      DigiQError: see :func:`encode_rows`.
    """
    rows = encode_rows(
        inputs, actions, weights, range(len(actions)) if groups is None else groups, policy.config
    )
    train, heldout = split_rows(rows.group, config.heldout, config.seed)
    spells = policy.spells or rows.spells
    data = _to_device(rows)
    optimiser = make_optimiser(config)
    params = jax.tree.map(jnp.array, policy.params)  # a copy: the loop donates its state
    state, key = (params, optimiser.init(params)), jax.random.key(config.seed)
    update, train_rows = _update(policy.config, config), jnp.asarray(train)
    best, best_loss, done = policy.params, np.inf, 0
    metrics: dict[str, float] = {"update": 0, "train_rows": len(train), "unreachable_texts": rows.unreachable}
    if len(heldout):
        start = evaluate_loss(policy.config, params, data, heldout, config.batch_size)
        best_loss = start["loss"]
        metrics |= {f"heldout_{k}": v for k, v in start.items()}
    on_metrics(metrics)
    with progress(description, config.updates, unit="update") as bar:
        while done < config.updates:
            count = min(config.evaluate_every, config.updates - done)
            losses = []
            for _ in range(count):
                key, augment, batch = _draw(config.batch_size, key, data, train_rows)
                state, loss = update(state, batch, augment)
                losses.append(loss)
            done += count
            metrics = {"update": done, "train_loss": float(np.mean(jax.device_get(losses)))}
            if len(heldout):
                found = evaluate_loss(policy.config, state[0], data, heldout, config.batch_size)
                metrics |= {f"heldout_{k}": v for k, v in found.items()}
                if found["loss"] < best_loss:
                    best, best_loss = jax.tree.map(np.asarray, state[0]), found["loss"]
            on_metrics(metrics)
            bar.advance(count, **{k: v for k, v in metrics.items() if k.endswith("loss")})
    if not len(heldout):
        best = state[0]
    return GridPolicy(policy.config, jax.tree.map(np.asarray, best), spells)


def split_rows(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, held-out) row indices, int32: whole groups, about ``share`` of them, at least one row in training."""
    distinct = np.unique(groups)
    count = min(round(share * len(distinct)), len(distinct) - 1)
    chosen = np.random.default_rng(seed).permutation(distinct)[:count]
    out = np.isin(groups, chosen)
    return np.flatnonzero(~out).astype(np.int32), np.flatnonzero(out).astype(np.int32)


def make_optimiser(config: FitConfig) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) under warm-up and cosine decay, after clipping by the global norm.

    Matrices' momentum is orthogonalised, all else gets AdamW: on these networks it takes half of AdamW's updates to the
    same held-out loss.
    """
    warmup = round(config.warmup * config.updates)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate, config.learning_rate, warmup, config.updates + 1
    )
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_clip),
        optax.contrib.muon(schedule, adam_b2=0.98, weight_decay=config.weight_decay),
    )


@functools.partial(jax.jit, static_argnums=0)
def _draw(size: int, key: jax.Array, data: dict[str, jax.Array], train: jax.Array) -> Any:
    """The next key, the key of a batch's augmentation, and the batch: ``size`` of the ``train`` rows of ``data``."""
    key, draw, augment = jax.random.split(key, 3)
    return key, augment, _gather(data, train[jax.random.randint(draw, (size,), 0, len(train))])


@functools.lru_cache(maxsize=16)
def _update(grid: GridConfig, config: FitConfig) -> Any:
    """One jitted update: (state, batch, key of its augmentation) -> (state, loss).

    Not a scan over updates: XLA's CPU backend differentiates convolutions inside a loop some ten times slower, and
    next to an update's time its dispatch is nothing. Batches are drawn outside, so that the program, which takes a
    third of a short fit to compile, is one for data of every size.
    """
    optimiser = make_optimiser(config)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: dict[str, jax.Array], augment: jax.Array) -> Any:
        params, opt_state = state
        shown, images, keep_word = _augment(batch, grid, config, augment)

        def loss_fn(params: Any) -> jax.Array:
            losses, _ = row_losses(grid, params, shown, images, keep_word)
            return (batch["weight"] * losses).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        step, opt_state = optimiser.update(gradient, opt_state, params)
        return (optax.apply_updates(params, step), opt_state), loss

    return update


@functools.lru_cache(maxsize=16)
def _evaluate(grid: GridConfig) -> Any:
    @jax.jit
    def run(
        params: Any, data: dict[str, jax.Array], rows: jax.Array, counted: jax.Array
    ) -> dict[str, jax.Array]:
        def body(total: dict[str, jax.Array], item: tuple[jax.Array, jax.Array]) -> Any:
            index, counts = item
            batch = _gather(data, index)
            images = batch["image"].astype(jnp.float32) / 255
            losses, parts = row_losses(grid, params, batch, images, None)
            weight = batch["weight"] * counts
            found = {name: (weight * value).sum() for name, value in {"loss": losses, **parts}.items()}
            found["weight"] = weight.sum()
            return jax.tree.map(jnp.add, total, found), None

        zeros: dict[str, jax.Array] = dict.fromkeys(
            ("loss", "kind_loss", "touch_loss", "text_loss", "weight"), jnp.zeros(())
        )
        return jax.lax.scan(body, zeros, (rows, counted))[0]

    return run


def evaluate_loss(
    grid: GridConfig, params: Any, data: dict[str, jax.Array], rows: np.ndarray, batch_size: int
) -> dict[str, float]:
    """Weighted mean of the loss and of its parts over ``rows``, in nats a row, without augmentation."""
    batches = -(-len(rows) // batch_size)
    padded = np.zeros(batches * batch_size, np.int32)
    padded[: len(rows)] = rows
    counted = (np.arange(len(padded)) < len(rows)).astype(np.float32)
    shape = (batches, batch_size)
    total = _evaluate(grid)(params, data, padded.reshape(shape), counted.reshape(shape))
    weight = float(total.pop("weight"))
    return {name: float(value) / weight for name, value in total.items()}


def row_losses(
    grid: GridConfig,
    params: Any,
    batch: dict[str, jax.Array],
    images: jax.Array,
    keep_word: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss float32[B], its parts): the negative log-likelihood of each action, plus the touch offset's error.

    A text's likelihood is that of the way it was encoded (its first span, or its bytes): a lower bound of the
    policy's, which adds up every way to produce it.
    """
    # With ``mutable`` unset, ``apply`` returns the module's own output, though its type allows more.
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
    # The offset is no probability; its squared error only shares the loss.
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


def _to_device(rows: Rows) -> dict[str, jax.Array]:
    names = [f.name for f in dataclasses.fields(rows) if f.name != "group"]
    return {name: jnp.asarray(getattr(rows, name)) for name in names}


def _gather(data: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
    """The batch of ``rows``: ``image`` uint8[B, h, w] and the goal's arrays in place of their indices."""
    goal = data["goal"][rows]
    named = ("kind", "touch", "swipe", "gate", "span", "text", "weight")
    batch = {name: data[name][rows] for name in named}
    return batch | {
        "image": data["images"][data["image"][rows]],
        "buckets": data["buckets"][goal],
        "shapes": data["shapes"][goal],
    }


def _augment(
    batch: dict[str, jax.Array], grid: GridConfig, config: FitConfig, key: jax.Array
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


def logged_rows(
    episodes: Iterable[Episode], keep: Callable[[Episode], bool]
) -> tuple[Iterator[PolicyInput], list[Action], list[int]]:
    """(inputs, actions, index of the episode) of every executed action of the episodes that ``keep`` accepts.

    The inputs are a generator: screenshots are decoded one at a time.
    """
    kept = [(number, episode) for number, episode in enumerate(episodes) if keep(episode)]
    actions = [step.action for _, e in kept for step in e.steps if step.action is not None]
    groups = [number for number, e in kept for step in e.steps if step.action is not None]

    def inputs() -> Iterator[PolicyInput]:
        for _, episode in kept:
            for step in episode.steps:
                if step.action is not None:
                    yield PolicyInput(decode_png(step.screenshot), step.goal)

    return inputs(), actions, groups


def metrics_writer(path: Path) -> Callable[[dict[str, float]], None]:
    """Starts ``path`` anew and appends one JSON line a call."""
    path.write_text("")

    def write(metrics: dict[str, float]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    return write


def run(config: FitPolicyConfig, *, episodes: Path, out: Path, overwrite: bool = False) -> Artifact:
    """The stage ``fit-policy``: imitates every logged action of ``episodes``; ``out`` opens with ``load_policy``.

    Raises:
      DigiQError: no episode is of the configured split.
    """
    inputs = {"episodes": episodes}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        store = LabelledEpisodes(episodes, None)
        observations, actions, groups = logged_rows(store, lambda episode: episode.split == config.split)
        if not actions:
            raise DigiQError(f"{episodes}: no action of split '{config.split}'; set fit-policy's 'split'.")
        policy = fit_policy(
            GridPolicy.create(config.policy, config.seed),
            observations,
            actions,
            [1.0] * len(actions),
            config.fit,
            groups=groups,
            on_metrics=metrics_writer(writer.path / "metrics.jsonl"),
        )
        policy.save(writer.path)
        return writer.complete(counts={"steps": len(actions), "episodes": len(set(groups))})
