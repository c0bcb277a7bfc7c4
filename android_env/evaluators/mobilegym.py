"""Judging by MobileGym's own judges, over the simulator's state before the task and now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from android_env.actions import ActionType
from android_env.appium.device import AppiumDevice
from android_env.devices import Device, Verdict
from android_env.devices.mobilegym import Phone
from android_env.errors import TaskError
from android_env.evaluators import Moment
from android_env.tasks.task import Task


@dataclass(frozen=True)
class MobileGymJudge:
    """Success is the goal reached and nothing else changed. Giving up is failure."""

    when: Literal["declared", "reached"] = "declared"
    """Whether it looks when the agent declares the task complete, as MobileGym does, or after every action."""

    def answers(self, device: Device) -> bool:
        return isinstance(device, AppiumDevice) and isinstance(device.dialect, Phone)

    def refusal(self, task: Task) -> str:
        return ""

    def __call__(self, moment: Moment) -> Verdict | None:
        device, ends = moment.device, moment.action.ends_episode
        if not isinstance(device, AppiumDevice) or not isinstance(device.dialect, Phone):
            raise TaskError(
                f"device {device.name!r} is no phone of MobileGym's, which task {moment.task.task_id!r} needs."
            )
        if not ends and self.when == "declared":
            return None
        if moment.action.type is not ActionType.STATUS_TASK_IMPOSSIBLE and device.ask(device.dialect.passed):
            return "success"
        return "failure" if ends else None
