"""The plain engine: one batched forward pass per (observation, action), hidden states of chosen layers, pooled.

The language model is cut off above the highest wanted layer, and the vocabulary projection never runs. Batches hold
prompts of similar length, because padding is work too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq.errors import DigiQError
from digiq.vlm.prompts import Grounding, Prompt, build_prompt, draw_cursor

if TYPE_CHECKING:
    from digiq.vlm.backbone import Backbone

Pooling = Literal["last", "mean"]


class Readable(Protocol):
    """What the engine reads of a request; ``screenshot`` is asked for once, when its batch is prepared."""

    @property
    def screenshot(self) -> npt.NDArray[np.uint8]: ...

    @property
    def prompt(self) -> Prompt: ...


@dataclasses.dataclass(frozen=True)
class Request:
    """One forward pass: a screenshot (uint8 [H, W, 3], cursor drawn) and its prompt."""

    screenshot: npt.NDArray[np.uint8]
    prompt: Prompt

    @classmethod
    def build(
        cls, screenshot: npt.NDArray[np.uint8], goal: str, action: Action | None, grounding: Grounding
    ) -> Request:
        """The request of a pair, or of an observation where ``action`` is None."""
        shown = draw_cursor(screenshot, action) if grounding == "cursor" else screenshot
        return cls(shown, build_prompt(goal, action, grounding=grounding))


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
    requests: Sequence[Readable],
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


def extract_features(
    items: Iterable[tuple[npt.NDArray[np.uint8], str, Action | None]],
    *,
    model: str | Path,
    layers: Sequence[int] = (-1,),
    spans: Sequence[str] = ("answer",),
    pooling: Pooling = "last",
    grounding: Grounding = "cursor",
    batch_size: int = 32,
    dtype: str = "bfloat16",
    device: str = "cpu",
) -> dict[int, npt.NDArray[np.float32]]:
    """Features of plain (screenshot, goal, action) triples; ``action`` None gives the observation's.

    Either all actions are None or none is, because the two kinds of prompt have different spans.

    Args:
      items: screenshots are uint8 [H, W, 3].
      model: a Hugging Face image-text-to-text directory.
      layers: from 1, or from the end with negative numbers.
      spans: of :mod:`digiq.vlm.prompts`, or ``answer``, the last token.
      pooling: over each span.
      grounding: how a tap's place is shown.
      batch_size: items a forward pass.
      dtype: torch's name of the model's type.
      device: where torch runs.

    Returns:
      By resolved layer number, float32 [len(items), len(spans)·H].
    """
    from digiq.vlm.backbone import load_backbone

    requests = [Request.build(screenshot, goal, action, grounding) for screenshot, goal, action in items]
    backbone, full = open_truncated(load_backbone(model, dtype=dtype, device=device), layers)
    numbers = wanted_layers(layers, full)
    out: npt.NDArray[np.float32] | None = None
    for positions, features in extract(
        backbone, requests, layers=numbers, spans=spans, pooling=pooling, batch_size=batch_size
    ):
        if out is None:
            out = np.empty((len(requests), *features.shape[1:]), np.float32)
        out[positions] = features
    if out is None:
        raise DigiQError("extract_features: no items were given.")
    return {layer: out[:, i] for i, layer in enumerate(numbers)}


def open_truncated(backbone: Backbone, layers: Sequence[int]) -> tuple[Backbone, int]:
    """Cuts an opened backbone above the highest wanted layer; returns it with its full number of layers."""
    from digiq.vlm.backbone import truncate

    full = backbone.num_layers
    return truncate(backbone, max(wanted_layers(layers, full))), full
