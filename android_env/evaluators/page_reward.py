"""Judging by the reward that the open page itself gives."""

from __future__ import annotations

from dataclasses import dataclass

from android_env.appium.device import AppiumDevice, KnowsTruth
from android_env.devices import Device, Verdict
from android_env.errors import TaskError
from android_env.evaluators import Moment
from android_env.tasks.task import Task


@dataclass(frozen=True)
class PageReward:
    """Judges by the page's own reward; declaring the end before the page has ended the episode is a failure."""

    def answers(self, device: Device) -> bool:
        return isinstance(device, AppiumDevice) and isinstance(device.dialect, KnowsTruth)

    def refusal(self, task: Task) -> str:
        return ""

    def __call__(self, moment: Moment) -> Verdict | None:
        device = moment.device
        if not isinstance(device, AppiumDevice) or not isinstance(device.dialect, KnowsTruth):
            raise TaskError(f"device {device.name!r} has no pages that judge task {moment.task.task_id!r}.")
        found = device.ask(device.dialect.verdict)
        return "failure" if found is None and moment.action.ends_episode else found
