"""Judging by MobileGym's own judges, which compare the simulator's state before the task and now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from android_env.actions import ActionType
from android_env.devices import Device, Verdict
from android_env.errors import TaskError
from android_env.evaluators import Moment
from android_env.tasks.task import Task


@dataclass(frozen=True)
class MobileGymJudge:
    """Success means that the goal is reached and nothing else has changed. Giving up is a failure."""

    when: Literal["declared", "reached"] = "declared"
    """When to check: as the agent declares the task complete, as MobileGym does, or after every action."""

    def answers(self, device: Device) -> bool:
        return _phone(device) is not None

    def refusal(self, task: Task) -> str:
        return ""

    def __call__(self, moment: Moment) -> Verdict | None:
        device, ends = moment.device, moment.action.ends_episode
        if (phone := _phone(device)) is None:
            raise TaskError(
                f"device {device.name!r} is not a phone of MobileGym's, which task {moment.task.task_id!r} needs."
            )
        if not ends and self.when == "declared":
            return None
        if moment.action.type is not ActionType.STATUS_TASK_IMPOSSIBLE and phone():
            return "success"
        return "failure" if ends else None


def _phone(device: Device) -> Callable[[], bool] | None:
    """A function that asks this device for MobileGym's verdict; None if the device is not a MobileGym phone."""
    from android_env.appium.device import AppiumDevice

    if not isinstance(device, AppiumDevice):
        return None
    from android_env.devices.mobilegym import Phone  # imported here: few runs need it

    if not isinstance(device.dialect, Phone):
        return None
    passed = device.dialect.passed
    return lambda: device.ask(passed)
