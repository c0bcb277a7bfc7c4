"""Asks an agent behind an endpoint for actions, and reads its answers."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

from android_env.actions import Action, ActionType, ParseError
from android_env.errors import ActionError
from digiq.data.schema import encode_png
from digiq.dialects.base import Dialect
from digiq.endpoint import Answer, Endpoint, EndpointError, Message
from digiq.errors import DigiQError
from digiq.policies.base import Candidate, PolicyInput

TEMPLATE = "{manual}\n\nGoal: {goal}\n{past}Choose the next action on this screen."
_EXAMPLES = 20


@dataclasses.dataclass
class Asking:
    """Asks an endpoint for candidates and reads its answers in a dialect; counts what does not parse.

    ``unparsable`` holds counts by reason; ``examples`` holds some of the answers.
    """

    endpoint: Endpoint
    dialect: Dialect
    template: str = TEMPLATE
    """Prompt with ``{manual}``, ``{goal}`` and ``{past}``."""
    history: int = 4
    """Number of past actions in the prompt."""
    unparsable: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: list[str] = dataclasses.field(default_factory=list)

    def question(self, seen: PolicyInput, past: Sequence[Action]) -> list[Message]:
        """The messages about an observation."""
        height, width = seen.screenshot.shape[:2]
        told = [self._word(action, (height, width)) for action in past[len(past) - self.history :]]
        text = self.template.format(
            manual=self.dialect.manual,
            goal=seen.goal,
            past="".join(f"Before: {word}\n" for word in told),
        )
        return [Message("user", [encode_png(seen.screenshot), text])]

    def _word(self, action: Action, screen: tuple[int, int]) -> str:
        try:
            return self.dialect.write(action, screen)
        except ActionError:
            return ActionType(action.type).name.lower()

    def candidates(
        self, questions: Sequence[tuple[PolicyInput, Sequence[Action], Sequence[int]]]
    ) -> list[list[Candidate | ParseError]]:
        """The answers about each observation, one per seed, in order.

        Args:
          questions: observation, past actions, and one seed per answer.

        Raises:
          EndpointError: a question got no answer; the answers to the others are in the cache.
        """
        if self.endpoint.config.several:
            return self._in_one_call(questions)
        asked = [(self.question(seen, past), seed) for seen, past, seeds in questions for seed in seeds]
        answers = iter(self.endpoint.ask_all(asked))
        return [
            [self._read(next(answers), seen.screenshot.shape[:2]) for _ in seeds]  # type: ignore[arg-type]
            for seen, _, seeds in questions
        ]

    def _in_one_call(
        self, questions: Sequence[tuple[PolicyInput, Sequence[Action], Sequence[int]]]
    ) -> list[list[Candidate | ParseError]]:
        asked = [(self.question(q[0], q[1]), len(q[2]), q[2][0]) for q in questions if q[2]]
        answers = iter(self.endpoint.ask_all_several(asked))
        rows: list[list[Candidate | ParseError]] = []
        for seen, _, seeds in questions:
            found = next(answers) if seeds else []
            if isinstance(found, EndpointError):
                raise found
            height, width = seen.screenshot.shape[:2]
            rows.append([self._read(answer, (height, width)) for answer in found])
        return rows

    def _read(self, answer: Answer | EndpointError, screen: tuple[int, int]) -> Candidate | ParseError:
        if isinstance(answer, EndpointError):
            raise answer
        action = self.dialect.parse(answer.text, screen)
        if isinstance(action, ParseError):
            self.unparsable[action.reason[:80]] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(answer.text[:200])
            return action
        return Candidate(action, math.nan if math.isnan(answer.log_prob) else min(answer.log_prob, 0.0))

    def report(self) -> dict[str, int]:
        """Counts: ``unparsable`` answers, and the endpoint's ``calls``, ``cached``, tokens and failures."""
        return {"unparsable": self.unparsable.total(), **self.endpoint.used}


@functools.lru_cache(maxsize=4)
def read_template(file: Path) -> str:
    """Reads a template from a file.

    Raises:
      DigiQError: the file is missing, or has a placeholder other than manual, goal and past.
    """
    try:
        text = file.read_text(encoding="utf-8")
        text.format(manual="", goal="", past="")
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DigiQError(
            f"{file}: cannot be used as a template ({error!r}); use only {{manual}}, {{goal}} and {{past}}, and double "
            "other braces."
        ) from None
    return text
