"""Judges, which decide whether an episode has ended, and how."""

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
"""Class of each judge, by its name, which is also the name of its file."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What a judge decides on: an executed action and its result."""

    task: Task
    action: Action
    seen: Observation
    """The observation after the action, as the agent sees it."""
    device: Device
    """The device, for judges that ask it for the true outcome."""
    last: bool = False
    """Whether nothing follows in any case, because the budget is used up or the recording ends here."""


class Judge(Protocol):
    """A frozen dataclass whose fields are its settings. It keeps no state: equal moments get equal verdicts."""

    def answers(self, device: Device) -> bool:
        """Whether it can judge episodes on this device."""
        ...

    def refusal(self, task: Task) -> str:
        """Why it cannot judge this task, and what to do about it; empty if it can."""
        ...

    def __call__(self, moment: Moment) -> Verdict | None:
        """How the episode has ended; None while it continues. A declaration by the agent always ends it.

        Raises:
            TaskError: it cannot judge this task, or cannot do so on this device.
            JudgeError: it currently has no answer.
        """
        ...


def knowing(device: Device) -> Judge:
    """The judge that asks this device, or its page, for the true outcome."""
    from android_env.evaluators.mobilegym import MobileGymJudge
    from android_env.evaluators.page_reward import PageReward
    from android_env.evaluators.state import State

    return next((judge for judge in (MobileGymJudge(), PageReward()) if judge.answers(device)), State())
