"""Loads a Hugging Face image-text-to-text model and feeds it screenshots and prompts.

Models of the families listed in :mod:`digiq.vlm.families` open (LLaVA, Qwen-VL, SmolVLM, ...). Others are refused by
name, because their spans and layers would be guesses. Only the layers up to the highest wanted one are kept. The rest
is cut off the language model's layer list, and the final norm becomes the identity, so the last hidden state is that
layer's.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import re
import types
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
from digiq.vlm.processors import open_processor
from digiq.vlm.prompts import CROP_SIDE, Prompt

CROP_TOKENS = 300
"""Most tokens that a crop may have; with more, it would cost as much as a forward pass over the screen."""
_TYPES = ("mm_token_type_ids", "token_type_ids")
_LFS = b"version https://git-lfs"
_SURROGATES = re.compile("[\ud800-\udfff]")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Backbone:
    """A model in evaluation mode with its processor.

    ``num_layers`` is the number of remaining language-model layers, ``hidden_size`` their width.
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

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt, if the model states a limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @functools.cached_property
    def placeholder(self) -> str:
        """What stands for a picture inside a prompt; raises BackboneError if none can be there."""
        return _inside(self.family, self.processor, self.model.config.model_type)

    @functools.cached_property
    def special(self) -> re.Pattern[str] | None:
        """Matches what the tokeniser takes for something other than text, wherever it stands."""
        tokens = {str(t) for t in self.processor.tokenizer.added_tokens_decoder.values() if t.special}
        tokens |= {t for t in (getattr(self.processor, "image_token", None),) if isinstance(t, str)}
        found = [re.escape(t) for t in sorted(tokens, key=len, reverse=True) if len(t.strip()) > 1]
        return re.compile("|".join(found)) if found else None


class InputError(BackboneError):
    """A request that the model cannot take; ``row`` is its place in the batch."""

    def __init__(self, row: int, message: str):
        super().__init__(message)
        self.row, self.message = row, message


@dataclass(frozen=True)
class Batch:
    """Model inputs and, by span name, the positions to pool: bool [B, T]."""

    inputs: dict[str, torch.Tensor]
    spans: dict[str, torch.Tensor]


def load_backbone(
    path: str | Path, *, device: str = "cpu", dtype: str = "bfloat16", num_layers: int | None = None
) -> Backbone:
    """Opens a model directory.

    Args:
      path: a directory with a config, weights and a processor.
      device: torch device for the model.
      dtype: torch's name for the type of weights and activations.
      num_layers: language layers to keep; None keeps all and the final norm.

    Raises:
      BackboneError: the directory or its processor is missing, the model is not an image-text-to-text model, or it has
        fewer layers than requested.
    """
    from transformers import AutoModelForImageTextToText

    path = Path(path)
    check_model_directory(path)
    trusted = os.environ.get(TRUST_REMOTE_CODE) == "1"
    try:
        processor = open_processor(path, trusted=trusted)
        opened: Any = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            trust_remote_code=trusted,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, info = opened
    except Exception as error:  # anything can happen with an arbitrary directory
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
    if processor.tokenizer.pad_token is None:
        if processor.tokenizer.eos_token is None:
            raise BackboneError(f"{path}: its tokeniser has no pad token; name one in tokenizer_config.json.")
        processor.tokenizer.pad_token = processor.tokenizer.eos_token  # padding is masked
    family = family_of(model.config)
    model.to(device).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # faster this way, on CPUs and GPUs
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
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
      BackboneError: config.json or the processor is missing.
    """
    if not (path / "config.json").is_file():
        raise BackboneError(f"{path}: no config.json, so it is not a Hugging Face model directory.")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BackboneError(f"{path}/config.json: not readable ({error}); copy it again.") from None
    if not isinstance(config, dict):
        raise BackboneError(f"{path}/config.json: a {type(config).__name__} where an object is needed.")
    if "auto_map" not in config and isinstance(config.get("model_type"), str):
        family = family_of(types.SimpleNamespace(**config))
        lacking = [package for package in family.needs if importlib.util.find_spec(package) is None]
        if lacking:
            raise BackboneError(
                f"{path}: its processor needs the package '{lacking[0]}', which 'pip install digiq[vlm]' installs."
            )
    if not any((path / name).is_file() for name in _PROCESSOR_FILES):
        raise BackboneError(
            f"{path}: has a model but no processor (preprocessor_config.json or processor_config.json); "
            "save one beside it with processor.save_pretrained."
        )
    for file in (*path.glob("*.safetensors"), path / "tokenizer.json"):
        if file.is_file():
            with file.open("rb") as opened:
                if opened.read(len(_LFS)) == _LFS:
                    raise BackboneError(f"{file}: a Git LFS pointer, not the file; run 'git lfs pull' there.")
    for index in path.glob("*.safetensors.index.json"):
        try:
            listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BackboneError(f"{index}: not readable; copy it again.") from None
        missing = sorted(name for name in listed if not (path / str(name)).is_file())
        if missing:
            raise BackboneError(
                f"{path}: {len(missing)} of its weight files are missing ({missing[0]}, ...); copy it again."
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
    whole = backbone.family.render(backbone.processor, prompt.text, prompt.in_front)
    start = whole.rfind(prompt.text)
    if start < 0:
        raise BackboneError(f"{backbone.path}: its chat template rewrites the prompt, so spans are lost.")
    return whole, start


def escaped(backbone: Backbone, prompt: Prompt) -> Prompt:
    """The prompt, changed so that the tokeniser reads all of it as text.

    A goal or a typed text may contain what the model takes for an image or the end of a turn; a space after the first
    character turns that into text. Half a surrogate pair, which is not a character, becomes U+FFFD.
    """
    text = _SURROGATES.sub("\ufffd", prompt.text)
    if backbone.special is None or not backbone.special.search(text):
        return prompt if text == prompt.text else dataclasses.replace(prompt, text=text)
    places: list[int] = []  # spaces go before these characters
    start = 0
    while found := backbone.special.search(text, start):
        start = found.start() + 1
        places.append(start)
    return _insert(dataclasses.replace(prompt, text=text), places, " ")


def _insert(prompt: Prompt, places: Sequence[int], piece: str) -> Prompt:
    """The prompt with ``piece`` before the characters ``places``, in order; its spans and pictures move along."""
    text, edges, size = prompt.text, np.array(places), len(piece)
    whole = piece.join(text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True))
    spans = {
        name: (first + size * int((edges <= first).sum()), last + size * int((edges < last).sum()))
        for name, (first, last) in prompt.spans.items()
    }
    pictures = tuple(place + size * int((edges < place).sum()) for place in prompt.pictures)
    return Prompt(whole, spans, pictures)


def count_tokens(backbone: Backbone, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of each prompt's own text, without image and template."""
    if not prompts:
        return []
    return [
        len(ids)
        for ids in backbone.processor.tokenizer([escaped(backbone, p).text for p in prompts])["input_ids"]
    ]


def prepare(
    backbone: Backbone,
    screenshots: Sequence[np.ndarray | Sequence[np.ndarray]],
    prompts: Sequence[Prompt],
) -> Batch:
    """Model inputs for one prompt on each screenshot, and the positions of the prompts' spans.

    Args:
      screenshots: uint8 [H, W, 3] each, cursors already drawn; or all pictures of a prompt, in the order of
        :attr:`~digiq.vlm.prompts.Prompt.pictures`.
      prompts: one per screenshot. The span ``answer``, the last position, is added.

    Raises:
      InputError: a prompt is too long for the model, or the processor refuses it.
      BackboneError: a prompt has a picture inside, which the family does not allow.
    """
    laid = lay_out(backbone, prompts)
    pictures = [
        [Image.fromarray(picture) for picture in ([shown] if isinstance(shown, np.ndarray) else shown)]
        for shown in screenshots
    ]
    texts = [one.text for one in laid]
    try:
        inputs = _process(backbone, pictures, texts)
    except Exception as error:  # the library can raise anything over a screen or a text
        raise _blame(backbone, pictures, texts, error) from error
    inputs.pop("labels", None)
    real = inputs["attention_mask"].bool()
    lengths = real.sum(dim=1).tolist()
    if backbone.context is not None and max(lengths) > backbone.context:
        raise InputError(
            int(np.argmax(lengths)),
            f"a prompt of {max(lengths)} tokens is longer than the {backbone.context} that the model takes",
        )
    # A prompt without history lacks that span.
    spans = {name: torch.zeros_like(real) for prompt in prompts for name in prompt.spans}
    for row, one in enumerate(laid):
        place = one.places(inputs["input_ids"][row, : lengths[row]].numpy())
        for name, here in one.spans().items():
            at = place[here]
            spans[name][row, at[at >= 0]] = True
    positions = torch.arange(real.shape[1])
    last_position = (positions * real).amax(dim=1, keepdim=True)
    spans["answer"] = positions == last_position
    return Batch(
        to_device(backbone, inputs), {name: mask.to(backbone.device) for name, mask in spans.items()}
    )


def to_device(backbone: Backbone, inputs: Any) -> dict[str, torch.Tensor]:
    """A processor's tensors, on the model's device and in its type."""
    moved = {k: v.to(backbone.device) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    for name, value in moved.items():
        if value.is_floating_point():
            layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
            moved[name] = value.to(backbone.dtype, memory_format=layout)
    return moved


def with_answers(
    inputs: dict[str, torch.Tensor], answers: torch.Tensor, answer_type: int
) -> dict[str, torch.Tensor]:
    """Model inputs [B, T], padded on the right, with one more token int64 [B] after each row: [B, T + 1].

    ``answer_type`` is the token's entry in ``token_type_ids``, if the model has those.
    """
    mask = inputs["attention_mask"]
    rows, place = torch.arange(len(mask), device=mask.device), mask.sum(dim=1)
    out = dict(inputs)
    for name, value in inputs.items():
        if value.shape == mask.shape and not value.is_floating_point():
            out[name] = torch.cat([value, torch.zeros_like(value[:, :1])], dim=1)
    out["input_ids"][rows, place] = answers
    out["attention_mask"][rows, place] = 1
    if "token_type_ids" in out:
        out["token_type_ids"][rows, place] = answer_type
    return out


@dataclass(frozen=True)
class Laid:
    """A prompt as passed to the processor, and its T tokens before placeholders of pictures are expanded."""

    prompt: Prompt
    """The escaped prompt, with placeholders of the pictures inside it."""
    text: str
    start: int
    """Where the prompt begins in ``text``."""
    placeholder: int
    """Length in characters of a placeholder inside the prompt."""
    ids: np.ndarray
    """int [T], token ids."""
    offsets: np.ndarray
    """int [T, 2], character offsets of the tokens."""

    def spans(self) -> dict[str, np.ndarray]:
        """By name, bool [T]: the tokens of each span, without those of pictures."""
        outside = np.ones(len(self.ids), bool)
        for first, last in self.inside:
            outside[first:last] = False
        return {name: self._within(a, b) & outside for name, (a, b) in self.prompt.spans.items()}

    @functools.cached_property
    def first(self) -> int:
        """Index of the first token that lies wholly in the prompt."""
        return int((self.offsets[:, 0] < self.start).sum())

    @functools.cached_property
    def inside(self) -> list[tuple[int, int]]:
        """Token range, start and end, of each picture inside the prompt."""
        found = []
        for place in self.prompt.pictures[self.prompt.in_front :]:
            here = np.flatnonzero(self._within(place, place + self.placeholder))
            found.append((int(here[0]), int(here[-1]) + 1))
        return found

    def _within(self, first: int, last: int) -> np.ndarray:
        begin, end = self.offsets.T
        return (begin < self.start + last) & (end > self.start + first)

    def places(self, whole: np.ndarray) -> np.ndarray:
        """Position of each token in the processor's ids, int [T]; negative for tokens of pictures inside the prompt.

        Placeholders are expanded in those ids. The text after the last placeholder is unchanged, so its positions count
        from the end. The text between two pictures is found by searching for its tokens, which occur nowhere else.
        """
        shift = len(whole) - len(self.ids)
        place = np.arange(len(self.ids)) + shift
        for number in reversed(range(len(self.inside))):
            first, last = self.inside[number]
            begin = self.inside[number - 1][1] if number else self.first
            between = self.ids[begin:first]
            windows = np.lib.stride_tricks.sliding_window_view(whole[: first + shift], len(between))
            found = np.flatnonzero((windows == between).all(axis=1))
            if not len(found):
                raise BackboneError("the processor changes the text before a picture, so spans are lost.")
            shift = int(found[-1]) - begin
            place[:first] = np.arange(first) + shift
            place[first:last] = -1
        return place


def lay_out(backbone: Backbone, prompts: Sequence[Prompt]) -> list[Laid]:
    """Lays out prompts as texts for the processor, with their tokens.

    Raises:
      BackboneError: a prompt has a picture inside, which the family does not allow, or the chat template changes
        prompts.
    """
    if not prompts:
        return []
    mark = backbone.placeholder if any(p.in_front < len(p.pictures) for p in prompts) else ""
    found = []
    for given in prompts:
        prompt = escaped(backbone, given)
        if inner := prompt.pictures[prompt.in_front :]:
            prompt = _insert(prompt, inner, mark)
        found.append((prompt, *render_prompt(backbone, prompt)))
    tail = backbone.family.tail(backbone.processor)
    tokens = backbone.processor.tokenizer([text + tail for _, text, _ in found], return_offsets_mapping=True)
    return [
        Laid(prompt, text, start, len(mark), np.array(ids), np.array(offsets).reshape(-1, 2))
        for (prompt, text, start), ids, offsets in zip(
            found, tokens["input_ids"], tokens["offset_mapping"], strict=True
        )
    ]


def picture_tokens(
    backbone: Backbone, pictures: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, torch.Tensor]]:
    """The pictures inside prompts on their own: the token ids of each, their types, and the further model inputs.

    Types mark the tokens of a picture; they are zeros if the processor gives none.
    """
    mark = backbone.placeholder
    made = _process(backbone, [[Image.fromarray(picture)] for picture in pictures], [mark] * len(pictures))
    alone = backbone.processor.tokenizer(
        mark + backbone.family.tail(backbone.processor), return_offsets_mapping=True
    )
    here = [
        i for i, (first, last) in enumerate(alone["offset_mapping"]) if last > first and first < len(mark)
    ]
    begin, after = here[0], len(alone["input_ids"]) - here[-1] - 1
    types = next((made[name] for name in _TYPES if name in made), torch.zeros_like(made["input_ids"]))
    ends = (made["attention_mask"].sum(dim=1) - after).tolist()
    ids, kinds = (
        [row[begin:end].numpy() for row, end in zip(table, ends, strict=True)]
        for table in (made["input_ids"], types)
    )
    rest = {k: v for k, v in made.items() if k not in ("input_ids", "attention_mask", "labels", *_TYPES)}
    return ids, kinds, to_device(backbone, rest)


def _process(backbone: Backbone, pictures: Sequence[Sequence[Any]], texts: list[str]) -> Any:
    return backbone.processor(
        images=backbone.family.arrange(pictures),
        text=texts,
        padding=True,
        padding_side="right",  # so that positions do not depend on the rest of the batch
        return_tensors="pt",
    )


def _blame(
    backbone: Backbone, pictures: Sequence[Sequence[Any]], texts: Sequence[str], error: Exception
) -> InputError:
    """An error for the row of a batch that the processor refuses; for the first row if none is refused alone."""
    row, reason = 0, error
    for i, text in enumerate(texts):
        try:
            _process(backbone, [pictures[i]], [text])
        except Exception as alone:
            row, reason = i, alone
            break
    said = " ".join(str(reason).split())[:200]
    return InputError(row, f"the model's processor refuses it: {type(reason).__name__}: {said}")


def check_backbone(backbone: Backbone, *, before: bool = False, cropped: bool = False) -> None:
    """Tries one prompt on a blank screen: the model must take it, and its spans must cover the right words.

    Args:
      backbone: the backbone to try.
      before: whether another screen precedes that one.
      cropped: whether a picture follows the words for the action.

    Raises:
      BackboneError: the processor or the model refuses it, the tokens of a span do not match its words, or a crop takes
        more than ``CROP_TOKENS``.
    """
    screen = np.full((96, 64, 3), 200, np.uint8)
    _try(backbone, [screen], (0,))
    kind = backbone.model.config.model_type
    if before:
        try:
            _try(backbone, [screen, screen], (0, 0))
        except BackboneError as error:
            raise BackboneError(
                f"{error} Models of type '{kind}' do not take the previous screen beside the current one; set "
                "featurize.history.screenshot to false."
            ) from None
    if cropped:
        check_crop(backbone.path, backbone.family, backbone.processor, kind)
        crop = np.full((CROP_SIDE, CROP_SIDE, 3), 100, np.uint8)
        _try(backbone, [screen, crop], (0, _TRIED_SPANS["action"][1]))


def check_crop(path: Path, family: Family, processor: Any, kind: str) -> int:
    """Number of tokens of a crop after the words for an action, found without the model.

    Raises:
      BackboneError: the family allows no picture there, or a crop takes more than ``CROP_TOKENS``.
    """
    mark = _inside(family, processor, kind)
    screen, crop = (Image.new("RGB", size) for size in ((64, 96), (CROP_SIDE, CROP_SIDE)))
    action = _TRIED_SPANS["action"][1]
    lengths = []
    for pictures, text in (([screen], _TRIED), ([screen, crop], _TRIED[:action] + mark + _TRIED[action:])):
        rendered = family.render(processor, text, 1)
        lengths.append(len(processor(images=family.arrange([pictures]), text=[rendered])["input_ids"][0]))
    taken = lengths[1] - lengths[0]
    if taken > CROP_TOKENS:
        raise BackboneError(
            f"{path}: this model of type '{kind}' reads a crop of {CROP_SIDE} x {CROP_SIDE} pixels as {taken} tokens, for every "
            "tap; set grounding to text, or use a model that reads small pictures as few tokens."
        )
    return taken


def check_crop_of(path: Path) -> None:
    """:func:`check_crop` for a model directory, without loading the weights."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    family = family_of(types.SimpleNamespace(**config))
    processor = open_processor(path, trusted=os.environ.get(TRUST_REMOTE_CODE) == "1")
    check_crop(path, family, processor, config["model_type"])


def _inside(family: Family, processor: Any, kind: str) -> str:
    """What stands for a picture inside a prompt; raises BackboneError if none can be there."""
    mark = "" if family.uncropped else family.placeholder(processor)
    if not mark:
        reason = family.uncropped or "its chat template moves pictures to the front"
        raise BackboneError(
            f"models of type '{kind}' take no picture after the words for an action ({reason}), so set grounding to text or "
            "cursor."
        )
    return mark


_TRIED = "Goal: buy tea\nAction: press back\nDoes the screen change?"
_TRIED_SPANS = {"goal": (6, 13), "action": (22, 32), "asked": (33, len(_TRIED))}


def _try(backbone: Backbone, pictures: Sequence[np.ndarray], places: tuple[int, ...]) -> int:
    """Runs the model on a prompt with these pictures and returns its number of tokens; see :func:`check_backbone`."""
    try:
        batch = prepare(backbone, [pictures], [Prompt(_TRIED, _TRIED_SPANS, places)])
        with torch.inference_mode():
            backbone.model.base_model(**batch.inputs, use_cache=False)
    except (BackboneError, ValueError, RuntimeError, IndexError) as error:
        said = " ".join(str(error).split())[:200]
        hint = "; do the processor and the model belong together?" if len(pictures) == 1 else "."
        raise BackboneError(f"{backbone.path}: {said}{hint}") from None
    tokenizer = backbone.processor.tokenizer
    for name, (first, last) in _TRIED_SPANS.items():
        said = tokenizer.decode(batch.inputs["input_ids"][0][batch.spans[name][0]])
        if _letters(said) != _letters(_TRIED[first:last]):
            raise BackboneError(
                f"{backbone.path}: '{_TRIED[first:last]}' covers the tokens '{said.strip()}', so spans would be wrong; "
                "its processor adds text that its family does not know of."
            )
    return batch.inputs["input_ids"].shape[1]


def _letters(text: str) -> str:
    return "".join(text.split()).lower()
