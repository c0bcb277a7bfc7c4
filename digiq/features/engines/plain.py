"""The plain engine: batched forward passes, one prompt per (observation, action), with pooled states of chosen layers.

The language model is cut off above the highest wanted layer, and the vocabulary projection never runs. Batches hold
prompts of similar length, because padding costs computation too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq import artifacts
from digiq.config import configclass
from digiq.errors import DigiQError
from digiq.features.engines.base import Kind, Layer, Request, decoded, layer_name
from digiq.features.engines.pipeline import BatchSize, ahead, batch_size_for, preparing
from digiq.vlm.prompts import Pooling, Prompt

if TYPE_CHECKING:
    from digiq.features.extract import FeaturizeConfig
    from digiq.vlm.backbone import Backbone

_VERSION = 1  # raised when the same settings give different rows
_EXAMPLES: dict[Kind, Action | None] = {"observation": None, "pair": Action.back()}


@configclass
class Plain:
    """One forward pass of the VLM per request."""

    packages: ClassVar = ("torch", "transformers")

    def open(self, reading: FeaturizeConfig, vlm: Path) -> PlainEngine:
        return open_plain(reading, vlm)


@dataclasses.dataclass(frozen=True)
class PlainEngine:
    """The opened VLM, cut off above the highest wanted layer."""

    backbone: Backbone
    numbers: tuple[int, ...]
    """The layers, counted from 1."""
    reading: FeaturizeConfig
    vlm: Path

    @property
    def layers(self) -> tuple[str, ...]:
        if self.pooling == "both":
            return tuple(layer_name(n, how) for n in self.numbers for how in poolings("both"))
        return tuple(map(layer_name, self.numbers))

    def dim(self, kind: Kind) -> int:
        return len(self.reading.spans(kind)) * self.backbone.hidden_size

    @property
    def pooling(self) -> Pooling:
        assert self.reading.pooling != "auto"  # the config is resolved
        return self.reading.pooling

    def identity(self, kind: Kind) -> dict[str, Any]:
        return {
            "model": self._model,
            "layers": self.numbers,
            "spans": self.reading.spans(kind),
            "pooling": self.reading.pooling,
            "grounding": self.reading.grounding,
            "dtype": self.reading.dtype,
            "version": _VERSION,
        }

    def rows(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        kind = "observation" if requests and requests[0].action is None else "pair"
        return extract(
            self.backbone,
            requests,
            layers=self.numbers,
            spans=self.reading.spans(kind),
            pooling=self.pooling,
            batch_size=self.reading.batch_size,
        )

    @functools.cached_property
    def _model(self) -> str:
        return artifacts.content_digest(self.vlm)


def open_plain(
    reading: FeaturizeConfig, vlm: Path, change: Callable[[Any], None] = lambda model: None
) -> PlainEngine:
    """The engine for the model in a directory; ``change`` may modify the model in place before it is cut off."""
    from digiq.vlm.backbone import check_backbone, load_backbone

    reading = reading.resolved(vlm)
    for kind, action in _EXAMPLES.items():
        prompt = reading.template.prompt("", action, grounding=reading.grounding)
        check_spans(reading.spans(kind), prompt, f"{kind}_spans")
    backbone = load_backbone(vlm, device=reading.device, dtype=reading.dtype)
    cropped = reading.grounding == "crop"
    check_backbone(backbone, before=reading.remembered.screenshot, cropped=cropped)
    change(backbone.model)
    backbone, full = open_truncated(backbone, reading.layers)
    return PlainEngine(backbone, wanted_layers(reading.layers, full), reading, vlm)


def wanted_layers(layers: Sequence[Layer], num_layers: int) -> tuple[int, ...]:
    """The wanted layers, counted from 1, without duplicates.

    Args:
      layers: numbers from 1 or, negative, from the end (-1 is the last); fractions of the depth between 0 and 1,
        rounded to a layer; ``middle`` for 0.5; ``all``.
      num_layers: number of layers of the whole model.

    Raises:
      DigiQError: the model does not have one of the layers.
    """
    resolved: list[int] = []
    for given in layers:
        share = 0.5 if given == "middle" else given
        if share == "all":
            resolved += range(1, num_layers + 1)
            continue
        if isinstance(share, float) and 0 < share < 1:
            layer = min(num_layers, max(1, round(share * num_layers)))
        else:
            layer = share if not isinstance(share, int) or share > 0 else num_layers + 1 + share
        if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= layer <= num_layers:
            raise DigiQError(
                f"featurize.layers: {given} is not a layer of a model with layers 1 to {num_layers}; give numbers, negative ones "
                "from the end, shares such as 0.5, 'middle' or 'all'."
            )
        resolved.append(layer)
    return tuple(dict.fromkeys(resolved))


def check_spans(spans: Sequence[str], prompt: Prompt, field: str) -> None:
    """Raises DigiQError, naming the config ``field``, if the prompt lacks a span."""
    known = (*prompt.spans, "answer")
    for span in spans:
        if span not in known:
            raise DigiQError(
                f"featurize.{field}: the prompt has no span '{span}'; it has {', '.join(known)}."
            )


def extract(
    backbone: Backbone,
    requests: Sequence[Request],
    *,
    layers: Sequence[int],
    spans: Sequence[str],
    pooling: Pooling = "last",
    batch_size: BatchSize = 32,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """(positions int64 [B], features float32 [B, L, P·H]) batch by batch, in no particular order.

    Args:
      backbone: with at least ``max(layers)`` layers; cut it off there, or the layers above run in vain.
      requests: must all have the same span names.
      layers: L layers, from 1. The model's last layer is read after its final norm, as Hugging Face returns it.
      spans: P spans of the prompts; each is pooled, and the results are concatenated.
      pooling: the last token of a span, or the mean of its tokens; ``both`` gives 2·L layers, the two of one layer side
        by side.
      batch_size: requests per forward pass; auto: as many as should fit into memory.

    Raises:
      DigiQError: the prompts lack a span.
    """
    import torch

    from digiq.vlm.backbone import count_tokens, prepare

    if requests:
        check_spans(spans, requests[0].prompt, "spans")
    # Prompts of equal length also need no mask, and attention is faster without one.
    counts = preparing.submit(count_tokens, backbone, [r.prompt for r in requests]).result()
    order = np.lexsort([counts, [len(r.prompt.pictures) for r in requests]])
    batch_size = sized(backbone, [requests[i] for i in order[-1:]], batch_size)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def load(positions: npt.NDArray[np.int64]) -> Any:
        chosen = [requests[i] for i in positions]
        with naming(chosen):
            return prepare(backbone, screens(chosen), [r.prompt for r in chosen])

    def compute(batch: Any) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            output = backbone.model.base_model(**batch.inputs, output_hidden_states=True, use_cache=False)
            states = output.hidden_states
            pooled = [
                torch.cat([pool_span(states[layer], batch.spans[span], how) for span in spans], dim=-1)
                for layer in layers
                for how in poolings(pooling)
            ]
            return torch.stack(pooled, dim=1).float().cpu().numpy()

    return ahead(batches, load, compute)


def sized(backbone: Backbone, longest: Sequence[Request], batch_size: BatchSize) -> int:
    """Requests per forward pass; ``longest`` holds the one that takes most memory, if there is any."""
    if batch_size != "auto":
        return batch_size
    if not longest:
        return 1
    from digiq.vlm.backbone import prepare

    def tokens() -> int:
        with naming(longest):
            batch = prepare(backbone, screens(longest), [r.prompt for r in longest])
        return batch.inputs["input_ids"].shape[1]

    return batch_size_for(backbone, preparing.submit(tokens).result())


def screens(requests: Sequence[Request]) -> list[list[npt.NDArray[np.uint8]]]:
    """The pictures of each request; raises DigiQError, saying where, if a screenshot cannot be read."""
    later = [(request, request.before) for request in requests if request.before is not None]
    images = decoded([*(request.image for request in requests), *(before for _, before in later)])
    good: list[npt.NDArray[np.uint8]] = []
    for number, (request, image) in enumerate(zip([*requests, *(r for r, _ in later)], images, strict=True)):
        if isinstance(image, Exception):
            which = "screenshot" if number < len(requests) else "previous screenshot"
            raise DigiQError(
                f"featurize: {request.where or 'a request'}: its {which} cannot be read ({image}). Finished shards are kept."
            ) from image
        good.append(image)
    befores = iter(good[len(requests) :])
    return [
        request.pictures(image, None if request.before is None else next(befores))
        for request, image in zip(requests, good, strict=False)
    ]


@contextlib.contextmanager
def naming(requests: Sequence[Request]) -> Iterator[None]:
    """Adds episode and step to the error about a request that the backbone cannot take."""
    from digiq.vlm.backbone import InputError

    try:
        yield
    except InputError as error:
        where = requests[error.row].where
        raise DigiQError(
            f"featurize: {where + ': ' if where else ''}{error.message}. Finished shards are kept."
        ) from error


def poolings(pooling: Pooling) -> tuple[Pooling, ...]:
    """The single poolings that make up ``pooling``."""
    return ("last", "mean") if pooling == "both" else (pooling,)


def pool_span(states: Any, mask: Any, pooling: Pooling) -> Any:
    """Pools hidden states [B, T, H] over the positions of a mask [B, T], in float32: [B, H].

    Raises:
      DigiQError: a span has no token, as happens when a prompt is cut off.
    """
    import torch

    if not bool(mask.any(dim=1).all()):
        raise DigiQError(
            "featurize: a span of the prompt has no token; is the prompt longer than the model takes?"
        )
    if pooling == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * mask).amax(dim=1)
        return states[torch.arange(len(states), device=states.device), last].float()
    weights = mask.float() / mask.sum(dim=1, keepdim=True)
    return torch.einsum("bt,bth->bh", weights, states.float())


def open_truncated(backbone: Backbone, layers: Sequence[Layer]) -> tuple[Backbone, int]:
    """Cuts an opened backbone above the highest wanted layer; returns it with its full number of layers."""
    from digiq.vlm.backbone import truncate

    full = backbone.num_layers
    return truncate(backbone, max(wanted_layers(layers, full))), full
