"""Answers of an agent behind an OpenAI-compatible endpoint, one request per candidate."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from android_env.actions import Action
from digiq.config import configclass
from digiq.dialects.choice import DialectConfig
from digiq.endpoint import Endpoint, EndpointConfig
from digiq.policies.base import Candidate, PolicyInput
from digiq.proposals.asking import TEMPLATE, Asking, read_template
from digiq.proposals.base import StepInput, logged_candidate


@configclass
class EndpointSamples:
    """Answers of a model behind HTTP, in its own dialect. One that does not parse is counted and gives no candidate."""

    model: EndpointConfig = EndpointConfig()
    """Which model, and how to query it."""
    say: DialectConfig = DialectConfig()
    """The dialect of its answers."""
    prompt: Path | None = None
    """A file with the prompt, with ``{manual}``, ``{goal}`` and ``{past}``; none: the dialect's manual, the goal and
    the previous actions."""
    history: Annotated[int, Field(ge=0)] = 4
    """Number of previous actions in the prompt."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def files(self) -> Mapping[str, Path]:
        return {} if self.prompt is None else {"template": self.prompt}

    def open(self, paths: Mapping[str, Path]) -> "Sampler":
        """See :class:`digiq.proposals.base.Source`."""
        template = TEMPLATE if self.prompt is None else read_template(self.prompt)
        return Sampler(Asking(Endpoint(self.model), self.say.chosen, template, self.history))


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Proposes the answers."""

    asking: Asking
    reads_steps: bool = True

    def propose(
        self,
        inputs: Sequence[PolicyInput],
        logged: Sequence[Action | None],
        n: int,
        rngs: Sequence[np.random.Generator],
    ) -> list[list[Candidate | None]]:
        """See :class:`digiq.proposals.base.Candidates`."""
        questions = [
            (
                seen,
                seen.past if isinstance(seen, StepInput) else (),
                [int(s) for s in rng.integers(2**31, size=n - 1)],
            )
            for seen, rng in zip(inputs, rngs, strict=True)
        ]
        rows: list[list[Candidate | None]] = []
        for action, said in zip(logged, self.asking.candidates(questions), strict=True):
            first = logged_candidate(action)
            rows.append([first, *(c for c in said if isinstance(c, Candidate))])
        return rows

    def report(self) -> dict[str, int]:
        """See :meth:`digiq.proposals.asking.Asking.report`."""
        return self.asking.report()
