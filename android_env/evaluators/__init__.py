"""Evaluators: say whether an episode has ended, and how."""

from __future__ import annotations

from collections.abc import Callable

from android_env.actions import Action
from android_env.devices import Device, JudgesItself, Verdict
from android_env.errors import TaskError
from android_env.tasks.task import Task

Evaluator = Callable[[Device, Task, Action], Verdict | None]
"""Asked after each executed action; None while the episode goes on."""


def ground_truth(device: Device, task: Task, action: Action) -> Verdict | None:
    """What the device itself knows; for devices that know it (`JudgesItself`).

    Raises:
        TaskError: the device does not know.
    """
    if not isinstance(device, JudgesItself):
        raise TaskError(
            f"device {device.name!r} cannot judge task {task.task_id!r}; give AndroidEnv an evaluator that can."
        )
    return device.verdict()
