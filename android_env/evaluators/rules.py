"""Judging by what is on the screen: for devices that do not know the truth about their tasks."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase

from android_env.actions import Action
from android_env.devices import Device, Verdict
from android_env.errors import TaskError
from android_env.tasks.task import Task

ACTIVITY, TEXT = "success_activity", "success_text"
"""Parameters of a task that say when it is solved: a glob over `package/activity`, and a regular expression that an
element's text must contain (letters of any case). Where both are given, both must hold at once."""


def on_screen(device: Device, task: Task, action: Action) -> Verdict | None:
    """`success` once the screen fulfils the task's rule; `failure` when the agent declares the end before that.

    Raises:
        TaskError: the task has neither parameter, or the expression is none.
    """
    activity, text = task.params.get(ACTIVITY), task.params.get(TEXT)
    if activity is None and text is None:
        raise TaskError(f"task {task.task_id!r} cannot be judged: give its params {ACTIVITY!r} or {TEXT!r}.")
    seen = device.observe()
    holds = activity is None or fnmatchcase(seen.activity, activity)
    if holds and text is not None:
        try:
            wanted = re.compile(text, re.IGNORECASE)
        except re.error as error:
            raise TaskError(
                f"task {task.task_id!r}: {TEXT} {text!r} is no regular expression: {error}."
            ) from None
        holds = any(wanted.search(str(element.get("text", ""))) for element in json.loads(seen.ui_elements))
    if holds:
        return "success"
    return "failure" if action.ends_episode else None
