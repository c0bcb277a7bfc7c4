"""Features of a state's N candidates: the shared-prefix engine against one forward pass per pair, and the hardware.

- *plain*: Hugging Face's forward on every (screen, prompt), all layers, in the obvious way; inputs prepared beforehand.
- *strong plain*: the vision tower once per state, the language model truncated above the wanted layer, whole prompts in
  batches; inputs prepared beforehand.
- *ours*: ``digiq.features.engines.shared``, including reading and resizing the screen, and tokenisation.

All give the same features (``max_rel_diff``: largest difference from plain, in units of the layer's root mean square),
in float32, and run interleaved in one process. The model is a random LLaVA of the shape below: 576 image tokens, and 60
tokens that differ between candidates. The bound is the arithmetic that ours cannot avoid, at the best rate that matrix
products of these widths reach here. *counted* is strong plain's arithmetic divided by that arithmetic, which is the
gain from sharing the prefix if both run at the same rate.

    .venv/bin/python benchmarks/feature_extraction.py
    .venv/bin/python benchmarks/feature_extraction.py --quick
    .venv/bin/python benchmarks/feature_extraction.py --profile

The last line is one JSON object.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from android_env.actions import Action

IMAGE, PATCH = 336, 14  # 576 image tokens
SUFFIX = 60
COUNTS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Shape:
    vision_layers: int
    vision_width: int
    language_layers: int
    language_width: int
    wanted: int
    """Layer whose hidden states are the features."""

    @property
    def inner(self) -> int:
        return 8 * self.language_width // 3 // 64 * 64

    def vision(self) -> float:
        """Floating-point operations per screen."""
        tokens, width = (IMAGE // PATCH) ** 2 + 1, self.vision_width
        return self.vision_layers * tokens * (2 * 12 * width**2 + 4 * tokens * width)

    def language(self, tokens: int, seen: float, layers: int) -> float:
        """Floating-point operations for ``tokens`` tokens that attend to ``seen`` others on average."""
        width = self.language_width
        return layers * tokens * (2 * (4 * width**2 + 3 * width * self.inner) + 4 * seen * width)


FULL = Shape(vision_layers=12, vision_width=512, language_layers=8, language_width=512, wanted=4)
QUICK = Shape(vision_layers=4, vision_width=256, language_layers=4, language_width=320, wanted=2)


def make_model(path: Path, shape: Shape) -> None:
    """Writes a random LLaVA of this shape, with a processor; nothing is downloaded."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from digiq.vlm.tiny.architecture import build_tokenizer

    torch.manual_seed(0)
    words = build_tokenizer()
    size = {"height": IMAGE, "width": IMAGE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, do_center_crop=False, crop_size=size),
        tokenizer=words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_width,
            intermediate_size=4 * shape.vision_width,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=shape.vision_width // 64,
            image_size=IMAGE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            hidden_size=shape.language_width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.language_layers,
            num_attention_heads=shape.language_width // 64,
            vocab_size=len(words),
            max_position_embeddings=2048,
            pad_token_id=0,
        ),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    LlavaForConditionalGeneration(config).save_pretrained(path)
    processor.save_pretrained(path)


def make_requests(count: int, seed: int) -> list[Any]:
    """A state's candidates; every character of the typed text is one token of this tokeniser."""
    from digiq.features.engines import Request

    rng = np.random.default_rng(seed)
    screen = rng.integers(0, 255, (640, 384, 3), np.uint8)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    typed = ["".join(rng.choice(letters, SUFFIX - 5)) for _ in range(count)]
    return [Request.build(screen, "go to fernhub.com", Action.type_text(text), "text") for text in typed]


def collect(rows: Any, count: int) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    for positions, block in rows:
        found |= dict(zip(positions.tolist(), block, strict=True))
    return np.stack([found[i] for i in range(count)])[:, 0]


def rate_of(shape: Shape, rows: int, clock: Callable[[], float]) -> float:
    """Floating-point operations per second of the language model's matrix products, the best of many."""
    best = 0.0
    with torch.inference_mode():
        left, right = torch.randn(rows, shape.language_width), torch.randn(shape.inner, shape.language_width)
        for _ in range(12):
            start = clock()
            torch.nn.functional.linear(left, right)
            spent = clock() - start
            best = max(best, 2 * rows * shape.language_width * shape.inner / spent)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smaller model, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="what ours spends its time on at N = 64")
    parser.add_argument("--threads", type=int, help="of torch; by default one per core")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu counts processor seconds, for shared machines; it is fair only with --threads 1",
    )
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    shape, rounds = (QUICK, 1) if options.quick else (FULL, options.rounds)
    threads = options.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)

    from digiq.features.engines.plain import open_truncated
    from digiq.features.engines.shared import extract_shared
    from digiq.vlm.backbone import load_backbone, prepare

    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory), shape)
        whole = load_backbone(directory, dtype="float32")
        cut, _ = open_truncated(load_backbone(directory, dtype="float32"), (shape.wanted,))

    def prepared(requests: list[Any]) -> list[Any]:
        parts = [requests[i : i + 16] for i in range(0, len(requests), 16)]
        return [prepare(whole, [r.screenshot for r in part], [r.prompt for r in part]) for part in parts]

    def plain(requests: list[Any], batches: list[Any]) -> np.ndarray:
        out = []
        for batch in batches:
            states = whole.model(**batch.inputs, output_hidden_states=True, use_cache=False).hidden_states
            out.append(states[shape.wanted][batch.spans["answer"]])
        return torch.cat(out).numpy()

    def strong(requests: list[Any], batches: list[Any]) -> np.ndarray:
        base = cut.model.base_model
        image = batches[0].inputs["pixel_values"][:1]
        features = torch.cat(list(base.get_image_features(pixel_values=image).pooler_output))
        out = []
        for batch in batches:
            ids = batch.inputs["input_ids"]
            embeds = base.get_input_embeddings()(ids)
            embeds[ids == cut.model.config.image_token_id] = features.repeat(len(ids), 1)
            states = base.language_model(
                inputs_embeds=embeds,
                attention_mask=batch.inputs["attention_mask"],
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
            out.append(states[shape.wanted][batch.spans["answer"]])
        return torch.cat(out).numpy()

    def ours(requests: list[Any], batches: list[Any]) -> np.ndarray:
        rows = extract_shared(cut, requests, layers=(shape.wanted,), spans=("answer",), batch_size=64)
        return collect(rows, len(requests))

    ways: dict[str, Callable[[list[Any], list[Any]], np.ndarray]] = {
        "plain": plain,
        "strong": strong,
        "ours": ours,
    }
    metrics: dict[str, float] = {}
    worst = 0.0
    print(
        f"vision {shape.vision_layers} x {shape.vision_width}, language {shape.language_layers} x {shape.language_width},"
    )
    print(f"layer {shape.wanted}, float32, {threads} threads; seconds a state (median of {rounds})\n")
    print(
        f"{'N':>3} {'plain':>9} {'strong':>9} {'ours':>9} {'vs plain':>9} {'vs strong':>10} {'counted':>8} {'bound':>9} {'of bound':>9}"
    )
    with torch.inference_mode():
        for way in ways.values():  # the first call is always slower
            warm = make_requests(2, 99)
            way(warm, prepared(warm))
        for count in COUNTS:
            spent: dict[str, list[float]] = {name: [] for name in ways}
            repeats = rounds * (1 if count > 4 else 3)
            prefix = 0
            for seed in range(repeats):
                requests = make_requests(count, seed)
                batches = prepared(requests)
                length = int(batches[0].inputs["attention_mask"][0].sum())
                prefix = length - SUFFIX
                found = {}
                for name in ways:
                    start = clock()
                    found[name] = ways[name](requests, batches)
                    spent[name].append(clock() - start)
                scale = float(np.sqrt((found["plain"] ** 2).mean()))
                worst = max(
                    worst,
                    *(float(np.abs(found[n] - found["plain"]).max()) / scale for n in ("strong", "ours")),
                )
            needed = shape.vision() + shape.language(prefix, prefix / 2, shape.wanted)
            needed += shape.language(count * SUFFIX, prefix + SUFFIX / 2, shape.wanted)
            whole_prompt = prefix + SUFFIX
            pairs = count * shape.language(whole_prompt, whole_prompt / 2, shape.wanted)
            counted = (shape.vision() + pairs) / needed
            bound = needed / rate_of(shape, prefix + count * SUFFIX, clock)
            mid = {name: statistics.median(times) for name, times in spent.items()}
            against = {
                name: statistics.median(a / b for a, b in zip(spent[name], spent["ours"], strict=True))
                for name in ("plain", "strong")
            }
            share = bound / mid["ours"]
            print(
                f"{count:>3} {mid['plain']:>9.3f} {mid['strong']:>9.3f} {mid['ours']:>9.3f} {against['plain']:>8.1f}x "
                f"{against['strong']:>9.1f}x {counted:>7.1f}x {bound:>9.3f} {share:>9.2f}",
                flush=True,
            )
            metrics |= {
                f"vs_plain_n{count}": against["plain"],
                f"vs_strong_plain_n{count}": against["strong"],
                f"counted_vs_strong_plain_n{count}": counted,
                f"of_bound_n{count}": share,
            }
        if options.profile:
            requests = make_requests(64, 0)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                ours(requests, [])
            print(
                profile.key_averages().table(
                    sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40
                )
            )
    metrics["max_rel_diff"] = worst
    print(
        json.dumps(
            {
                "benchmark": "feature_extraction",
                "metrics": {name: float(f"{value:.4g}") for name, value in metrics.items()},
                "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {threads} used",
                "versions": {n: importlib.metadata.version(n) for n in ("torch", "transformers")},
                "shape": {
                    **vars(shape),
                    "image_tokens": 576,
                    "suffix": SUFFIX,
                    "dtype": "float32",
                    "clock": options.clock,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
