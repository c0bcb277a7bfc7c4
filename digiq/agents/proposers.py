"""Anyone's agent as a proposer: two methods, and adapters for policies, endpoints, local models and plain functions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from android_env.actions import Action, ParseError
from digiq.agents.agent import Past, screen_digest
from digiq.config import to_dict
from digiq.dialects import DIALECTS
from digiq.dialects.base import Dialect
from digiq.endpoint import Endpoint, EndpointConfig
from digiq.policies.base import Candidate, Policy, PolicyInput
from digiq.proposals.asking import TEMPLATE, Asking

Proposal = Candidate | Action | ParseError
"""An action with its log-probability, or without; or what the agent said that is none, and why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Seen(PolicyInput):
    """What a proposer is shown: the screenshot, the goal, and what was done before."""

    past: tuple[Past, ...] = ()
    """Oldest first."""
    rng: np.random.Generator = dataclasses.field(default_factory=np.random.default_rng)
    """Of the episode; what is drawn from it is the same when the episode runs again."""

    @property
    def screen(self) -> bytes:
        """Digest of the screenshot, as in :class:`~digiq.agents.agent.Past`."""
        return screen_digest(self.screenshot)


class Proposer(Protocol):
    """An agent that can say what it would do, several times over.

    One that also has ``propose_all(observations, n)`` is asked about the observations of many episodes at once.
    """

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """Up to ``n`` actions that the agent would take, its own choice first. It may be asked again for more."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is, for records; nothing secret."""
        ...


@dataclasses.dataclass(frozen=True)
class PolicyProposer:
    """A policy of ours."""

    policy: Policy
    temperature: float = 1.0

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`Proposer`."""
        return self.propose_all([observation], n)[0]

    def propose_all(self, observations: Sequence[Seen], n: int) -> list[list[Candidate]]:
        """The policy sees all observations as one batch."""
        rngs = [seen.rng for seen in observations]
        return self.policy.sample(list(observations), n, rngs, self.temperature)

    def describe(self) -> dict[str, Any]:
        """See :class:`Proposer`."""
        return {"proposer": "policy", "kind": type(self.policy).__name__, "temperature": self.temperature}


@dataclasses.dataclass(frozen=True)
class EndpointProposer:
    """A model behind HTTP that answers in a dialect."""

    asking: Asking

    @classmethod
    def open(
        cls, model: EndpointConfig, dialect: Dialect, *, template: str = TEMPLATE, history: int = 4
    ) -> EndpointProposer:
        """See :class:`digiq.endpoint.EndpointConfig`, :mod:`digiq.dialects` and :class:`digiq.proposals.asking.Asking`."""
        return cls(Asking(Endpoint(model), dialect, template, history))

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`Proposer`."""
        return self.propose_all([observation], n)[0]

    def propose_all(self, observations: Sequence[Seen], n: int) -> list[list[Candidate | ParseError]]:
        """Calls run side by side, as many at once as the endpoint's ``concurrency``."""
        questions = [
            (seen, [past.action for past in seen.past], [int(s) for s in seen.rng.integers(2**31, size=n)])
            for seen in observations
        ]
        return self.asking.candidates(questions)

    def describe(self) -> dict[str, Any]:
        """See :class:`Proposer`; the key is not in it."""
        model = self.asking.endpoint.config
        dialect = DIALECTS.name_of(type(self.asking.dialect))
        return {"proposer": "endpoint", "url": model.url, "model": model.model, "dialect": dialect}


@dataclasses.dataclass(frozen=True)
class TextProposer:
    """Any function that says what to do in a dialect: ``say(screenshot, goal, past actions, n)`` returns texts."""

    say: Callable[[np.ndarray, str, Sequence[Action], int], Sequence[str]]
    dialect: Dialect

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`Proposer`."""
        height, width = observation.screenshot.shape[:2]
        past = [past.action for past in observation.past]
        texts = self.say(observation.screenshot, observation.goal, past, n)
        return [self.dialect.parse(text, (height, width)) for text in texts]

    def describe(self) -> dict[str, Any]:
        """See :class:`Proposer`."""
        name = getattr(self.say, "__qualname__", type(self.say).__name__)
        return {"proposer": "text", "say": name, "dialect": DIALECTS.name_of(type(self.dialect))}


@dataclasses.dataclass
class VlmProposer:
    """A local Hugging Face image-text-to-text model that answers in a dialect, sampled."""

    model: Any
    processor: Any
    dialect: Dialect
    temperature: float = 1.0
    max_tokens: int = 256
    where: str = ""

    @classmethod
    def open(cls, path: str | Path, dialect: Dialect, *, device: str = "cpu", **settings: Any) -> VlmProposer:
        """Opens a model directory; nothing is fetched.

        Raises:
          DigiQError: it is no such directory, or it wants to run code of its own.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from digiq.vlm.backbone import check_model_directory

        check_model_directory(Path(path))
        model: Any = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True)
        # Half precision is for accelerators: on a CPU it is no faster to sample from, and less exact.
        model = (model.float() if device == "cpu" else model).to(device).eval()
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        return cls(model, processor, dialect, where=str(path), **settings)

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`Proposer`. The prompt is computed once for the N answers; log-probabilities are the answers' own."""
        import torch
        from PIL import Image

        height, width = observation.screenshot.shape[:2]
        before = "".join(
            f"Before: {self.dialect.write(p.action, (height, width))}\n" for p in observation.past[-4:]
        )
        said = TEMPLATE.format(manual=self.dialect.manual, goal=observation.goal, past=before)
        inputs = self._inputs(Image.fromarray(observation.screenshot), said)
        inputs = inputs.to(self.model.device, self.model.dtype)
        torch.manual_seed(int(observation.rng.integers(2**31)))
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
        found: list[Proposal] = []
        for tokens, score in zip(out.sequences[:, start:], scores, strict=True):
            text = self.processor.decode(tokens, skip_special_tokens=True)
            action = self.dialect.parse(text, (height, width))
            kept = score[(tokens != pad) & torch.isfinite(score)]
            log_prob = float(kept.sum()) if len(kept) else math.nan
            found.append(action if isinstance(action, ParseError) else Candidate(action, log_prob))
        return found

    def _inputs(self, image: Any, text: str) -> Any:
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        chat = [{"role": "user", "content": content}]
        if getattr(self.processor, "chat_template", None):
            return self.processor.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        token = getattr(self.processor, "image_token", "<image>")
        return self.processor(images=image, text=f"{token}\n{text}\n", return_tensors="pt")

    def describe(self) -> dict[str, Any]:
        """See :class:`Proposer`."""
        dialect = to_dict(self.dialect) | {"name": DIALECTS.name_of(type(self.dialect))}
        return {"proposer": "vlm", "path": self.where, "dialect": dialect, "temperature": self.temperature}
