"""``digiq make-tiny-vlm``: pre-trains the embedded tiny LLaVA on generated screens, in about an hour on two cores.

First the vision tower learns to read on its own, from labels for every patch (thousands an image), half of the images
pages of text; then the whole model learns the prompts' read-outs and to spell names, with the labels of patches and of
the goal's letters as lighter losses. Weights and
activations are bfloat16 (four times float32's speed on CPUs that have it); the optimiser keeps a float32 copy.
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
from digiq.progress import progress
from digiq.vlm.tiny.architecture import CHARACTERS, PATCH_SIZE, build_model, build_processor, save
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
    """How long and how hard to train."""

    vision_steps: Annotated[int, Field(ge=0)] = 2500
    """Updates of the vision tower alone."""
    steps: Annotated[int, Field(ge=1)] = 5500
    """Updates of the whole model."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Screens an update."""
    vision_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak of AdamW's cosine schedule while the vision tower trains alone."""
    learning_rate: Annotated[float, Field(gt=0)] = 8e-4
    """Peak of AdamW's cosine schedule for the whole model."""
    pages: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of pages of text among the screens while the vision tower trains alone."""
    dense_weight: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the patches' labels while the whole model trains."""
    comparison_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the goal's letters' labels."""
    evaluation_examples: Annotated[int, Field(ge=1)] = 1500
    """Screens with seen words, and as many with unseen ones, that the accuracies are measured on."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 250
    """Updates between checkpoints."""
    init: Path | None = None
    """An earlier tiny VLM to go on from; none: random weights and a whitened patch embedding."""
    seed: int = 0
    """Of the parameters and of the screens."""


def run(config: MakeTinyVlmConfig, *, out: Path, overwrite: bool = False) -> Artifact:
    """Trains and writes a Hugging Face directory with ``metrics.json`` beside it; resumes from its checkpoint.

    Args:
      config: see :class:`MakeTinyVlmConfig`.
      out: the model's directory.
      overwrite: start anew.
    """
    import torch

    with artifacts.write(out, stage=STAGE, version=VERSION, config=config, overwrite=overwrite) as w:
        if w.done:
            return w.artifact
        torch.manual_seed(config.seed)
        processor = build_processor()
        trainer = _Trainer(config, processor)
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
                    with log.open("a") as file:
                        file.write(json.dumps(row) + "\n")
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
    mask: Any
    readout: Any
    spelled: Any
    agrees: Any
    roles: Any
    letters: Any
    pointed: Any


def _collate(examples: list[Example], encode: Encoder, pad: int) -> _Batch:
    import torch

    rows = [encode(example) for example in examples]
    length = max(len(ids) for ids, *_ in rows)

    def padded(column: int, value: int) -> Any:
        return torch.tensor([row[column] + [value] * (length - len(row[column])) for row in rows])

    def stacked(name: str) -> Any:
        return torch.from_numpy(np.stack([getattr(example, name) for example in examples]))

    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, *_ in rows])
    return _Batch(
        pixels=stacked("pixels"),
        ids=padded(0, pad),
        mask=mask,
        readout=padded(1, IGNORE),
        spelled=padded(2, IGNORE),
        agrees=padded(3, IGNORE),
        roles=stacked("roles"),
        letters=stacked("letters"),
        pointed=stacked("pointed"),
    )


class _Batches:
    """Batch number i, always the same: what makes a resumed run see what an uninterrupted one would."""

    def __init__(self, config: MakeTinyVlmConfig, tokenizer: Any):
        self._config = config
        self._encode, self._pad = Encoder(tokenizer), tokenizer.pad_token_id

    def __len__(self) -> int:
        return self._config.vision_steps + self._config.steps

    def __getitem__(self, index: int) -> _Batch:
        config = self._config
        rng = np.random.default_rng([config.seed, index])
        pages = round(config.pages * config.batch_size) if index < config.vision_steps else 0
        drawn = [make_page(rng) for _ in range(pages)]
        drawn += [make_example(rng) for _ in range(config.batch_size - pages)]
        return _collate(drawn, self._encode, self._pad)


class _Trainer:
    """Model, patch heads, float32 master copy and step; checkpoints hold all of it."""

    def __init__(self, config: MakeTinyVlmConfig, processor: Any):
        import torch
        from torch import nn

        self.config, self.processor = config, processor
        model: Any = build_model(processor.tokenizer)
        self.model = model.to(torch.bfloat16)
        width = self.model.config.text_config.hidden_size
        outputs = len(ROLE_IDS) + LETTERS_PER_PATCH * (len(CHARACTERS) + 1) + 2
        # Linear maps from the projected patch to role, letters and pointed, and from the goal's letters to whether they
        # agree: thrown away after training.
        self.heads = nn.Linear(width, outputs).to(torch.bfloat16)
        self.compare = nn.Linear(width, 2).to(torch.bfloat16)
        if config.init is None:
            self._whiten()
        else:
            self.model.load_state_dict(type(model).from_pretrained(config.init).state_dict())
        self._live: list[Any] = [
            *self.model.parameters(),
            *self.heads.parameters(),
            *self.compare.parameters(),
        ]
        self._master = [nn.Parameter(p.detach().float().clone()) for p in self._live]
        self._vision = {
            id(p)
            for module in (self.model.model.vision_tower, self.model.model.multi_modal_projector, self.heads)
            for p in module.parameters()
        }
        self.step = 0
        self._optimizer = self._new_optimizer()

    def _whiten(self) -> None:
        """Starts the patch embedding at the principal components of patches, each of the same size.

        Strokes of letters are a small part of a patch's variance; from random weights they take long to be seen.
        """
        import torch

        rng = np.random.default_rng([self.config.seed, 1 << 30])
        drawn = np.stack([(make_page if i % 2 else make_example)(rng).pixels for i in range(64)])
        side = PATCH_SIZE
        patches = drawn.reshape(len(drawn), -1, side, drawn.shape[2] // side, side, 3).swapaxes(2, 3)
        rows = patches.reshape(-1, side * side * 3).astype(np.float64) / 127.5 - 1
        variance, axes = np.linalg.eigh(np.cov(rows.T))
        weight: Any = self.model.model.vision_tower.embeddings.patch_embedding.weight
        top = slice(None, -len(weight) - 1, -1)
        components = axes[:, top].T / np.sqrt(variance[top] + 1e-3)[:, None]
        kernel = components.reshape(-1, side, side, 3).transpose(0, 3, 1, 2)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(kernel))

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def _new_optimizer(self) -> Any:
        import torch

        return torch.optim.AdamW(self._master, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02, fused=True)

    def updates(self) -> Any:
        """Yields a dict of losses after each update that is left."""
        from torch.utils.data import DataLoader

        config = self.config
        total = config.vision_steps + config.steps
        batches: Any = _Batches(config, self.processor.tokenizer)
        # One process draws screens while this one trains.
        loader = DataLoader(
            batches, batch_size=None, sampler=range(self.step, total), num_workers=1, prefetch_factor=8
        )
        for batch in loader:
            alone = self.step < config.vision_steps
            if self.step == config.vision_steps:
                self._optimizer = self._new_optimizer()
            losses = self._losses(batch, alone)
            total_loss: Any = sum(losses.values())
            total_loss.backward()
            self._apply(alone)
            self.step += 1
            yield {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, batch: _Batch, alone: bool) -> dict[str, Any]:
        from torch.nn.functional import cross_entropy

        pixels = self._pixels(batch)
        if alone:
            return self._dense(self._image_features(pixels), batch)
        features = self._image_features(pixels)
        hidden = self._hidden(features, batch)
        logits = self.model.lm_head(hidden).float().flatten(0, 1)
        agree = self.compare(hidden).float().flatten(0, 1)
        losses = {
            "answers": cross_entropy(logits, batch.readout.flatten(), ignore_index=IGNORE),
            "names": cross_entropy(logits, batch.spelled.flatten(), ignore_index=IGNORE),
        }
        if (batch.agrees != IGNORE).any():
            agreement = cross_entropy(agree, batch.agrees.flatten(), ignore_index=IGNORE)
            losses["agree"] = self.config.comparison_weight * agreement
        dense = {k: v * self.config.dense_weight for k, v in self._dense(features, batch).items()}
        return losses | dense

    def _pixels(self, batch: _Batch) -> Any:
        import torch

        return ((batch.pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - 0.5) / 0.5).to(torch.bfloat16)

    def _image_features(self, pixels: Any) -> Any:
        """Projected patches [B, P, H], as the language model gets them."""
        import torch

        return torch.stack(list(self.model.get_image_features(pixel_values=pixels).pooler_output))

    def _hidden(self, features: Any, batch: _Batch) -> Any:
        """The language model's last hidden states [B, T, H], the image's features where its placeholders stand."""
        embedded = self.model.get_input_embeddings()(batch.ids)
        place = (batch.ids == self.model.config.image_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(place.expand_as(embedded), features.to(embedded.dtype))
        output = self.model.model.language_model(
            inputs_embeds=embedded, attention_mask=batch.mask, use_cache=False
        )
        return output.last_hidden_state

    def _split(self, features: Any) -> tuple[Any, Any, Any]:
        """Float32 scores: of the role [B·P, ...], of each letter's place [B·P·LETTERS_PER_PATCH, ...], of being pointed at."""
        letters = len(CHARACTERS) + 1
        scores = self.heads(features).float().flatten(0, 1)
        role, letter, pointed = scores.split([len(ROLE_IDS), LETTERS_PER_PATCH * letters, 2], dim=-1)
        return role, letter.reshape(-1, letters), pointed

    def _dense(self, features: Any, batch: _Batch) -> dict[str, Any]:
        import torch
        from torch.nn.functional import cross_entropy

        role, letter, pointed = self._split(features)
        # Most places hold no letter and most patches are not pointed at: the few that count weigh more.
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

    def _apply(self, alone: bool) -> None:
        """One AdamW step on the float32 copy, which is then rounded back into the model."""
        import torch

        config = self.config
        done, span, peak = (
            (self.step, config.vision_steps, config.vision_learning_rate)
            if alone
            else (self.step - config.vision_steps, config.steps, config.learning_rate)
        )
        warm = min(1.0, (done + 1) / 100)
        for group in self._optimizer.param_groups:
            group["lr"] = float(peak * warm * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done / span))))
        with torch.no_grad():
            for live, master in zip(self._live, self._master, strict=True):
                gradient: Any = None if alone and id(live) not in self._vision else live.grad
                master.grad = None if gradient is None else gradient.float()
                live.grad = None
            torch.nn.utils.clip_grad_norm_(self._master, 1.0)
            self._optimizer.step()
            for live, master in zip(self._live, self._master, strict=True):
                live.copy_(master)

    def evaluate(self, count: int) -> dict[str, float]:
        """Accuracies on fresh screens, with seen words and with words that training never shows.

        ``letters``: a letter of a patch is read by the head that is thrown away. ``naming``: the whole name of a tapped widget is spelled right. ``kind``: its kind is. ``matching``: whether it
        fits the goal, mean over fitting and not fitting ones. ``answers_<question>``: each read-out of every prompt.
        """
        import torch

        encode, pad = Encoder(self.processor.tokenizer), self.processor.tokenizer.pad_token_id
        out: dict[str, float] = {}
        self.model.eval()
        for side in ("seen", "unseen"):
            rng = np.random.default_rng([1 << 20, side == "unseen"])
            right: dict[str, list[bool]] = {}
            for start in range(0, count, 50):
                examples = [make_example(rng, unseen=side == "unseen") for _ in range(min(50, count - start))]
                batch = _collate(examples, encode, pad)
                with torch.inference_mode():
                    features = self._image_features(self._pixels(batch))
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
            for place, (question, answer) in zip(places, example.answers.items(), strict=True):
                good = bool(said[row, place] == batch.readout[row, place])
                right.setdefault(f"answers_{question}", []).append(good)
                if example.is_named_tap and question == "fits":
                    right.setdefault(f"fits_{answer}", []).append(good)
                if example.is_named_tap and question == "kind":
                    right.setdefault("kind", []).append(good)
            if example.is_named_tap:
                spelled = batch.spelled[row] != IGNORE
                # Every next token right, given the right ones before it, is what greedy decoding needs and gives.
                whole = bool((said[row][spelled] == batch.spelled[row][spelled]).all())
                right.setdefault("naming", []).append(whole)

    def save(self, path: Path) -> None:
        import torch

        state = {"step": self.step, "master": self._master, "optimizer": self._optimizer.state_dict()}
        with artifacts.atomic_path(path) as temporary:
            torch.save({**state, "master": [p.detach() for p in self._master]}, temporary)

    def load(self, path: Path) -> None:
        import torch

        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self._optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for live, master, saved in zip(self._live, self._master, state["master"], strict=True):
                master.copy_(saved)
                live.copy_(saved)


assert PATCH_SIZE % LETTERS_PER_PATCH == 0
