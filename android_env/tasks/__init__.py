"""Tasks, and sets of them with splits that are checked for leaks."""

from android_env.tasks.task import Task

__all__ = ["Task"]
