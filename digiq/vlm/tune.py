"""The ``tune-vlm`` stage: light tuning of a VLM to predict whether an action changes the screen (actionability).

The label follows upstream: the screen has changed if the mean squared pixel difference of the two screenshots, at a
quarter of their size, exceeds 30. Examples are balanced, and the answer is a generated Yes or No. Only the language
model learns, through LoRA adapters that are merged on saving.

Source: Digi-Q, section 4.1; upstream ``data_preprocess`` and its fine-tuning recipe for LLaVA.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from android_env.actions import Action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.schema import Episode, decode_png
from digiq.data.store import EpisodeStore
from digiq.errors import DigiQError
from digiq.events import LOGS, event_writer
from digiq.progress import progress
from digiq.statistics import auc
from digiq.vlm.prompts import (
    Grounding,
    Template,
    build_prompt,
    default_prompt,
    load_template,
    pictures,
    prompt_file,
)

STAGE, VERSION = "tune-vlm", 1
CHANGE_THRESHOLD = 30.0
"""Mean squared difference of 8-bit channels above which a screen has changed (upstream's rule)."""
_SCALE = 0.25
_YES, _NO = "Yes", "No"
_IGNORE = -100
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@configclass
class TuneVlmConfig:
    """Settings of the tuning."""

    split: str = "train"
    """Tune on episodes of this split only."""
    grounding: Grounding = "cursor"
    """How the VLM sees where a tap lands; should match ``featurize``."""
    prompt: str = "auto"
    """Name of a prompt or path of its file; should match ``featurize``. auto: ``readout`` for the embedded model,
    ``general`` for others."""
    max_examples: Annotated[int, Field(ge=2)] = 1600
    """Most training examples, half of them changes; the rarer answer's examples are repeated for balance."""
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the episodes held out for the AUC."""
    max_heldout: Annotated[int, Field(ge=0)] = 400
    """Most held-out transitions to score."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples per update."""
    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-4
    """Peak of a linear schedule; a higher rate learns the answer sooner but forgets more of the model's reading."""
    lora_rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the adapters on the language model's linear layers."""
    dtype: str = "bfloat16"
    """Type of the model's weights; the adapters learn in float32."""
    device: str = "cpu"
    """Where torch runs."""
    seed: int = 0
    """Seed of the held-out split, the sample and the adapters."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A screen, an action, and whether the screen changed."""

    screenshot: bytes | Callable[[], bytes]
    """PNG, or a function that reads it, so that a sample of many episodes need not hold its screens."""
    goal: str
    action: Action
    changed: bool

    @property
    def png(self) -> bytes:
        """The screenshot."""
        return self.screenshot if isinstance(self.screenshot, bytes) else self.screenshot()


def screen_changed(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> bool:
    """Whether two uint8 [H, W, 3] screenshots differ by upstream's rule. Different sizes count as a change."""
    if before.shape != after.shape:
        return True
    difference = _quarter(before) - _quarter(after)
    return bool(np.mean(difference**2) > CHANGE_THRESHOLD)


def _quarter(screenshot: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    height, width = screenshot.shape[:2]
    size = (max(1, int(width * _SCALE)), max(1, int(height * _SCALE)))
    return np.asarray(Image.fromarray(screenshot).resize(size, Image.Resampling.BILINEAR), np.float32)


def actionability_examples(
    episodes: Iterable[Episode], reader: Callable[[int], Callable[[], bytes]] | None = None
) -> list[Example]:
    """One example for every executed action that is followed by a screenshot.

    ``reader`` maps a step to a function that reads its screenshot; if given, examples hold that function instead of the
    screenshot. The terminal step that an importer appends repeats the last screen, so a final declaration gives no
    example.
    """
    examples = []
    for episode in episodes:
        screens = [decode_png(step.screenshot) for step in episode.steps]
        for t in range(episode.num_actions):
            step = episode.steps[t]
            assert step.action is not None
            if step.action.type.name.startswith("STATUS_"):
                continue
            changed = screen_changed(screens[t], screens[t + 1])
            shown = step.screenshot if reader is None else reader(t)
            examples.append(Example(shown, step.goal, step.action, changed))
    return examples


def run(config: TuneVlmConfig, *, episodes: Path, vlm: Path, out: Path, overwrite: bool = False) -> Artifact:
    """Tunes the VLM and writes a Hugging Face directory that opens like the original.

    Args:
      config: see :class:`TuneVlmConfig`.
      episodes: recorded episodes; rewards and relabelled goals play no part.
      vlm: a Hugging Face image-text-to-text directory.
      out: the tuned model, its processor, and ``auc`` before and after in the manifest.
      overwrite: start anew.

    Raises:
      DigiQError: the directory does not open, or all training transitions have the same label.
    """
    from digiq.vlm.backbone import check_backbone, load_backbone

    inputs = {"episodes": episodes, "vlm": vlm, "prompt": prompt_file(config.prompt)}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        backbone = load_backbone(vlm, device=config.device, dtype=config.dtype)
        if config.grounding == "crop":
            check_backbone(backbone, cropped=True)
        train, heldout = _split(EpisodeStore(episodes), config)
        sample = _balanced(train, config)
        rng = np.random.default_rng([config.seed, 1])
        heldout = [heldout[i] for i in rng.permutation(len(heldout))[: config.max_heldout]]
        before = _auc(backbone, heldout, config)
        _fit(backbone, sample, config, w.path / "metrics.jsonl")
        after = _auc(backbone, heldout, config)
        with artifacts.atomic_path(w.path / "model") as temporary:
            backbone.model.save_pretrained(temporary)
            backbone.processor.save_pretrained(temporary)
            _keep_video(vlm, temporary)
        _flatten(w.path)
        counts = {"examples": len(sample), "train_transitions": len(train), "heldout": len(heldout)}
        extra = {
            "heldout_auc_before": before,
            "heldout_auc": after,
            "share_changed": float(np.mean([e.changed for e in train])),
        }
        return w.complete(counts=counts, extra=extra)


def change_scores(
    backbone: Any,
    examples: Sequence[Example],
    *,
    grounding: Grounding = "cursor",
    batch_size: int = 32,
    prompt: str = "auto",
) -> npt.NDArray[np.float64]:
    """log P(Yes) - log P(No) of each example, float64 [len(examples)]."""
    import torch

    from digiq.vlm.backbone import prepare

    yes, no = answer_ids(backbone)
    template = _template(backbone, prompt)
    scores = []
    for start in range(0, len(examples), batch_size):
        chosen = examples[start : start + batch_size]
        batch = prepare(
            backbone,
            [_shown(e, grounding) for e in chosen],
            [_prompt(e, grounding, template) for e in chosen],
        )
        with torch.inference_mode():
            logits = backbone.model(**batch.inputs, use_cache=False).logits
        last = logits[batch.spans["answer"]].float()
        scores.append((last[:, yes] - last[:, no]).cpu().numpy())
    return np.concatenate(scores).astype(np.float64) if scores else np.zeros(0)


def answer_ids(backbone: Any) -> tuple[int, int]:
    """First token ids of the answers Yes and No.

    Raises:
      DigiQError: the tokeniser begins both with the same token.
    """
    yes, no = (backbone.processor.tokenizer(a, add_special_tokens=False)["input_ids"][0] for a in (_YES, _NO))
    if yes == no:
        raise DigiQError(f"{backbone.path}: its tokeniser begins Yes and No with the same token.")
    return yes, no


def _template(backbone: Any, prompt: str) -> Template:
    return load_template(default_prompt(backbone.path) if prompt == "auto" else prompt)


def _prompt(example: Example, grounding: Grounding, template: Template) -> Any:
    return build_prompt(example.goal, example.action, grounding=grounding, template=template)


def _shown(example: Example, grounding: Grounding) -> list[npt.NDArray[np.uint8]]:
    return pictures(decode_png(example.png), example.action, grounding)


def _split(store: EpisodeStore, config: TuneVlmConfig) -> tuple[list[Example], list[Example]]:
    chosen = [number for number, outline in enumerate(store.outlines) if outline.split == config.split]
    if not chosen:
        raise DigiQError(f"{store.path}: no episode of split '{config.split}'; set tune_vlm.split.")
    order = np.random.default_rng(config.seed).permutation(len(chosen))
    count = min(round(config.heldout * len(chosen)), len(chosen) - 1)
    heldout = [chosen[i] for i in order[:count]]
    training = [chosen[i] for i in order[count:]]
    return _stored_examples(store, training), _stored_examples(store, heldout)


def _stored_examples(store: EpisodeStore, numbers: Sequence[int]) -> list[Example]:
    """Examples of some episodes; their screens stay in the store."""
    found: list[Example] = []
    for number in numbers:
        reader = functools.partial(functools.partial, _screenshot, store, number)
        found += actionability_examples([store[number]], reader)
    return found


def _screenshot(store: EpisodeStore, number: int, step: int) -> bytes:
    return store[number].steps[step].screenshot


def _balanced(examples: Sequence[Example], config: TuneVlmConfig) -> list[Example]:
    """A sample, half of it changes: drawn without replacement until a class runs out, then repeating."""
    rng = np.random.default_rng([config.seed, 0])
    sample: list[Example] = []
    half = min(config.max_examples, 2 * len(examples)) // 2
    for changed in (True, False):
        group = [example for example in examples if example.changed is changed]
        if not group:
            word = "change" if changed else "preserve"
            raise DigiQError(
                f"tune-vlm: no action of the training episodes {word}s the screen; nothing to learn."
            )
        order = np.concatenate([rng.permutation(len(group)) for _ in range(-(-half // len(group)))])
        sample += [group[i] for i in order[:half]]
    return [sample[i] for i in rng.permutation(len(sample))]


def _auc(backbone: Any, examples: Sequence[Example], config: TuneVlmConfig) -> float:
    scores = change_scores(backbone, examples, grounding=config.grounding, prompt=config.prompt)
    return auc(scores, [example.changed for example in examples])


def _fit(backbone: Any, sample: Sequence[Example], config: TuneVlmConfig, log: Path) -> None:
    """Trains adapters with the Transformers Trainer and merges them into ``backbone.model``, in place."""
    import tempfile

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from digiq.vlm.backbone import prepare

    yes, no = answer_ids(backbone)
    template = _template(backbone, config.prompt)

    def collate(examples: list[Example]) -> dict[str, Any]:
        """Prompts with their answers as one more token, the only one that counts in the loss."""
        batch = prepare(
            backbone,
            [_shown(e, config.grounding) for e in examples],
            [_prompt(e, config.grounding, template) for e in examples],
        )
        answers = torch.tensor([yes if e.changed else no for e in examples], device=backbone.device)
        return _with_answers(batch.inputs, answers, backbone.family.answer_type)

    adapters = LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=_language_linears(backbone)
    )
    torch.manual_seed(config.seed)
    model = get_peft_model(backbone.model, adapters)
    _hold_statistics(model)
    updates = -(-len(sample) // config.batch_size)

    events = event_writer(log.parent / LOGS, "step")

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            bar.advance(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                bar.advance(0, loss=float(logs["loss"]))
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": state.global_step, "loss": logs["loss"]}) + "\n")
                events({"step": state.global_step, "loss": float(logs["loss"])})

    with tempfile.TemporaryDirectory() as scratch, progress("tune-vlm", updates, unit="updates") as bar:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            warmup_steps=min(20, updates // 10),
            logging_steps=max(1, updates // 40),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=config.device == "cpu",
            seed=config.seed,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=list(sample),  # type: ignore[arg-type]
            data_collator=collate,
            callbacks=[Report()],
        )
        trainer.remove_callback(_printer())
        trainer.train()
    model.merge_and_unload()  # type: ignore[operator]
    backbone.model.eval()


def _hold_statistics(model: Any) -> None:
    """Freezes the statistics of batch normalisation permanently: frozen parts must not follow the tuning's batches."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _language_linears(backbone: Any) -> list[str]:
    """Full names of the linear layers of the language model's blocks."""
    decoder = backbone.family.decoder(backbone.model)
    here = next(name for name, module in backbone.model.named_modules() if module is decoder)
    names = [f"{here}.{name}" for name, _ in decoder.named_modules() if name.rpartition(".")[2] in _LINEARS]
    if not names:
        raise DigiQError(
            f"{type(backbone.model).__name__}: no linear layers called {', '.join(_LINEARS)} in its language model; "
            "tune_vlm cannot adapt it."
        )
    return names


def _with_answers(inputs: dict[str, Any], answers: Any, answer_type: int) -> dict[str, Any]:
    """Appends one token to each row, with a label for that token only."""
    import torch

    from digiq.vlm.backbone import with_answers

    out = with_answers(inputs, answers, answer_type)
    labels = torch.full_like(out["input_ids"], _IGNORE)
    rows = torch.arange(len(labels), device=labels.device)
    labels[rows, out["attention_mask"].sum(dim=1) - 1] = answers
    return {**out, "labels": labels}


def _keep_video(source: Path, target: Path) -> None:
    """Saves the processor with its video part, although it is opened without (:mod:`digiq.vlm.processors`)."""
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        file = source / name
        if file.is_file() and ("video" in name or "video_processor" in json.loads(file.read_text("utf-8"))):
            shutil.copy(file, target / name)


def _flatten(path: Path) -> None:
    """Moves the finished model up, so that the artefact's directory is the model directory."""
    for file in (path / "model").iterdir():
        file.replace(path / file.name)
    (path / "model").rmdir()
