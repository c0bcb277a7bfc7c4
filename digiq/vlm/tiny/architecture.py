"""Size, tokeniser and processor of the tiny LLaVA: real Hugging Face classes, 3.8 million parameters.

A 320×192 screenshot is squashed to 192×192 (text keeps its width, 7 to 8 pixels per letter) and cut into 144 patches,
each two letters wide. The tokeniser spells: every character is a token; only the fixed phrases of prompts, the common
verbs of goals and the answers are single tokens. So a name never shown in training is read like any other.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

from digiq.vlm.prompts import load_template

READOUT = load_template("readout")
"""The questions that the model is trained to answer."""
PAIR_QUESTIONS, OBSERVATION_QUESTIONS = READOUT.questions("pair"), READOUT.questions("observation")

IMAGE_SIZE = 192
PATCH_SIZE = 16
GRID = IMAGE_SIZE // PATCH_SIZE
"""Patches along a side; their embeddings are row-major."""

CHARACTERS = string.ascii_lowercase + string.digits + " .,:;!?'\"-_/()&+*%$#@=<>[]|~^{}\\`\n€£"

KINDS: dict[str, str] = {
    "launcher_icon": "app icon",
    "url_bar": "address bar",
    "search_box": "search box",
    "text_field": "text field",
    "button": "button",
    "icon_button": "icon button",
    "link": "link",
    "list_row": "list row",
    "result_row": "result",
    "product_row": "product",
    "sponsored_row": "sponsored product",
    "toggle": "switch",
    "checkbox": "tick box",
    "tab": "tab",
    "banner": "banner",
    "dialog_button": "dialog button",
    "keyboard_key": "key",
    "nav_button": "navigation key",
    "label": "label",
    "heading": "heading",
    "image": "picture",
    "message": "message",
    "keyboard": "keyboard",
    "toast": "notice",
    "dialog": "dialog",
    "popup": "popup",
    "sheet": "sheet",
    "loading": "spinner",
    "": "nothing",
}
"""The answers' name for each role of a screen's vocabulary."""

ANSWERS: tuple[str, ...] = (
    *KINDS.values(),
    *("yes", "no", "none", "other", "empty"),
    *("place", "query", "first entry", "way"),
    *("launcher", "browser", "web results", "site home", "search page", "product list", "details"),
    *("settings", "list", "form", "chat", "page"),
)
"""Every single-token answer. Each is written with a leading ``=`` so that it never swallows part of a name."""

_GOAL_VERBS = (
    *(
        "go to ",
        "open ",
        "open the ",
        "search for ",
        "find ",
        "show ",
        "turn on ",
        "turn off ",
        "tap ",
        "select ",
    ),
    *("visit ", "look up ", "enable ", "disable ", "set ", "set a ", "start ", "read ", "check ", "delete "),
    *("type ", "write ", "send ", "view ", "add ", "what is ", "look for ", "press ", "install ", "create "),
)
PHRASES: tuple[str, ...] = (
    *(f"goal: {verb}" for verb in _GOAL_VERBS),
    "goal: ",
    *(f"{joint}{verb}" for joint in (", ", " and ", ", and ", " then ", ", then ") for verb in _GOAL_VERBS),
    *(f"{joint}select the first entry" for joint in (", ", " and ", ", and ", ", then ")),
    "select the first entry",
    "the first entry",
    ".com",
    "\naction: ",
    "tap at the cursor",
    "tap at ",
    'type "',
    *(f"swipe {way}" for way in ("up", "down", "left", "right")),
    *("press back", "press home", "press enter", "declare the task complete", "declare the task impossible"),
    *(f"\n{question.lower()}" for question in (*PAIR_QUESTIONS.values(), *OBSERVATION_QUESTIONS.values())),
    *(f" {question.lower()}" for question in (*PAIR_QUESTIONS.values(), *OBSERVATION_QUESTIONS.values())),
    *("what is at ", "the cursor?", "what does the field say?"),
    *(f"({n:02d}, " for n in range(100)),
    *(f"{n:02d})" for n in range(100)),
)

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")


def answer_token(answer: str) -> str:
    """The token for ``answer``; Yes and No are plain words, because tuning generates them."""
    return {"yes": "Yes", "no": "No"}.get(answer, f"={answer}")


def build_tokenizer():
    """A real ``PreTrainedTokenizerFast`` that lower-cases and splits text into known phrases and single characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = tuple(answer_token(answer) for answer in ANSWERS)
    phrases = list(dict.fromkeys((*PHRASES, *words)))
    # Yes and No are tokens only at the very end, so that they stay spelled inside a name.
    lowercase = normalizers.Sequence(
        [normalizers.Replace(Regex(c), c.lower()) for c in string.ascii_uppercase if c not in "YN"]
        + [normalizers.Replace(Regex("Y(?!es$)"), "y"), normalizers.Replace(Regex("N(?!o$)"), "n")]
    )
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS, *phrases))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = lowercase
    pattern = "Yes$|No$|" + "|".join(
        re.escape(p).replace("\\\n", "\\n") for p in sorted({*phrases} - {"Yes", "No"}, key=len, reverse=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{pattern}|[\\s\\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def build_processor():
    """Tokeniser and image processor as one ``LlavaProcessor``."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = CLIPImageProcessorPil(
        size=size,
        do_resize=True,
        do_center_crop=False,
        crop_size=size,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
    )


def build_config(tokenizer, *, hidden_size: int = 192, vision_layers: int = 2, text_layers: int = 5):
    """The ``LlavaConfig``; attention heads are 64 wide, because CPUs handle that far better than 32.

    LeViT's tower begins with four strided convolutions, which share a letter's appearance between all positions in a
    patch. A linear patch embedding must learn each letter anew at each position. After 150 s on one core, LeViT read 35
    to 58 % of the letters, CLIP's tower 2 % (README.md).
    """
    from transformers import LevitConfig, LlamaConfig, LlavaConfig

    heads = hidden_size // 64
    levit: Any = LevitConfig
    vision = levit(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_sizes=[hidden_size] * 3,
        depths=[vision_layers],
        num_attention_heads=[2 * heads],
        key_dim=[32],
        attention_ratio=[1],
        mlp_ratio=[4],
        down_ops=[[""]],  # one stage, so that no patch is dropped
        hidden_size=hidden_size,  # required by LLaVA's projector
    )
    text = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=text_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config: Any = LlavaConfig  # it takes more fields than it declares
    return config(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_model(tokenizer, **sizes: int):
    """A randomly initialised tiny LLaVA in float32; ``sizes`` as in :func:`build_config`."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(build_config(tokenizer, **sizes))


def save(model, processor, path: Path) -> None:
    """Writes a bfloat16 checkpoint that ``AutoModelForImageTextToText`` and ``AutoProcessor`` open."""
    import torch

    config = model.config
    state = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    copy = type(model)(config).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    copy.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    copy.save_pretrained(path)
    processor.save_pretrained(path)
