"""Tasks, and task sets whose splits are checked for leaks."""

from android_env.tasks.sets import TaskSet, audit, load_tasks, names, save_tasks
from android_env.tasks.task import Task

__all__ = ["Task", "TaskSet", "audit", "load_tasks", "names", "save_tasks"]
