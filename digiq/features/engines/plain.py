"""The plain engine: one batched forward pass per (observation, action), hidden states of chosen layers, pooled.

The language model is cut off above the highest wanted layer, and the vocabulary projection never runs. Batches hold
prompts of similar length, because padding is work too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq import artifacts
from digiq.config import configclass
from digiq.errors import DigiQError
from digiq.features.engines.base import Kind, Request, layer_name
from digiq.vlm.prompts import Prompt, build_prompt

if TYPE_CHECKING:
    from digiq.features.extract import FeaturizeConfig
    from digiq.vlm.backbone import Backbone

Pooling = Literal["last", "mean"]
_VERSION = 1  # raised when the same settings would give other rows
_EXAMPLES: dict[Kind, Action | None] = {"observation": None, "pair": Action.back()}


@configclass
class Plain:
    """A forward pass of the VLM for every request."""

    packages: ClassVar = ("torch", "transformers")

    def open(self, reading: FeaturizeConfig, vlm: Path) -> PlainEngine:
        return open_plain(reading, vlm)


@dataclasses.dataclass(frozen=True)
class PlainEngine:
    """The opened VLM, cut off above the highest wanted layer."""

    backbone: Backbone
    numbers: tuple[int, ...]
    """The layers, from 1."""
    reading: FeaturizeConfig
    vlm: Path

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(map(layer_name, self.numbers))

    def dim(self, kind: Kind) -> int:
        return len(self.reading.spans(kind)) * self.backbone.hidden_size

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
            pooling=self.reading.pooling,
            batch_size=self.reading.batch_size,
        )

    @functools.cached_property
    def _model(self) -> str:
        return artifacts.content_digest(self.vlm)


def open_plain(
    reading: FeaturizeConfig, vlm: Path, change: Callable[[Any], None] = lambda model: None
) -> PlainEngine:
    """The engine over the model of a directory, which ``change`` may change in place before it is cut off."""
    from digiq.vlm.backbone import load_backbone

    for kind, action in _EXAMPLES.items():
        prompt = build_prompt("", action, grounding=reading.grounding)
        check_spans(reading.spans(kind), prompt, f"{kind}_spans")
    backbone = load_backbone(vlm, device=reading.device, dtype=reading.dtype)
    change(backbone.model)
    backbone, full = open_truncated(backbone, reading.layers)
    return PlainEngine(backbone, wanted_layers(reading.layers, full), reading, vlm)


def wanted_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Layers counted from 1, from negative numbers too (-1 is the last).

    Raises:
      DigiQError: a layer that the model does not have.
    """
    resolved = [layer if layer > 0 else num_layers + 1 + layer for layer in layers]
    for layer, given in zip(resolved, layers, strict=True):
        if not 1 <= layer <= num_layers:
            raise DigiQError(
                f"featurize.layers: {given} is no layer of a model with layers 1 to {num_layers}."
            )
    return tuple(dict.fromkeys(resolved))


def check_spans(spans: Sequence[str], prompt: Prompt, field: str) -> None:
    """Raises DigiQError, naming the config ``field``, for a span that a prompt lacks."""
    known = (*prompt.spans, "answer")
    for span in spans:
        if span not in known:
            raise DigiQError(
                f"featurize.{field}: no span '{span}' in the prompt; there are {', '.join(known)}."
            )


def extract(
    backbone: Backbone,
    requests: Sequence[Request],
    *,
    layers: Sequence[int],
    spans: Sequence[str],
    pooling: Pooling = "last",
    batch_size: int = 32,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Yields (positions int64 [B], features float32 [B, L, P·H]) batch by batch, in no particular order.

    Args:
      backbone: with at least ``max(layers)`` layers; cut it there, or the layers above run for nothing.
      requests: all with the same span names.
      layers: L layers, from 1. The model's last layer is read after its final norm, as Hugging Face gives it.
      spans: P spans of the prompts; each is pooled and they are concatenated.
      pooling: the last token of a span, or the mean of its tokens.
      batch_size: requests a forward pass.

    Raises:
      DigiQError: a span that the prompts lack.
    """
    import torch

    from digiq.vlm.backbone import count_tokens, prepare

    if requests:
        check_spans(spans, requests[0].prompt, "spans")
    # Prompts of one length need no mask either, and attention is faster without.
    order = np.argsort(count_tokens(backbone, [r.prompt for r in requests]), kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def load(positions: npt.NDArray[np.int64]) -> Any:
        chosen = [requests[i] for i in positions]
        return prepare(backbone, [r.screenshot for r in chosen], [r.prompt for r in chosen])

    # The next batch is resized and tokenised while the model runs on this one.
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(load, batches[0]) if batches else None
        for number, positions in enumerate(batches):
            assert following is not None
            batch = following.result()
            following = pool.submit(load, batches[number + 1]) if number + 1 < len(batches) else None
            with torch.inference_mode():
                output = backbone.model.base_model(**batch.inputs, output_hidden_states=True, use_cache=False)
                states = output.hidden_states
                pooled = [
                    torch.cat(
                        [pool_span(states[layer], batch.spans[span], pooling) for span in spans], dim=-1
                    )
                    for layer in layers
                ]
                yield positions, torch.stack(pooled, dim=1).float().cpu().numpy()


def pool_span(states: Any, mask: Any, pooling: Pooling) -> Any:
    """Pools hidden states [B, T, H] over the positions of a mask [B, T], in float32: [B, H].

    Raises:
      DigiQError: a span without a token, as happens when a prompt is cut off.
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


def open_truncated(backbone: Backbone, layers: Sequence[int]) -> tuple[Backbone, int]:
    """Cuts an opened backbone above the highest wanted layer; returns it with its full number of layers."""
    from digiq.vlm.backbone import truncate

    full = backbone.num_layers
    return truncate(backbone, max(wanted_layers(layers, full))), full
