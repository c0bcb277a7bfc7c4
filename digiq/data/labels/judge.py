"""Labels from a vision-language model. They are a pure function of the recording, the prompt's version and the model,
and are cached by content."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from android_env.actions import format_action
from digiq.config import configclass
from digiq.data.labels.base import Spent, Unlabelled
from digiq.data.rewards import Label
from digiq.data.schema import Episode
from digiq.dialects.base import Unsaid, first_object
from digiq.endpoint import Answer, Endpoint, EndpointConfig, EndpointError, Message
from digiq.errors import DigiQError

VERSION = 1
"""Version of the prompts below. Raise it whenever their wording changes; labels record the version that made them."""

OUTCOME = (
    "You are shown the last screens of a phone, oldest first, after an agent tried to do a task. Decide by what the screens "
    "show, not by what the agent claims, whether the task is done. Answer with one JSON object and nothing else: "
    '{"why": "one sentence", "verdict": "success"} or {"why": "one sentence", "verdict": "failure"}.'
)
STEP = (
    "You are shown a phone's screen, an action of an agent, and the screen after it. Decide how much the action helped "
    "towards the task: 1 for a step that is needed, 0 for one that does not help or leads away. Answer with one JSON object "
    'and nothing else: {"why": "one sentence", "score": a number from 0 to 1}.'
)


@configclass
class Judge:
    """A vision-language model as judge. A missing answer is counted as ``judge_error`` and never taken as 0."""

    model: EndpointConfig = EndpointConfig(temperature=0.0)
    """Which model, and how to query it (``api: gemini`` or ``openai``)."""
    of: Literal["outcome", "step"] = "outcome"
    """Whether to judge each episode once, by its last screens, or to score each action."""
    screens: Annotated[int, Field(ge=1)] = 2
    """Number of an episode's last screens that it is shown."""
    shots: Path | None = None
    """A JSON file of examples, ``[{"goal": ..., "screens": ["a.png"], "verdict": "success", "why": ...}]``, with paths
    relative to the file; they are shown before the question."""
    scale: float = 1.0
    """Reward for a step that scores 1."""

    @property
    def provenance(self) -> str:
        """Source of the labels: the model and the prompt's version."""
        return f"judge {self.model.model} v{VERSION} {self.of}"

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label | Unlabelled | Spent]:
        """See :class:`digiq.data.labels.base.Labels`.

        Raises:
          BudgetError: the calls or tokens are used up; the same command resumes from the cache.
        """
        endpoint = Endpoint(self.model)
        numbers = iter(episodes)
        while batch := list(itertools.islice(numbers, 4 * self.model.concurrency)):
            questions = [[(asked, 0) for asked in self._questions(episode)] for episode in batch]
            answers = iter(endpoint.ask_all([asked for of_one in questions for asked in of_one]))
            for episode, asked in zip(batch, questions, strict=True):
                yield self._label(episode, [next(answers) for _ in asked])
        yield Spent(dict(endpoint.used))

    def _questions(self, episode: Episode) -> list[list[Message]]:
        if self.of == "step":
            return [
                [
                    Message("system", [STEP]),
                    Message(
                        "user",
                        [
                            before.screenshot,
                            f"Task: {episode.goal}\nAction: {before.action and format_action(before.action)}",
                            after.screenshot,
                        ],
                    ),
                ]
                for before, after in itertools.pairwise(episode.steps)
            ]
        shown = [step.screenshot for step in episode.steps[-self.screens :]]
        return [outcome_question(episode.goal, shown, self.shots)]

    def _label(self, episode: Episode, answers: Sequence[Answer | EndpointError]) -> Label | Unlabelled:
        said: list[float] = []
        for answer in answers:
            if isinstance(answer, EndpointError):
                return Unlabelled(episode.episode_id, str(answer))
            try:
                said.append(read_answer(answer.text, self.of))
            except Unsaid as error:
                return Unlabelled(episode.episode_id, f"{error}: {answer.text[:80]!r}")
        if self.of == "step":
            paid = [self.scale * score for score in said]
        else:
            paid = [0.0] * (episode.num_actions - 1) + said
        return Label(
            episode_id=episode.episode_id,
            source_id=episode.episode_id,
            goal=None,
            rewards=tuple(paid),
            provenance=self.provenance,
        )


def outcome_question(goal: str, screens: Sequence[bytes], shots: Path | None = None) -> list[Message]:
    """The question about an episode, as sent to a model.

    Args:
      goal: the task, in words.
      screens: its last screenshots, oldest first, as PNG, JPEG or WebP.
      shots: a file of examples, see :attr:`Judge.shots`.

    Raises:
      DigiQError: the file of examples cannot be read.
    """
    examples = () if shots is None else _read_shots(shots)
    return [Message("system", [OUTCOME]), *examples, Message("user", [*screens, f"Task: {goal}"])]


def read_answer(text: str, of: Literal["outcome", "step"]) -> float:
    """The reward that an answer means.

    Raises:
      Unsaid: the answer gives no reward.
    """
    found = first_object(text)
    if of == "outcome":
        verdict = found.get("verdict")
        if verdict not in ("success", "failure"):
            raise Unsaid("no verdict")
        return float(verdict == "success")
    score = found.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise Unsaid("no score from 0 to 1")
    return float(score)


@functools.lru_cache(maxsize=4)
def _read_shots(file: Path) -> tuple[Message, ...]:
    try:
        shots: Any = json.loads(file.read_text(encoding="utf-8"))
        told: list[Message] = []
        for shot in shots:
            images = [(file.parent / name).read_bytes() for name in shot["screens"]]
            if shot["verdict"] not in ("success", "failure"):
                raise ValueError(f"verdict {shot['verdict']!r}")
            answer = {"why": str(shot.get("why", "")), "verdict": shot["verdict"]}
            told.append(Message("user", [*images, f"Task: {shot['goal']}"]))
            told.append(Message("assistant", [json.dumps(answer)]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DigiQError(
            f"{file}: cannot be read as a file of examples ({error!r}); set judge.shots."
        ) from None
    return tuple(told)
