"""Features of plain arrays, without artefacts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq.errors import DigiQError
from digiq.features.engines.base import Request
from digiq.features.engines.plain import Pooling, extract, open_truncated, wanted_layers
from digiq.vlm.prompts import Grounding


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
