"""A single task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from android_env.errors import TaskError


@dataclass(frozen=True)
class Task:
    """Something to do on a phone.

    Raises:
        TaskError: a field has the wrong type, the id or the goal is empty, or `max_steps` is below 1.
    """

    task_id: str
    """Unique; names the family and what is asked, for example `webshop/2/ebay.com/usb cable`."""
    goal: str
    """What the agent is told."""
    family: str
    level: int
    """Difficulty within the family; 1 is the easiest."""
    split: str
    """`train`, `tune`, or one of the `test_*` and `final_*` splits."""
    params: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What the goal names, for example `site` and `query`; splits are separated by these parameters."""
    max_steps: int = 20
    """Budget: an episode executes at most this many actions."""

    def __post_init__(self) -> None:
        strings = (self.task_id, self.goal, self.family, self.split, *self.params, *self.params.values())
        if not all(isinstance(value, str) for value in strings):
            raise TaskError(
                f"task {self.task_id!r}: task_id, goal, family, split and params must be strings."
            )
        if not isinstance(self.level, int) or not isinstance(self.max_steps, int):
            raise TaskError(f"task {self.task_id!r}: level and max_steps must be whole numbers.")
        if not self.task_id or not self.goal:
            raise TaskError(f"task {self.task_id!r} needs a task_id and a goal, both not empty.")
        if self.max_steps < 1:
            raise TaskError(f"task {self.task_id!r}: max_steps is {self.max_steps}; give it at least 1.")
