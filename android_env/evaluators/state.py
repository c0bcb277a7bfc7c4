"""Judging by what the device itself knows."""

from __future__ import annotations

from dataclasses import dataclass

from android_env.devices import Device, JudgesItself, Verdict
from android_env.errors import TaskError
from android_env.evaluators import Moment
from android_env.tasks.task import Task


@dataclass(frozen=True)
class State:
    """Judges by the device's own truth."""

    def answers(self, device: Device) -> bool:
        return isinstance(device, JudgesItself)

    def refusal(self, task: Task) -> str:
        return ""

    def __call__(self, moment: Moment) -> Verdict | None:
        device = moment.device
        if not isinstance(device, JudgesItself):
            raise TaskError(
                f"device {device.name!r} cannot judge task {moment.task.task_id!r}; give AndroidEnv a judge that can."
            )
        return device.verdict()
