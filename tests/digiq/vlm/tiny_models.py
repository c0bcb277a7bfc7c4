"""Tiny random models of every family, from the real config and processor classes; nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from digiq.vlm.processors import without_video

HIDDEN, LAYERS = 64, 4
_TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
_VISION = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
_PATCHES = {**_VISION, "num_hidden_layers": 2, "image_size": 64, "patch_size": 16}
_WORDS = (
    "Goal: open the browser and search for a lamp. Action: tap at (30, 60). What is under the action? Does it serve "
    "the goal? Does the screen change? What kind of element? Which part of the goal? Does it fit the goal?"
)


def tokenizer(special: list[str], **named: str) -> Any:
    """Byte-level BPE over a sentence of prompts, with the family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([_WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=special,
        extra_special_tokens=named,
    )


def template(image: str) -> str:
    """A chat template like ChatML's, with the image's placeholder where it stands in the turn."""
    return (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        + image
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


_CHAT = ["<|im_start|>", "<|im_end|>"]


def llava() -> tuple[Any, Any]:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer([*_CHAT, "<image>"], image_token="<image>")
    size = {"height": 64, "width": 64}
    images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=size)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="USER: {% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:",
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_PATCHES),
        text_config=LlamaConfig(**_TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    return LlavaForConditionalGeneration(config), processor


def _qwen(version: str) -> tuple[Any, Any]:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer([*_CHAT, *special])
    start, end, image, video = words.convert_tokens_to_ids(special)
    patch = 16 if version == "3" else 14
    images = Qwen2VLImageProcessorPil(patch_size=patch, min_pixels=56 * 56, max_pixels=28 * 28 * 16)
    family = {"2": "Qwen2VL", "2.5": "Qwen2_5_VL", "3": "Qwen3VL"}[version]
    processor = without_video(getattr(transformers, f"{family}Processor"))(
        image_processor=images,
        tokenizer=words,
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {**_TEXT, "vocab_size": len(words), "rope_parameters": rope, "max_position_embeddings": 4096}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 4, "patch_size": patch, "spatial_merge_size": 2}
    vision |= {
        "2": {"embed_dim": 64, "hidden_size": HIDDEN, "mlp_ratio": 2},
        "2.5": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
            "window_size": 112,
        },
        "3": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "out_hidden_size": HIDDEN,
            "depth": 3,
            "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 256,
        },
    }[version]
    config = getattr(transformers, f"{family}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config), processor


def _idefics(kind: str) -> tuple[Any, Any]:
    import transformers

    module = f"{kind.lower()}.image_processing_pil_{kind.lower()}"
    images = getattr(__import__(f"transformers.models.{module}", fromlist=["x"]), f"{kind}ImageProcessorPil")
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    cells = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    words = tokenizer([*_CHAT, *named.values(), *cells], **named)
    processor = without_video(getattr(transformers, f"{kind}Processor"))(
        image_processor=images(size={"longest_edge": 128}, max_image_size={"longest_edge": 64}),
        tokenizer=words,
        image_seq_len=4,
        chat_template=template("<image>"),
        **({"video_processor": None} if kind == "SmolVLM" else {}),
    )
    config = getattr(transformers, f"{kind}Config")(
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        text_config={**_TEXT, "model_type": "llama", "vocab_size": len(words)},
        vision_config=_PATCHES,
        pad_token_id=0,
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def paligemma() -> tuple[Any, Any]:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = tokenizer(["<image>"])
    images: Any = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=words)
    text = {**_TEXT, "num_key_value_heads": 1, "model_type": "gemma", "vocab_size": len(words)}
    config: Any = PaliGemmaConfig
    config = config(
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        text_config=text,
        vision_config={
            **_PATCHES,
            "model_type": "siglip_vision_model",
            "projection_dim": HIDDEN,
            "vision_use_head": False,
        },
    )
    return PaliGemmaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    words = tokenizer([*_CHAT, *named.values()], **named)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 64, "width": 64}),
        tokenizer=words,
        image_seq_length=4,
        chat_template=template("<start_of_image>"),
    )
    first, last, soft = words.convert_tokens_to_ids(list(named.values()))
    config: Any = Gemma3Config
    config = config(
        text_config={**_TEXT, "vocab_size": len(words), "sliding_window": 64},
        vision_config={**_PATCHES, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=first,
        eoi_token_index=last,
        image_token_index=soft,
    )
    return Gemma3ForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionProcessor,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    words = tokenizer([*_CHAT, "<image>", "<video>"], image_token="<image>", video_token="<video>")
    grid = [[64, 64], [64, 128], [128, 64], [128, 128]]
    processor: Any = without_video(LlavaOnevisionProcessor)
    processor = processor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": 64, "width": 64}, image_grid_pinpoints=grid
        ),
        tokenizer=words,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n"),
        vision_aspect_ratio="anyres_max_9",
    )
    config: Any = LlavaOnevisionConfig
    config = config(
        text_config={**_TEXT, "model_type": "qwen2", "vocab_size": len(words)},
        vision_config={**_PATCHES, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer([*_CHAT, *named.values()], **named)
    processor: Any = without_video(InternVLProcessor)
    processor = processor(
        image_processor=GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}, crop_to_patches=False),
        tokenizer=words,
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>\n"),
    )
    config: Any = InternVLConfig
    config = config(
        text_config={**_TEXT, "model_type": "qwen2", "vocab_size": len(words)},
        vision_config={**_PATCHES, "image_size": [64, 64], "patch_size": [16, 16]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return InternVLForConditionalGeneration(config), processor


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "qwen2_vl": functools.partial(_qwen, "2"),
    "qwen2_5_vl": functools.partial(_qwen, "2.5"),
    "qwen3_vl": functools.partial(_qwen, "3"),
    "smolvlm": functools.partial(_idefics, "SmolVLM"),
    "idefics3": functools.partial(_idefics, "Idefics3"),
    "paligemma": paligemma,
    "gemma3": gemma3,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
}
"""By Hugging Face's ``model_type``."""


def write(name: str, path: Path) -> Path:
    """A directory with a random model of a family and its processor, in float32."""
    torch.manual_seed(0)
    model, processor = MODELS[name]()
    assert model.config.model_type == name
    with torch.no_grad():
        # Larger than at initialisation, so that images, actions and positions matter in every digit compared.
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # Gemma 3 begins by seeing nothing
                parameter.normal_(std=0.02)
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
