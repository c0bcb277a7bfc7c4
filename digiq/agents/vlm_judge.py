"""A vision-language model that judges an episode, while it is played or from its recording.

The prompt, its version and the examples are those of the label judge (:mod:`digiq.data.labels.judge`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from android_env.actions import ActionType
from android_env.devices import Device, Verdict
from android_env.evaluators import Moment
from android_env.faults import JudgeError
from android_env.tasks import Task
from digiq.config import configclass
from digiq.data.labels.judge import outcome_question, read_answer
from digiq.data.schema import encode_png
from digiq.dialects.base import Unsaid
from digiq.endpoint import BudgetError, Endpoint, EndpointConfig, EndpointError


@configclass
class VlmJudge:
    """The model decides success from the screen. Giving up is a failure, and the model is not asked. An answer without
    a verdict is a ``judge_error``, never a failure."""

    model: EndpointConfig = EndpointConfig(temperature=0.0)
    """Which model to ask, and how (``api: gemini`` or ``openai``)."""
    shots: Path | None = None
    """A JSON file of examples, as for the label judge."""
    when: Literal["declared", "reached"] = "declared"
    """When to ask: when the agent declares the task complete and at the episode's last step, or after every action."""

    def answers(self, device: Device) -> bool:
        """See :class:`android_env.evaluators.Judge`, as for the other methods."""
        return True

    def refusal(self, task: Task) -> str:
        return ""

    def __call__(self, moment: Moment) -> Verdict | None:
        ends = moment.action.ends_episode
        if moment.action.type is ActionType.STATUS_TASK_IMPOSSIBLE:
            return "failure"
        if not (ends or moment.last or self.when == "reached"):
            return None
        question = outcome_question(moment.task.goal, [encode_png(moment.seen.screenshot)], self.shots)
        try:
            done = read_answer(_endpoint(self.model).ask(question).text, "outcome")
        except BudgetError:
            raise  # no further answer will come: the run ends, and the same command continues from the cache
        except (EndpointError, Unsaid) as error:
            raise JudgeError(f"task {moment.task.task_id!r}: {error}") from None
        if done:
            return "success"
        return "failure" if ends else None

    @property
    def used(self) -> dict[str, int]:
        """Calls, cached answers and tokens of this process so far; see :class:`digiq.endpoint.Endpoint`."""
        return dict(_endpoint(self.model).used)


@functools.lru_cache(maxsize=8)
def _endpoint(model: EndpointConfig) -> Endpoint:
    return Endpoint(model)
