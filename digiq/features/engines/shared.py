"""The shared-prefix engine: the prefix of a state's prompts runs once, and each candidate's suffix attends to it.

The candidates of a state share screen, goal and history, which is most of a prompt; they differ in a few words about
the action. So the model, including its vision tower, runs over the common prefix once per state (several states in a
batch) and keeps each layer's keys and values. Then the suffixes run as rows of a second batch. Their positions continue
from the prefix (in three dimensions if the model has those). A suffix attends in two parts: to the prefix without a
mask, where the queries of all candidates form one large product, and causally to itself. The parts are merged by their
log-sum-exps, which is exact. Rows equal those of the plain engine up to rounding.

Source of the two-part attention: Juravsky et al., *Hydragen: High-Throughput LLM Inference with Shared Prefixes*, 2024.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from digiq.config import configclass
from digiq.errors import DigiQError
from digiq.features.engines.base import Kind, Request
from digiq.features.engines.pipeline import BatchSize, ahead
from digiq.features.engines.plain import (
    PlainEngine,
    check_spans,
    naming,
    open_plain,
    pool_span,
    poolings,
    screens,
    sized,
)
from digiq.vlm.prompts import Grounding, Pooling, Prompt

if TYPE_CHECKING:
    from digiq.features.extract import FeaturizeConfig
    from digiq.vlm.backbone import Backbone

_NAME = "digiq_two_part"
_VERSION = 1  # raised when the same settings give different rows


@configclass
class Shared:
    """One forward pass of the VLM for the prefix of a state, and a short one for each candidate.

    Under ``grounding: cursor`` every tap has its own screenshot and therefore its own prefix; use ``text`` to share
    all.
    """

    packages: ClassVar = ("torch", "transformers")

    attention: Literal["two_part", "cache"] = "two_part"
    """two_part: all candidates share the prefix's keys and values; cache: each gets a copy of them, which is slower,
    for models whose attention cannot be replaced."""

    def open(self, reading: FeaturizeConfig, vlm: Path) -> SharedEngine:
        plain = open_plain(reading, vlm)
        check_sharing(plain.backbone, self.attention, plain.reading.grounding)
        return SharedEngine(plain, self.attention)


@dataclasses.dataclass(frozen=True)
class SharedEngine:
    """The opened VLM."""

    plain: PlainEngine
    attention: Literal["two_part", "cache"] = "two_part"
    by_state: Literal[True] = True

    @property
    def layers(self) -> tuple[str, ...]:
        return self.plain.layers

    def dim(self, kind: Kind) -> int:
        return self.plain.dim(kind)

    def identity(self, kind: Kind) -> dict[str, Any]:
        return {**self.plain.identity(kind), "engine": "shared", "shared": _VERSION}

    def rows(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        reading = self.plain.reading
        kind = "observation" if requests and requests[0].action is None else "pair"
        return extract_shared(
            self.plain.backbone,
            requests,
            layers=self.plain.numbers,
            spans=reading.spans(kind),
            pooling=self.plain.pooling,
            batch_size=reading.batch_size,
            attention=self.attention,
        )


def check_sharing(backbone: Backbone, attention: str = "two_part", grounding: Grounding = "text") -> None:
    """Raises DigiQError for a model whose prefixes depend on what follows them, or that cannot share correctly."""
    reason = backbone.family.unshared
    if reason:
        raise DigiQError(
            f"engine shared: models of type '{backbone.model.config.model_type}' cannot share prefixes: {reason}; use engine "
            "plain."
        )
    if attention == "cache" and grounding == "crop":
        raise DigiQError(
            "engine shared: featurize.shared.attention is cache, which takes no crop after a prefix; use two_part, or engine "
            "plain."
        )
    kinds = getattr(backbone.family.decoder(backbone.model).config, "layer_types", None) or ()
    if attention == "cache" and "sliding_attention" in kinds:
        raise DigiQError(
            "engine shared: featurize.shared.attention is cache, but this model uses sliding-window attention; use two_part."
        )


def extract_shared(
    backbone: Backbone,
    requests: Sequence[Request],
    *,
    layers: Sequence[int],
    spans: Sequence[str],
    pooling: Pooling = "last",
    batch_size: BatchSize = 32,
    attention: str = "two_part",
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """As :func:`digiq.features.engines.plain.extract`; ``batch_size`` counts requests, of one or of several states."""
    if requests:
        check_spans(spans, requests[0].prompt, "spans")
    groups: dict[Any, list[int]] = {}
    for position, request in enumerate(requests):
        groups.setdefault(request.state, []).append(position)
    # States with similar numbers of candidates and prompt lengths are batched together: little padding, few shapes.
    ordered = sorted(groups.values(), key=lambda g: (len(g), len(requests[g[0]].prompt.text)))
    # The memory estimate counts whole prompts; a candidate of a shared state costs less.
    batch_size = sized(backbone, [requests[g[0]] for g in ordered[-1:]], batch_size)
    batches: list[npt.NDArray[np.int64]] = []
    waiting: list[int] = []
    for group in ordered:
        for start in range(0, len(group), batch_size):
            part = group[start : start + batch_size]
            if waiting and len(waiting) + len(part) > batch_size:
                batches.append(np.array(waiting))
                waiting = []
            waiting += part
    if waiting:
        batches.append(np.array(waiting))

    def load(positions: npt.NDArray[np.int64]) -> _Loaded:
        chosen = [requests[i] for i in positions]
        with naming(chosen):
            return _load(backbone, chosen)

    def compute(loaded: _Loaded) -> npt.NDArray[np.float32]:
        return _compute(backbone, loaded, layers, spans, pooling, attention)

    return ahead(batches, load, compute)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A batch: the requests that run alone, and prefixes (one per state) with suffixes (one per request)."""

    count: int
    alone: npt.NDArray[np.int64]
    alone_batch: Any
    prefix: dict[str, Any]
    """Model inputs [B, P], padded on the right."""
    prefix_length: list[int]
    rows: list[list[int]]
    """By state, the positions of its requests; concatenated in this order they are the rows of ``suffix``."""
    suffix: Any
    """int64 [R, S], padded on the right."""
    suffix_length: list[int]
    crops: dict[str, Any]
    """Model inputs for the pictures in the suffixes, in order; empty if there are none."""
    types: Any
    """int64 [R, S], nonzero for tokens of those pictures, if the processor marks them."""
    in_prefix: dict[str, Any]
    """By span, bool [R, P]."""
    in_suffix: dict[str, Any]
    """By span, bool [R, S]."""


def _load(backbone: Backbone, chosen: Sequence[Request]) -> _Loaded:
    import torch

    from digiq.vlm.backbone import lay_out, picture_tokens, prepare

    groups: dict[Any, list[int]] = {}
    for position, request in enumerate(chosen):
        groups.setdefault(request.state, []).append(position)
    laid = lay_out(backbone, [request.prompt for request in chosen])
    shown = screens(chosen)
    shared = {state: group for state, group in groups.items() if len(group) > 1}
    first = [group[0] for group in shared.values()]
    fronts = [_until_picture(chosen[i].prompt) for i in first]
    laid_fronts = lay_out(backbone, fronts)
    batch = (
        prepare(
            backbone, [shown[i][: front.in_front] for i, front in zip(first, fronts, strict=True)], fronts
        )
        if first
        else None
    )
    alone = [group[0] for group in groups.values() if len(group) == 1]
    kept: list[int] = []
    cuts: list[
        tuple[int, int]
    ] = []  # for each state: tokens of its prefix with the image, and how many the image added
    for row, (group, front) in enumerate(zip(shared.values(), laid_fronts, strict=True)):
        assert batch is not None
        whole = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()].cpu().numpy()
        common = min(
            [_common_prefix([laid[i].ids for i in group])]
            + [begin for i in group for begin, _ in laid[i].inside]
        )
        grown = len(whole) - len(front.ids)
        if (
            common > 0
            and grown >= 0
            and np.array_equal(front.ids[:common], laid[group[0]].ids[:common])
            and np.array_equal(whole[common + grown :], front.ids[common:])
        ):
            kept.append(row)
            cuts.append((common + grown, grown))
        else:  # the image comes after the first difference
            alone += group
    alone_batch = None
    if alone:
        alone_batch = prepare(backbone, [shown[i] for i in alone], [chosen[i].prompt for i in alone])
    if not kept:
        return _Loaded(len(chosen), np.array(alone), alone_batch, {}, [], [], None, [], {}, None, {}, {})
    assert batch is not None
    longest = max(cut for cut, _ in cuts)
    prefix = _take(batch.inputs, kept, longest)
    for row, (cut, _) in enumerate(cuts):
        prefix["attention_mask"][row, cut:] = 0
    rows = [list(shared.values())[row] for row in kept]
    flat = [(i, cut, grown) for group, (cut, grown) in zip(rows, cuts, strict=True) for i in group]
    cropped = [i for i, _, _ in flat if laid[i].inside]
    ids, types, crops = picture_tokens(backbone, [shown[i][-1] for i in cropped]) if cropped else ([], [], {})
    pictures = dict(zip(cropped, zip(ids, types, strict=True), strict=True))
    none = np.zeros(0, np.int64)
    suffixes = []  # for each request: its tokens, their types, and their places in its prompt, -1 for a picture's
    for i, cut, grown in flat:
        count, begin = len(laid[i].ids), cut - grown
        inside, after = laid[i].inside[0] if laid[i].inside else (count, count)
        picture, kinds = pictures.get(i, (none, none))
        places = [np.arange(begin, inside), np.full(len(picture), -1), np.arange(after, count)]
        tokens = [laid[i].ids[begin:inside], picture, laid[i].ids[after:]]
        said = [np.zeros(inside - begin, np.int64), kinds, np.zeros(count - after, np.int64)]
        suffixes.append(tuple(np.concatenate(part) for part in (tokens, said, places)))
    width = max(len(tokens) for tokens, _, _ in suffixes)
    suffix, kinds_of = np.zeros((2, len(flat), width), np.int64)
    names = {name for one in laid for name in one.prompt.spans} | {"answer"}
    in_prefix = {name: np.zeros((len(flat), longest), bool) for name in names}
    in_suffix = {name: np.zeros((len(flat), width), bool) for name in names}
    for row, ((i, cut, grown), (tokens, said, places)) in enumerate(zip(flat, suffixes, strict=True)):
        suffix[row, : len(tokens)], kinds_of[row, : len(tokens)] = tokens, said
        for name, here in laid[i].spans().items():
            in_suffix[name][row, : len(tokens)] = here[places] & (places >= 0)
            # Anything before the image is not part of a prompt.
            in_prefix[name][row, grown:cut] = here[: cut - grown]
        in_suffix["answer"][row, len(tokens) - 1] = True

    def move(array: npt.NDArray[Any]) -> Any:
        return torch.from_numpy(array).to(backbone.device)

    return _Loaded(
        count=len(chosen),
        alone=np.array(alone, np.int64),
        alone_batch=alone_batch,
        prefix=prefix,
        prefix_length=[cut for cut, _ in cuts],
        rows=rows,
        suffix=move(suffix),
        suffix_length=[len(tokens) for tokens, _, _ in suffixes],
        crops=crops,
        types=move(kinds_of),
        in_prefix={name: move(mask) for name, mask in in_prefix.items() if mask.any()},
        in_suffix={name: move(mask) for name, mask in in_suffix.items()},
    )


def _until_picture(prompt: Prompt) -> Prompt:
    """The prompt up to the picture inside it, or the whole prompt if there is none."""
    front = prompt.in_front
    return (
        prompt
        if front == len(prompt.pictures)
        else Prompt(prompt.text[: prompt.pictures[front]], {}, (0,) * front)
    )


def _common_prefix(rows: Sequence[npt.NDArray[np.int64]]) -> int:
    """Number of leading tokens that all rows share; each row keeps at least one token of its own."""
    length = min(map(len, rows)) - 1
    table = np.stack([row[:length] for row in rows])
    differs = np.flatnonzero((table != table[0]).any(axis=0))
    return int(differs[0]) if len(differs) else length


def _take(inputs: dict[str, Any], rows: Sequence[int], length: int) -> dict[str, Any]:
    """Some rows of model inputs, cut off after ``length`` tokens; if all rows are taken, images are taken whole."""
    shape = inputs["attention_mask"].shape
    everything = list(rows) == list(range(shape[0]))
    out = {}
    for name, value in inputs.items():
        if tuple(value.shape[:2]) == tuple(shape) and not value.is_floating_point():
            out[name] = value[list(rows), :length].clone()
        elif everything or value.shape[0] != shape[0]:
            out[name] = value
        else:
            out[name] = value[list(rows)]
    return out


def _compute(
    backbone: Backbone,
    loaded: _Loaded,
    layers: Sequence[int],
    spans: Sequence[str],
    pooling: Pooling,
    attention: str,
) -> npt.NDArray[np.float32]:
    import torch

    ways: list[tuple[int, Pooling]] = [(layer, how) for layer in layers for how in poolings(pooling)]
    out = np.empty((loaded.count, len(ways), len(spans) * backbone.hidden_size), np.float32)
    base = backbone.model.base_model
    with torch.inference_mode():
        if loaded.alone_batch is not None:
            batch = loaded.alone_batch
            states = base(**batch.inputs, output_hidden_states=True, use_cache=False).hidden_states
            out[loaded.alone] = _stack(
                [[pool_span(states[layer], batch.spans[span], how) for span in spans] for layer, how in ways]
            )
        if loaded.rows:
            before, after = _states(backbone, loaded, attention)
            owner = torch.tensor(
                [b for b, group in enumerate(loaded.rows) for _ in group], device=backbone.device
            )
            found = []
            for layer, how in ways:
                pooled = []
                for span in spans:
                    inside = loaded.in_suffix[span]
                    if span in loaded.in_prefix:
                        states = torch.cat([before[layer][owner], after[layer]], dim=1)
                        pooled.append(
                            pool_span(states, torch.cat([loaded.in_prefix[span], inside], dim=1), how)
                        )
                    else:
                        pooled.append(pool_span(after[layer], inside, how))
                found.append(pooled)
            out[[i for group in loaded.rows for i in group]] = _stack(found)
    return out


def _stack(pooled: Sequence[Sequence[Any]]) -> npt.NDArray[np.float32]:
    import torch

    return torch.stack([torch.cat(list(row), dim=-1) for row in pooled], dim=1).float().cpu().numpy()


def _states(backbone: Backbone, loaded: _Loaded, attention: str) -> tuple[Any, Any]:
    """Hidden states of every layer: of the prefixes [B, P, H], and of the suffixes [R, S, H]."""
    import torch
    from transformers import DynamicCache

    base, decoder = backbone.model.base_model, backbone.family.decoder(backbone.model)
    cache: Any = DynamicCache()
    before = base(
        **loaded.prefix, past_key_values=cache, use_cache=True, output_hidden_states=True
    ).hidden_states
    counts = [len(group) for group in loaded.rows]
    starts = torch.repeat_interleave(
        _starts(base, loaded), torch.tensor(counts, device=backbone.device), dim=-1
    )
    places = starts[..., None] + _steps(base, loaded)
    told: dict[str, Any] = {"position_ids": places, "output_hidden_states": True}
    if not loaded.crops:
        told["inputs_embeds"] = backbone.model.get_input_embeddings()(loaded.suffix)
    if attention == "cache":
        copies: Any = DynamicCache()
        for number, layer in enumerate(cache.layers):
            keys, values = (
                torch.repeat_interleave(t, torch.tensor(counts, device=t.device), dim=0)
                for t in (layer.keys, layer.values)
            )
            copies.update(keys, values, number)
        seen = torch.repeat_interleave(
            loaded.prefix["attention_mask"], torch.tensor(counts, device=backbone.device), dim=0
        )
        mask = torch.cat([seen, torch.ones_like(loaded.suffix)], dim=1)
        after = decoder(**told, attention_mask=mask, past_key_values=copies, use_cache=True)
        return before, after.hidden_states
    kept = [(layer.keys, layer.values) for layer in cache.layers]
    # Only in models with token types do the tokens of a picture attend to one another in both directions.
    seen_whole = loaded.types > 0 if loaded.crops and "token_type_ids" in loaded.prefix else None
    with _two_part(decoder, kept, loaded.prefix_length, counts, seen_whole) as calls:
        if loaded.crops:  # the whole model inserts the pictures, as it does in a prompt
            after = base(input_ids=loaded.suffix, **loaded.crops, **told, use_cache=False)
        else:
            after = decoder(**told, use_cache=False)
    if len(calls) != len(decoder.layers):
        raise DigiQError(
            f"engine shared: the attention of {type(decoder).__name__} cannot be replaced; use --featurize.shared.attention "
            "cache, or engine plain."
        )
    return before, after.hidden_states


def _starts(base: Any, loaded: _Loaded) -> Any:
    """The position after each prefix: int64 [B], or [3, B] for models that place tokens in time, height and width."""
    import torch

    inputs = loaded.prefix
    lengths = torch.tensor(loaded.prefix_length, device=inputs["input_ids"].device)
    if not hasattr(base, "get_rope_index"):
        return lengths
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    places, _ = base.get_rope_index(**{name: inputs[name] for name in names if name in inputs})
    real = inputs["attention_mask"].bool()
    return places.masked_fill(~real, -1).amax(dim=(0, 2)).expand(3, -1) + 1


def _steps(base: Any, loaded: _Loaded) -> Any:
    """Positions of the suffixes counted from 0: int64 [S], or [3, R, S] if pictures in them have three dimensions."""
    import torch

    device = loaded.suffix.device
    steps = torch.arange(loaded.suffix.shape[1], device=device)
    if not loaded.crops or not hasattr(base, "get_rope_index"):
        return steps
    real = steps < torch.tensor(loaded.suffix_length, device=device)[:, None]
    return base.get_rope_index(
        input_ids=loaded.suffix,
        mm_token_type_ids=loaded.types,
        image_grid_thw=loaded.crops["image_grid_thw"],
        attention_mask=real.long(),
    )[0]


@dataclasses.dataclass
class _Prefix:
    """What the suffixes of a batch attend to beside themselves."""

    layers: Sequence[tuple[Any, Any]]
    """Keys and values of each layer, [B, heads, P, D]."""
    lengths: Sequence[int]
    counts: Sequence[int]
    whole: Any = None
    """bool [R, S], tokens of pictures in the suffixes that attend to one another."""
    calls: list[int] = dataclasses.field(default_factory=list)


_current: list[_Prefix] = []  # the one used by the running forward pass


@contextlib.contextmanager
def _two_part(
    decoder: Any,
    layers: Sequence[tuple[Any, Any]],
    lengths: Sequence[int],
    counts: Sequence[int],
    whole: Any = None,
) -> Iterator[list[int]]:
    """Splits the attention of ``decoder`` into two parts inside the block; yields the list of layers that used it."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)
    before = decoder.config._attn_implementation
    prefix = _Prefix(layers, lengths, counts, whole)
    _current.append(prefix)
    decoder.config._attn_implementation = _NAME
    try:
        yield prefix.calls
    finally:
        decoder.config._attn_implementation = before
        _current.pop()


def _attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """As Transformers calls it: query [R, heads, S, D], key and value [R, fewer heads, S, D]; out [R, S, heads, D].

    The mask is ignored: suffixes are padded on the right, and causality keeps the padding out.
    """
    import torch

    prefix = _current[-1]
    prefix.calls.append(module.layer_idx)
    keys: Any
    values: Any
    keys, values = prefix.layers[module.layer_idx]
    _, heads, steps, width = query.shape
    fewer = key.shape[1]
    group = heads // fewer
    scale = width**-0.5 if scaling is None else scaling
    window = sliding_window if sliding_window and sliding_window < keys.shape[2] + steps else None
    at = torch.arange(steps, device=query.device)
    band = None
    if window is not None and window < steps:
        band = (at[:, None] >= at) & (at[:, None] - at < window)
    if prefix.whole is not None:
        together = (prefix.whole[:, :, None] & prefix.whole[:, None, :])[:, None]
        band = together | (at[:, None] >= at if band is None else band)
    own, own_lse = _attend(
        query,
        key.repeat_interleave(group, dim=1),
        value.repeat_interleave(group, dim=1),
        scale,
        causal=band is None,
        mask=band,
    )
    out = torch.empty_like(own)
    start = 0
    for b, (length, count) in enumerate(zip(prefix.lengths, prefix.counts, strict=True)):
        here = slice(start, start + count)
        start += count
        # Queries of all candidates, and of all heads that share keys, form one product with the prefix.
        asked = query[here].view(count, fewer, group, steps, width).permute(1, 2, 0, 3, 4)
        asked = asked.reshape(1, fewer, group * count * steps, width)
        mask = None
        if window is not None:
            distance = length + at[:, None] - torch.arange(length, device=query.device)
            mask = (distance < window).repeat(group * count, 1)
        seen, seen_lse = _attend(
            asked, keys[b : b + 1, :, :length], values[b : b + 1, :, :length], scale, mask=mask
        )
        shape = (fewer, group, count, steps)
        seen = seen.view(*shape, width).permute(2, 0, 1, 3, 4).reshape(count, heads, steps, width)
        seen_lse = seen_lse.view(shape).permute(2, 0, 1, 3).reshape(count, heads, steps)
        share = torch.sigmoid(seen_lse - own_lse[here])[..., None].to(own.dtype)
        out[here] = torch.lerp(own[here], seen, share)
    return out.transpose(1, 2), None


def _attend(
    query: Any, key: Any, value: Any, scale: float, *, causal: bool = False, mask: Any = None
) -> tuple[Any, Any]:
    """Attention [B, h, Q, D] and its log-sum-exps, float32 [B, h, Q]; a mask is bool [Q, K] or [B, 1, Q, K]."""
    import torch

    if mask is None and query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
    half = query.dtype in (torch.bfloat16, torch.float16)
    if mask is None and query.device.type == "cuda" and half and query.shape[-1] % 8 == 0:
        found = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, scale=scale
        )
        return found[0], found[1]
    scores = torch.matmul(query.float() * scale, key.float().transpose(-1, -2))
    if causal:
        steps = torch.arange(query.shape[2], device=query.device)
        mask = steps[:, None] >= steps
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    sums = torch.logsumexp(scores, dim=-1)
    # If the prefix lies outside a query's window, the prefix's share of its attention is zero.
    weights = torch.nan_to_num(torch.exp(scores - sums[..., None]))
    return torch.matmul(weights, value.float()).to(query.dtype), sums
