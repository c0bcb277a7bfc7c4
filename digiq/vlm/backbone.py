"""Loads a Hugging Face image-text-to-text model and feeds it screenshots and prompts.

Any directory that ``AutoModelForImageTextToText`` and ``AutoProcessor`` open will do (LLaVA, Qwen-VL, SmolVLM, ...); what a
family of models needs beyond that is :mod:`digiq.vlm.families`'s.
Only the layers up to the highest wanted one are kept: the rest is cut off the language model's layer list and the
final norm becomes the identity, so the last hidden state is that layer's.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from digiq.switches import TRUST_REMOTE_CODE
from digiq.vlm.families import BackboneError, Family, family_of
from digiq.vlm.prompts import Prompt

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Backbone:
    """A model in evaluation mode with its processor.

    ``num_layers`` counts the language model's layers that are left, ``hidden_size`` is their width.
    """

    model: Any
    processor: Any
    path: Path
    num_layers: int
    hidden_size: int
    family: Family

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


@dataclass(frozen=True)
class Batch:
    """Model inputs and, by span name, which positions to pool: bool [B, T]."""

    inputs: dict[str, torch.Tensor]
    spans: dict[str, torch.Tensor]


def load_backbone(
    path: str | Path, *, device: str = "cpu", dtype: str = "bfloat16", num_layers: int | None = None
) -> Backbone:
    """Opens a model directory.

    Args:
      path: a directory with a config, weights and a processor.
      device: where torch should put it.
      dtype: torch's name of the weights' and activations' type.
      num_layers: language layers to keep; None keeps all and the final norm.

    Raises:
      BackboneError: no such directory, no processor, not an image-text-to-text model, or fewer layers than asked.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path = Path(path)
    check_model_directory(path)
    trusted = os.environ.get(TRUST_REMOTE_CODE) == "1"
    try:
        # Said either way, as asked for nothing it asks on the terminal.
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=trusted)
        opened: Any = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            trust_remote_code=trusted,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, info = opened
    except Exception as error:  # whatever a directory holds, and whatever the library makes of it
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(f"{path}: does not open as an image-text-to-text model: {reason}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise BackboneError(
            f"{path}: its weights lack {len(missing)} tensors ('{missing[0]}', ...), which would be random; copy it again."
        )
    broken = next((name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())), None)
    if broken is not None:
        raise BackboneError(f"{path}: the tensor '{broken}' holds NaN or Inf; copy or train it again.")
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise BackboneError(f"{path}: its processor is {type(processor).__name__}, which takes no images.")
    # Convolutions are faster so, on CPUs and GPUs; nothing else has four dimensions.
    model.to(device, memory_format=torch.channels_last).eval()
    family = family_of(model.config)
    language_model = family.decoder(model)
    if num_layers is not None:
        _truncate(language_model, num_layers, path)
    return Backbone(
        model=model,
        processor=processor,
        path=path,
        num_layers=len(language_model.layers),
        hidden_size=model.config.get_text_config().hidden_size,
        family=family,
    )


def check_model_directory(path: Path) -> None:
    """Refuses a directory that cannot hold a model and its processor, without loading anything.

    Raises:
      BackboneError: no config.json, or no processor.
    """
    if not (path / "config.json").is_file():
        raise BackboneError(f"{path}: no config.json, so it is not a Hugging Face model directory.")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BackboneError(f"{path}/config.json: not readable ({error}); copy it again.") from None
    if not isinstance(config, dict):
        raise BackboneError(f"{path}/config.json: a {type(config).__name__} where an object is needed.")
    if not any((path / name).is_file() for name in _PROCESSOR_FILES):
        raise BackboneError(
            f"{path}: has a model but no processor (preprocessor_config.json or processor_config.json); "
            "save one beside it with processor.save_pretrained."
        )
    if not any(path.glob("*.safetensors")):
        pickles = sorted(file.name for file in path.glob("*.bin"))
        found = f"only {pickles[0]}, which can run code when it is read" if pickles else "no weights"
        raise BackboneError(f"{path}: has {found}; save the model as safetensors (save_pretrained does).")
    if "auto_map" in config and os.environ.get(TRUST_REMOTE_CODE) != "1":
        raise BackboneError(
            f"{path}: brings code of its own (auto_map in config.json), which is not run; add --trust-remote-code if you "
            "know where it comes from."
        )


def truncate(backbone: Backbone, num_layers: int) -> Backbone:
    """Cuts an opened model above ``num_layers``, in place; see :func:`load_backbone`."""
    _truncate(backbone.family.decoder(backbone.model), num_layers, backbone.path)
    return dataclasses.replace(backbone, num_layers=num_layers)


def _truncate(language_model: Any, num_layers: int, path: Path) -> None:
    have = len(language_model.layers)
    if not 1 <= num_layers <= have:
        raise BackboneError(f"{path}: num_layers is {num_layers}, but the model has layers 1 to {have}.")
    if num_layers < have:
        language_model.layers = language_model.layers[:num_layers]
        language_model.norm = nn.Identity()
        language_model.config.num_hidden_layers = num_layers


def render_prompt(backbone: Backbone, prompt: Prompt) -> tuple[str, int]:
    """The whole text for the processor, and where ``prompt.text`` begins in it.

    Raises:
      BackboneError: the model's chat template changes the prompt.
    """
    whole = backbone.family.render(backbone.processor, prompt.text)
    start = whole.rfind(prompt.text)
    if start < 0:
        raise BackboneError(f"{backbone.path}: its chat template rewrites the prompt, so spans are lost.")
    return whole, start


def count_tokens(backbone: Backbone, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of each prompt's own text, without image and template."""
    if not prompts:
        return []
    return [len(ids) for ids in backbone.processor.tokenizer([p.text for p in prompts])["input_ids"]]


def prepare(backbone: Backbone, screenshots: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> Batch:
    """Model inputs for one prompt on each screenshot, and the positions of the prompts' spans.

    Args:
      screenshots: uint8 [H, W, 3] each, cursors already drawn.
      prompts: as many; each with the same span names. Adds the span ``answer``, the last position.
    """
    texts, starts = zip(*(render_prompt(backbone, prompt) for prompt in prompts), strict=True)
    inputs = backbone.processor(
        images=[Image.fromarray(s) for s in screenshots],
        text=list(texts),
        padding=True,
        padding_side="right",  # so that a position does not depend on what else is in the batch
        return_tensors="pt",
        return_offsets_mapping=True,
    )
    offsets = inputs.pop("offset_mapping")
    real = inputs["attention_mask"].bool()
    # The image placeholder grows in the processor, so distances are taken from the text's end, which stays put.
    ends = (offsets[..., 1] * real).amax(dim=1)
    spans = {}
    for name in prompts[0].spans:
        rows = []
        for row, prompt in enumerate(prompts):
            shift = int(ends[row]) - len(texts[row]) + starts[row]
            first, last = (shift + edge for edge in prompt.spans[name])
            rows.append((offsets[row, :, 0] < last) & (offsets[row, :, 1] > first) & real[row])
        spans[name] = torch.stack(rows)
    positions = torch.arange(real.shape[1])
    last_position = (positions * real).amax(dim=1, keepdim=True)
    spans["answer"] = positions == last_position
    moved = {k: v.to(backbone.device) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    for name, value in moved.items():
        if value.is_floating_point():
            layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
            moved[name] = value.to(backbone.dtype, memory_format=layout)
    return Batch(moved, {name: mask.to(backbone.device) for name, mask in spans.items()})
