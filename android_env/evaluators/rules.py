"""Judging by what is on the screen, for devices that do not know the true outcome of their tasks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from android_env.devices import Device, Verdict
from android_env.errors import TaskError
from android_env.evaluators import Moment
from android_env.faults import JudgeError
from android_env.tasks.task import Task

ACTIVITY, TEXT = "success_activity", "success_text"
"""Parameters of a task that say when it is solved: a glob over `package/activity`, and a regular expression that must
match within an element's text (case-insensitive). If both are given, both must hold at once."""


@dataclass(frozen=True)
class Rules:
    """`success` once the screen satisfies the task's rule; `failure` if the agent declares the end before that."""

    def answers(self, device: Device) -> bool:
        return True

    def refusal(self, task: Task) -> str:
        ruled = {ACTIVITY, TEXT} & set(task.params)
        return "" if ruled else f"give its params {ACTIVITY!r} or {TEXT!r}"

    def __call__(self, moment: Moment) -> Verdict | None:
        task, seen = moment.task, moment.seen
        if refusal := self.refusal(task):
            raise TaskError(f"task {task.task_id!r} cannot be judged: {refusal}.")
        activity, text = task.params.get(ACTIVITY), task.params.get(TEXT)
        holds = activity is None or fnmatchcase(seen.activity, activity)
        if holds and text is not None and seen.unread and moment.action.ends_episode:
            raise JudgeError(f"task {task.task_id!r}: the last screen's elements could not be read")
        if holds and text is not None:
            try:
                wanted = re.compile(text, re.IGNORECASE)
            except re.error as error:
                raise TaskError(
                    f"task {task.task_id!r}: {TEXT} {text!r} is not a regular expression: {error}."
                ) from None
            holds = any(
                wanted.search(str(element.get("text", ""))) for element in json.loads(seen.ui_elements)
            )
        if holds:
            return "success"
        return "failure" if moment.action.ends_episode else None
