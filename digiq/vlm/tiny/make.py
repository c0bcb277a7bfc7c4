"""``digiq make-tiny-vlm``: pre-trains the embedded tiny LLaVA on generated screens, in about an hour on two cores.

First the vision tower learns to read on its own, from labels for every patch (thousands per image); half of the images
are pages of text. Then the whole model learns the prompts' read-outs and to spell names, with the labels of patches and
of the goal's letters as lighter losses. Each screen comes with prompts under several goals, which share its image. The
goals differ only in names, so that only reading tells them apart. Matrix products are in bfloat16 (four times as fast
as float32 on CPUs that have it), parameters in float32.
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.errors import ArtifactError
from digiq.progress import progress
from digiq.vlm.tiny.architecture import CHARACTERS, GRID, PATCH_SIZE, build_model, build_processor, save
from digiq.vlm.tiny.examples import (
    IGNORE,
    LETTERS_PER_PATCH,
    ROLE_IDS,
    Encoder,
    Example,
    make_example,
    make_page,
)

STAGE, VERSION = "make-tiny-vlm", 1
METRICS = "metrics.json"
_CHECKPOINT = "checkpoint.pt"


@configclass
class MakeTinyVlmConfig:
    """Settings of the pre-training."""

    vision_steps: Annotated[int, Field(ge=0)] = 6000
    """Updates of the vision tower alone."""
    steps: Annotated[int, Field(ge=1)] = 4500
    """Updates of the whole model."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Screens per update."""
    vision_learning_rate: Annotated[float, Field(gt=0)] = 6e-3
    """Peak of AdamW's cosine schedule while the vision tower trains alone."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak of AdamW's cosine schedule for the whole model."""
    pages: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of pages of text among the screens while the vision tower trains alone."""
    dense_weight: Annotated[float, Field(ge=0)] = 0.2
    """Weight of the patch labels while the whole model trains."""
    comparison_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the labels of the goal's letters."""
    text: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of actions whose place is told in coordinates (grounding ``text``) while the whole model trains; in the
    others a cursor shows it."""
    location_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the label that says which widget lies at the coordinates."""
    evaluation_examples: Annotated[int, Field(ge=1)] = 1500
    """Number of screens with seen words, and of screens with unseen words, for measuring the accuracies."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 250
    """Updates between checkpoints."""
    goals: Annotated[int, Field(ge=1)] = 3
    """Goals per screen."""
    seed: int = 0
    """Seed of the parameters and the screens."""


def run(
    config: MakeTinyVlmConfig, *, start: Path | None = None, out: Path, overwrite: bool = False
) -> Artifact:
    """Trains the model and writes a Hugging Face directory with ``metrics.json`` in it; resumes from its checkpoint.

    Args:
      config: see :class:`MakeTinyVlmConfig`.
      start: such a directory, whose weights training starts from; random ones by default.
      out: the model's directory.
      overwrite: start anew.
    """
    import torch

    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs={"start": start}, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        torch.manual_seed(config.seed)
        processor = build_processor()
        trainer = _Trainer(config, processor)
        if start is not None:
            trainer.start_from(start)
        trainer.load(w.path / _CHECKPOINT)
        log = w.path / "metrics.jsonl"
        total = config.vision_steps + config.steps
        with progress("make-tiny-vlm", total, unit="updates", done=trainer.step) as bar:
            for metrics in trainer.updates():
                bar.advance(1, **metrics)
                if trainer.step % config.checkpoint_every == 0 or trainer.step == total:
                    trainer.save(w.path / _CHECKPOINT)
                    _export(trainer, w.path)
                    looked = (
                        trainer.step == config.vision_steps
                        or trainer.step % (4 * config.checkpoint_every) == 0
                    )
                    row = {
                        "step": trainer.step,
                        **metrics,
                        **(trainer.evaluate(min(300, config.evaluation_examples)) if looked else {}),
                    }
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
        trainer.round()
        accuracies = trainer.evaluate(config.evaluation_examples)
        artifacts.atomic_write_json(w.path / METRICS, accuracies)
        (w.path / _CHECKPOINT).unlink()
        for name, value in accuracies.items():
            print(f"{name}: {value:.3f}")
        return w.complete(counts={"parameters": trainer.parameters, "examples": total * config.batch_size})


def _export(trainer: Any, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(trainer.model, trainer.processor, Path(folder))
        for file in Path(folder).iterdir():
            with artifacts.atomic_path(path / file.name) as temporary:
                shutil.copy(file, temporary)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Tensors of B examples of T tokens."""

    pixels: Any
    ids: Any
    positions: Any
    mask: Any
    """bool [B, 1, T, T]: which token attends to which."""
    readout: Any
    spelled: Any
    agrees: Any
    roles: Any
    letters: Any
    pointed: Any
    located: Any
    told: Any


def _collate(examples: list[Example], encode: Encoder, pad: int) -> _Batch:
    import torch

    rows = [encode(example) for example in examples]
    length = max(len(row.ids) for row in rows)

    def padded(column: str, value: int) -> Any:
        lists = [getattr(row, column) for row in rows]
        return torch.tensor([items + [value] * (length - len(items)) for items in lists])

    def stacked(name: str) -> Any:
        return torch.from_numpy(np.stack([getattr(example, name) for example in examples]))

    segments = padded("segments", -1)
    seen, seeing = segments[:, None, :], segments[:, :, None]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    mask = earlier & ((seen == 0) | (seen == seeing))
    return _Batch(
        pixels=stacked("pixels"),
        ids=padded("ids", pad),
        positions=padded("positions", 0),
        mask=mask[:, None],
        readout=padded("readout", IGNORE),
        spelled=padded("spelled", IGNORE),
        agrees=padded("agrees", IGNORE),
        roles=stacked("roles"),
        letters=stacked("letters"),
        pointed=stacked("pointed"),
        located=stacked("located"),
        told=padded("told", 0),
    )


class _Batches:
    """Batches by number, always the same, so that a resumed run sees the same data as an uninterrupted one."""

    def __init__(self, config: MakeTinyVlmConfig, tokenizer: Any):
        self._config = config
        self._encode, self._pad = Encoder(tokenizer), tokenizer.pad_token_id

    def __len__(self) -> int:
        return self._config.vision_steps + self._config.steps

    def __getitem__(self, index: int) -> _Batch:
        config = self._config
        rng = np.random.default_rng([config.seed, index])
        alone = index < config.vision_steps
        pages = round(config.pages * config.batch_size) if alone else 0
        drawn = [make_page(rng) for _ in range(pages)]
        goals, text = (1, 0.0) if alone else (config.goals, config.text)
        drawn += [make_example(rng, goals=goals, text=text) for _ in range(config.batch_size - pages)]
        return _collate(drawn, self._encode, self._pad)


class _Trainer:
    """Model, patch heads and step; checkpoints hold all of them."""

    def __init__(self, config: MakeTinyVlmConfig, processor: Any):
        from torch import nn

        self.config, self.processor = config, processor
        self.model: Any = build_model(processor.tokenizer)
        # torch's fused attention has a slow backward pass on CPUs: with plain products an update is 1.2 times as fast.
        self.model.model.language_model.set_attn_implementation("eager")
        width = self.model.config.text_config.hidden_size
        outputs = len(ROLE_IDS) + LETTERS_PER_PATCH * (len(CHARACTERS) + 1) + 2
        # Linear maps from the projected patch to role, letters and pointed, from letters of the prompt to whether they
        # agree, and from coordinates to what is compared with the patches. They are discarded after training.
        self.heads = nn.ModuleDict(
            {
                "patches": nn.Linear(width, outputs),
                "agrees": nn.Linear(width, 2),
                "located": nn.Linear(width, width),
            }
        )
        parts = (self.model.model.vision_tower, self.model.model.multi_modal_projector, self.heads)
        self._vision = [p for part in parts for p in part.parameters()]
        self._all = [*self.model.parameters(), *self.heads.parameters()]
        self.step = 0
        self._optimizer = self._new_optimizer()

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def _new_optimizer(self) -> Any:
        import torch

        trained = self._vision if self._alone else self._all
        return torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02, fused=True)

    @property
    def _alone(self) -> bool:
        """Whether the vision tower trains alone."""
        return self.step < self.config.vision_steps

    def updates(self) -> Any:
        """Yields a dict of losses after each remaining update."""
        import torch
        from torch.utils.data import DataLoader

        config = self.config
        batches: Any = _Batches(config, self.processor.tokenizer)
        # Another process draws screens while this one trains.
        loader = DataLoader(
            batches, batch_size=None, sampler=range(self.step, len(batches)), num_workers=1, prefetch_factor=8
        )
        self.model.train()
        for batch in loader:
            if self.step == config.vision_steps:
                self._optimizer = self._new_optimizer()
            with torch.autocast("cpu", torch.bfloat16):
                losses = self._losses(batch)
            total: Any = sum(losses.values())
            total.backward()
            self._apply()
            self.step += 1
            yield {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, batch: _Batch) -> dict[str, Any]:
        from torch.nn.functional import cross_entropy

        features = self._image_features(batch)
        dense = self._dense(features, batch)
        if self._alone:
            return dense
        hidden = self._hidden(features, batch)

        def loss(head: Any, labels: Any) -> Any:
            there = labels != IGNORE
            return cross_entropy(head(hidden[there]).float(), labels[there])

        losses = {
            "answers": loss(self.model.lm_head, batch.readout),
            "names": loss(self.model.lm_head, batch.spelled),
            "agree": self.config.comparison_weight * loss(self.heads["agrees"], batch.agrees),
        }
        if (batch.located != IGNORE).any():
            losses["located"] = self.config.location_weight * self._location_loss(hidden, batch)
        return losses | {k: v * self.config.dense_weight for k, v in dense.items()}

    def _location_loss(self, hidden: Any, batch: _Batch) -> Any:
        """Cross entropy between where the last coordinate looks, by products with the patches' states, and the widget
        there; points without a widget are left out."""
        row, position = batch.told.nonzero(as_tuple=True)
        target = (batch.located[row] == 1).float()
        some = target.sum(-1) > 0
        patches = hidden[row[some], : GRID * GRID]
        asked = self.heads["located"](hidden[row, position][some])
        scores = (patches @ asked.unsqueeze(-1)).squeeze(-1).float() * asked.shape[-1] ** -0.5
        target = target[some] / target[some].sum(-1, keepdim=True)
        return -(target * scores.log_softmax(-1)).sum(-1).mean()

    def _image_features(self, batch: _Batch) -> Any:
        """Projected patches [B, P, H], as passed to the language model."""
        import torch

        dtype = next(self.model.parameters()).dtype
        pixels = (batch.pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1).to(dtype)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return torch.stack(list(self.model.get_image_features(pixel_values=pixels).pooler_output))

    def _hidden(self, features: Any, batch: _Batch) -> Any:
        """The language model's last hidden states [B, T, H], with the image's features in place of its placeholders."""
        import torch

        embedded = self.model.get_input_embeddings()(batch.ids)
        place = (batch.ids == self.model.config.image_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(place.expand_as(embedded), features.to(embedded.dtype))
        seen = torch.zeros(batch.mask.shape, dtype=features.dtype).masked_fill(~batch.mask, -torch.inf)
        output = self.model.model.language_model(
            inputs_embeds=embedded, attention_mask=seen, position_ids=batch.positions, use_cache=False
        )
        return output.last_hidden_state

    def _split(self, features: Any) -> tuple[Any, Any, Any]:
        """Float32 scores: role [B·P, ...], letter of each cell [B·P·LETTERS_PER_PATCH, ...], pointed at [B·P, 2]."""
        letters = len(CHARACTERS) + 1
        scores = self.heads["patches"](features).float().flatten(0, 1)
        role, letter, pointed = scores.split([len(ROLE_IDS), LETTERS_PER_PATCH * letters, 2], dim=-1)
        return role, letter.reshape(-1, letters), pointed

    def _dense(self, features: Any, batch: _Batch) -> dict[str, Any]:
        import torch
        from torch.nn.functional import cross_entropy

        role, letter, pointed = self._split(features)
        # Most cells hold no letter and most patches are not pointed at, so the few that count weigh more.
        blank = torch.ones(letter.shape[-1])
        blank[0] = 0.2
        losses = {
            "role": cross_entropy(role, batch.roles.flatten(), ignore_index=IGNORE),
            "letters": 2 * cross_entropy(letter, batch.letters.flatten(), weight=blank),
        }
        if (batch.pointed != IGNORE).any():
            few = torch.tensor([0.25, 1.0])
            losses["pointed"] = cross_entropy(
                pointed, batch.pointed.flatten(), weight=few, ignore_index=IGNORE
            )
        return losses

    def _apply(self) -> None:
        """One AdamW step; each part of the training has its own cosine schedule."""
        import torch

        config = self.config
        done, span, peak = (
            (self.step, config.vision_steps, config.vision_learning_rate)
            if self._alone
            else (self.step - config.vision_steps, config.steps, config.learning_rate)
        )
        warm = min(1.0, (done + 1) / 100)
        for group in self._optimizer.param_groups:
            group["lr"] = float(peak * warm * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done / span))))
        torch.nn.utils.clip_grad_norm_(self._all, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def round(self) -> None:
        """Rounds the model to the saved precision, so that the last accuracies are those of the saved weights."""
        import torch

        self.model.to(torch.bfloat16)
        self.heads.to(torch.bfloat16)

    def evaluate(self, count: int) -> dict[str, float]:
        """Accuracies on fresh screens, with seen words and with words never shown in training; with ``text_`` before
        these, where coordinates tell the place of every tap.

        ``letters``: the discarded head reads a letter of a patch correctly. ``naming``: the whole name of a tapped
        widget is spelled correctly. ``kind``: its kind is correct. ``matching``: whether it fits the goal, averaged
        over fitting and non-fitting widgets. ``answers_<question>``: each read-out of every prompt.
        """
        import torch

        encode, pad = Encoder(self.processor.tokenizer), self.processor.tokenizer.pad_token_id
        out: dict[str, float] = {}
        self.model.eval()
        shares = {"seen": 0.0, "unseen": 0.0} | (
            {"text_seen": 1.0, "text_unseen": 1.0} if self.config.text else {}
        )
        for side, text in shares.items():
            unseen = side.endswith("unseen")
            rng = np.random.default_rng([1 << 20, unseen])
            right: dict[str, list[bool]] = {}
            for start in range(0, count, 50):
                examples = [
                    make_example(rng, unseen=unseen, text=text) for _ in range(min(50, count - start))
                ]
                batch = _collate(examples, encode, pad)
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                    features = self._image_features(batch)
                    said = self.model.lm_head(self._hidden(features, batch)).argmax(-1)
                    read = self._split(features)[1].argmax(-1)
                shown = batch.letters.flatten() > 0
                right.setdefault("letters", []).extend((read == batch.letters.flatten())[shown].tolist())
                self._mark(examples, batch, said, right)
            for name, marks in sorted(right.items()):
                out[f"{name}_{side}"] = float(np.mean(marks))
            matching = [out.pop(f"fits_{truth}_{side}", float("nan")) for truth in ("yes", "no")]
            out[f"matching_{side}"] = float(np.mean(matching))
        self.model.train()
        return out

    def _mark(self, examples: list[Example], batch: _Batch, said: Any, right: dict[str, list[bool]]) -> None:
        for row, example in enumerate(examples):
            places = (batch.readout[row] != IGNORE).nonzero().flatten().tolist()
            for place, (question, answer) in zip(places, example.asked[0].answers.items(), strict=True):
                good = bool(said[row, place] == batch.readout[row, place])
                right.setdefault(f"answers_{question}", []).append(good)
                if example.is_named_tap and question == "fits":
                    right.setdefault(f"fits_{answer}", []).append(good)
                if example.is_named_tap and question == "kind":
                    right.setdefault("kind", []).append(good)
            if example.is_named_tap:
                spelled = batch.spelled[row] != IGNORE
                # Greedy decoding is right exactly if every next token is right given the right ones before it.
                whole = bool((said[row][spelled] == batch.spelled[row][spelled]).all())
                right.setdefault("naming", []).append(whole)

    def start_from(self, path: Path) -> None:
        """Loads a directory's weights; the discarded heads are learned anew.

        Raises:
          ArtifactError: its architecture is different.
        """
        from transformers import LlavaForConditionalGeneration

        other = LlavaForConditionalGeneration.from_pretrained(path)
        try:
            self.model.load_state_dict(other.state_dict())
        except RuntimeError as error:
            raise ArtifactError(
                f"{path}: not the architecture of digiq/vlm/tiny/architecture.py ({error})."
            ) from None

    def save(self, path: Path) -> None:
        import torch

        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        with artifacts.atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        import torch

        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        if self.step != self.config.vision_steps:  # otherwise the second part begins, with its own optimiser
            self._optimizer = self._new_optimizer()
            self._optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])


assert PATCH_SIZE % LETTERS_PER_PATCH == 0
