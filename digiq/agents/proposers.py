"""Any agent as a proposer: two methods, and adapters for policies, endpoints, local models and functions."""

from __future__ import annotations

import dataclasses
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
from digiq.proposals.vlm import Speaker

Proposal = Candidate | Action | ParseError
"""An action, with or without its log-probability; or an answer of the agent that is no action, with the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Seen(PolicyInput):
    """What a proposer is shown: the screenshot, the goal, and the earlier actions."""

    past: tuple[Past, ...] = ()
    """Earlier actions, oldest first."""
    rng: np.random.Generator = dataclasses.field(default_factory=np.random.default_rng)
    """The episode's generator; its draws are the same when the episode is run again."""

    @property
    def screen(self) -> bytes:
        """Digest of the screenshot, as in :class:`~digiq.agents.agent.Past`."""
        return screen_digest(self.screenshot)


class Proposer(Protocol):
    """An agent that can propose several actions.

    A proposer that also has ``propose_all(observations, n)`` is asked about the observations of many episodes at once.
    """

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """Up to ``n`` actions that the agent would take, its own choice first. It may be asked again for more."""
        ...

    def describe(self) -> dict[str, Any]:
        """A description for records, without secrets."""
        ...


@dataclasses.dataclass(frozen=True)
class PolicyProposer:
    """A DigiQ policy."""

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
        """Makes the calls in parallel, up to the endpoint's ``concurrency`` at once."""
        questions = [
            (seen, [past.action for past in seen.past], [int(s) for s in seen.rng.integers(2**31, size=n)])
            for seen in observations
        ]
        return self.asking.candidates(questions)

    def describe(self) -> dict[str, Any]:
        """See :class:`Proposer`; the key is left out."""
        model = self.asking.endpoint.config
        dialect = DIALECTS.name_of(type(self.asking.dialect))
        return {"proposer": "endpoint", "url": model.url, "model": model.model, "dialect": dialect}


@dataclasses.dataclass(frozen=True)
class TextProposer:
    """Any function that answers in a dialect: ``say(screenshot, goal, past actions, n)`` returns texts."""

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


@dataclasses.dataclass(frozen=True)
class VlmProposer:
    """A local Hugging Face image-text-to-text model whose answers in a dialect are sampled, with log-probabilities."""

    speaker: Speaker
    where: str = ""

    @classmethod
    def open(cls, path: str | Path, dialect: Dialect, *, device: str = "cpu", **settings: Any) -> VlmProposer:
        """Opens a model directory without downloads. ``settings`` are those of :class:`digiq.proposals.vlm.Speaker`.

        Raises:
          DigiQError: the directory holds no such model, or the model needs to run code of its own.
        """
        return cls(Speaker.open(path, dialect, device=device, **settings), str(path))

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`Proposer`."""
        past = [past.action for past in observation.past]
        return self.speaker.say(observation, past, n, int(observation.rng.integers(2**31)))

    def describe(self) -> dict[str, Any]:
        """See :class:`Proposer`."""
        speaker = self.speaker
        dialect = to_dict(speaker.dialect) | {"name": DIALECTS.name_of(type(speaker.dialect))}
        return {
            "proposer": "vlm",
            "path": self.where,
            "dialect": dialect,
            "temperature": speaker.temperature,
        }
