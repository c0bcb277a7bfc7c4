"""Judges: say whether an episode has ended, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from android_env.actions import Action
from android_env.devices import Device, Observation, Verdict
from android_env.tasks.task import Task

JUDGES = {
    "state": "State",
    "page_reward": "PageReward",
    "rules": "Rules",
    "mobilegym": "MobileGymJudge",
}
"""By name, which is the file's, the class in there."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What a judge is asked about: an action that was executed, and what it led to."""

    task: Task
    action: Action
    seen: Observation
    """After the action, as the agent sees it."""
    device: Device
    """For judges that ask it for the truth."""
    last: bool = False
    """Whether nothing follows in any case: the budget of steps is used up, or the recording ends here."""


class Judge(Protocol):
    """A frozen dataclass whose fields are its settings. It keeps nothing of an episode: equal moments, equal verdicts."""

    def answers(self, device: Device) -> bool:
        """Whether it can judge on this device."""
        ...

    def refusal(self, task: Task) -> str:
        """Why it cannot judge this task, and what to do about it; empty if it can."""
        ...

    def __call__(self, moment: Moment) -> Verdict | None:
        """How the episode has ended, None while it goes on; an agent that declares the end has always ended it.

        Raises:
            TaskError: it cannot judge this task, or not on this device.
            JudgeError: it has no answer just now.
        """
        ...


def knowing(device: Device) -> Judge:
    """The judge that asks this device, or its page, for the truth."""
    from android_env.evaluators.mobilegym import MobileGymJudge
    from android_env.evaluators.page_reward import PageReward
    from android_env.evaluators.state import State

    return next((judge for judge in (MobileGymJudge(), PageReward()) if judge.answers(device)), State())
