"""A local Hugging Face VLM that answers in a dialect: a source of candidates, also called by agents' proposers."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from android_env.actions import Action, ActionType, ParseError
from android_env.errors import ActionError
from digiq.config import configclass
from digiq.dialects.base import Dialect
from digiq.dialects.choice import DialectConfig
from digiq.policies.base import Candidate, PolicyInput
from digiq.proposals.asking import TEMPLATE, read_template
from digiq.proposals.base import StepInput, logged_candidate
from digiq.vlm import TINY_VLM_PATH


@configclass
class VlmSamples:
    """Answers of a local image-text-to-text model, in its own dialect, each with the model's log-probability. An answer
    that does not parse is counted and gives no candidate."""

    model: Path = TINY_VLM_PATH
    """Directory of the model. The embedded model, the default, speaks no dialect and serves only for tests."""
    say: DialectConfig = DialectConfig()
    """The dialect of its answers."""
    prompt: Path | None = None
    """A file with the prompt, with ``{manual}``, ``{goal}`` and ``{past}``; none: the dialect's manual, the goal and
    the previous actions."""
    history: Annotated[int, Field(ge=0)] = 4
    """Number of previous actions in the prompt."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the sampling."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Maximum length of an answer, in tokens."""
    device: str = "cpu"
    """Where torch runs: cpu, cuda, cuda:1, ..."""
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def files(self) -> Mapping[str, Path]:
        return {"speaker": self.model, **({} if self.prompt is None else {"template": self.prompt})}

    def open(self, paths: Mapping[str, Path]) -> Sampler:
        """See :class:`digiq.proposals.base.Source`."""
        speaker = Speaker.open(
            self.model,
            self.say.chosen,
            device=self.device,
            template=TEMPLATE if self.prompt is None else read_template(self.prompt),
            history=self.history,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )
        return Sampler(speaker)


@dataclasses.dataclass
class Speaker:
    """An opened model that is asked for actions; counts unparsable answers by reason."""

    model: Any
    processor: Any
    dialect: Dialect
    template: str = TEMPLATE
    """Prompt with ``{manual}``, ``{goal}`` and ``{past}``."""
    history: int = 4
    temperature: float = 1.0
    max_tokens: int = 256
    unparsable: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @classmethod
    def open(cls, path: str | Path, dialect: Dialect, *, device: str = "cpu", **settings: Any) -> Speaker:
        """Opens a model directory; nothing is downloaded.

        Raises:
          DigiQError: it is not a model directory, or it requires running code of its own.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from digiq.vlm.backbone import check_model_directory

        check_model_directory(Path(path))
        model: Any = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True)
        # Half precision is for accelerators: on a CPU, sampling is no faster with it, and less exact.
        model = (model.float() if device == "cpu" else model).to(device).eval()
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        return cls(model, processor, dialect, **settings)

    def say(
        self, seen: PolicyInput, past: Sequence[Action], n: int, seed: int
    ) -> list[Candidate | ParseError]:
        """``n`` answers about an observation, with their log-probabilities; the prompt is computed once for all.

        Args:
          seen: the observation.
          past: previous actions, oldest first.
          n: at least 1.
          seed: seed of the sampling.
        """
        import torch
        from PIL import Image

        height, width = seen.screenshot.shape[:2]
        told = past[len(past) - self.history :] if self.history else ()
        before = "".join(f"Before: {self._word(action, (height, width))}\n" for action in told)
        text = self.template.format(manual=self.dialect.manual, goal=seen.goal, past=before)
        inputs = self._inputs(Image.fromarray(seen.screenshot), text)
        inputs = inputs.to(self.model.device, self.model.dtype)
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                do_sample=True,
                temperature=self.temperature,
                top_k=0,
                num_return_sequences=n,
                max_new_tokens=self.max_tokens,
                output_logits=True,
                return_dict_in_generate=True,
            )
        start = inputs["input_ids"].shape[1]
        scores = self.model.compute_transition_scores(
            out.sequences, tuple(s / self.temperature for s in out.logits), normalize_logits=True
        )
        pad = self.processor.tokenizer.pad_token_id
        found: list[Candidate | ParseError] = []
        for tokens, score in zip(out.sequences[:, start:], scores, strict=True):
            action = self.dialect.parse(
                self.processor.decode(tokens, skip_special_tokens=True), (height, width)
            )
            if isinstance(action, ParseError):
                self.unparsable[action.reason[:80]] += 1
                found.append(action)
                continue
            kept = score[(tokens != pad) & torch.isfinite(score)]
            found.append(Candidate(action, min(float(kept.sum()), 0.0) if len(kept) else math.nan))
        return found

    def _word(self, action: Action, screen: tuple[int, int]) -> str:
        try:
            return self.dialect.write(action, screen)
        except ActionError:
            return ActionType(action.type).name.lower()

    def _inputs(self, image: Any, text: str) -> Any:
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        chat = [{"role": "user", "content": content}]
        if getattr(self.processor, "chat_template", None):
            return self.processor.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        token = getattr(self.processor, "image_token", "<image>")
        return self.processor(images=image, text=f"{token}\n{text}\n", return_tensors="pt")


@dataclasses.dataclass
class Sampler:
    """Proposes the answers."""

    speaker: Speaker
    reads_steps: bool = True
    answers: int = 0

    def propose(
        self,
        inputs: Sequence[PolicyInput],
        logged: Sequence[Action | None],
        n: int,
        rngs: Sequence[np.random.Generator],
    ) -> list[list[Candidate | None]]:
        """See :class:`digiq.proposals.base.Candidates`."""
        rows: list[list[Candidate | None]] = []
        for seen, action, rng in zip(inputs, logged, rngs, strict=True):
            past = seen.past if isinstance(seen, StepInput) else ()
            said = self.speaker.say(seen, past, n - 1, int(rng.integers(2**31))) if n > 1 else []
            self.answers += len(said)
            rows.append([logged_candidate(action), *(c for c in said if isinstance(c, Candidate))])
        return rows

    def report(self) -> dict[str, int]:
        """Counts: ``answers``, and how many of them were ``unparsable``."""
        return {"answers": self.answers, "unparsable": self.speaker.unparsable.total()}
