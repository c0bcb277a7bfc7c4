"""A device made of recordings: real screens, and only those transitions between them that were recorded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from android_env.actions import Action, ActionType
from android_env.devices import Observation, StepReport, Verdict
from android_env.devices.replay.graph import Graph, load, targets, words_of
from android_env.errors import EpisodeError, TaskError
from android_env.tasks.task import Task

__all__ = ["Graph", "Replay", "load", "tasks"]

_SLACK = 6
"""Actions that a task allows beyond twice the shortest path."""


class Replay:
    """A recorded graph as a device; deterministic, regardless of the seed.

    An action that was recorded on the current screen leads where it led then. Any other action changes nothing, and the
    report's notes say `unrecorded`, because it is unknown what the phone would have done.

    Args:
        graph: the recorded graph.
        screen_hw: height and width that screenshots are resized to, pixels.
    """

    name = "replay"
    actions = frozenset(
        {
            ActionType.DUAL_POINT,
            ActionType.TYPE,
            ActionType.PRESS_BACK,
            ActionType.PRESS_HOME,
            ActionType.PRESS_ENTER,
            ActionType.STATUS_TASK_COMPLETE,
            ActionType.STATUS_TASK_IMPOSSIBLE,
            ActionType.LONG_PRESS,
            ActionType.OPEN_APP,
        }
    )

    def __init__(self, graph: Graph, screen_hw: tuple[int, int] = (320, 192)) -> None:
        self.graph, self.screen_hw = graph, screen_hw
        self.report = StepReport("nothing")
        self.at = graph.start
        self._task: Task | None = None
        self._declared = False

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Shows the recording's first screen.

        Raises:
            TaskError: the task asks for a screen that was not recorded.
        """
        if task.params.get("screen") not in self.graph.screens:
            raise TaskError(f"task {task.task_id!r}: the recording {self.graph.name!r} has no such screen.")
        self._task, self.at, self._declared = task, self.graph.start, False
        self.report = StepReport("nothing")
        return self.observe()

    def execute(self, action: Action) -> None:
        if self._task is None:
            raise EpisodeError("the device has no episode yet; call reset(task, seed=...) first.")
        if action.ends_episode:
            self._declared = True
            self.report = StepReport("nothing")
            return
        end = self.graph.follow(self.at, action)
        self.report = StepReport("executed" if end else "nothing", notes=() if end else ("unrecorded",))
        self.at = end or self.at

    def observe(self) -> Observation:
        assert self._task is not None
        screen = self.graph.screens[self.at]
        pixels = _read(screen.image, self.screen_hw).copy()
        return Observation(pixels, self._task.goal, screen.activity, screen.ui_elements)

    def verdict(self) -> Verdict | None:
        """Success once the task's screen is shown."""
        assert self._task is not None
        if self.at == self._task.params["screen"]:
            return "success"
        return "failure" if self._declared else None

    def best_action(self) -> Action:
        """The first action of a shortest path to the task's screen; declares the task impossible if there is none."""
        assert self._task is not None
        steps = self.graph.steps_to(self._task.params["screen"])
        return self.graph.next_action(self.at, steps) or Action.impossible()

    def close(self) -> None:
        """Does nothing, since there are no resources to release."""


@lru_cache(maxsize=4096)
def _read(image: Path, screen_hw: tuple[int, int]) -> np.ndarray:
    """A screen, uint8[H, W, 3]; cached, since concurrent devices show the same screens."""
    from PIL import Image

    height, width = screen_hw
    with Image.open(image) as opened:
        return np.asarray(opened.convert("RGB").resize((width, height)))


def tasks(folder: str | Path, *, held_out: int = 3) -> tuple[Task, ...]:
    """A task for every screen that is at least two actions away; the task is to reach it.

    Every `held_out`-th target, in recording order, is in the split `test_screen`, the others in `train`.

    Raises:
        TaskError: the recording cannot be read, or no screen is that far away.
    """
    graph = load(folder)
    made, goals = [], set()
    for name, steps in targets(graph):
        screen = graph.screens[name]
        words = ", ".join(repr(text) for text in words_of(screen, graph.screens.values()))
        goal = f"Reach the screen {screen.activity.rpartition('.')[2] or screen.activity}"
        goal += f" that shows {words}" if words else ""
        if goal in goals:  # the two goals could not be told apart
            continue
        goals.add(goal)
        split = "test_screen" if len(made) % held_out == held_out - 1 else "train"
        params = {"screen": name}
        task_id = f"replay/{graph.name}/{name[:8]}"
        made.append(Task(task_id, goal, "replay", min(1 + steps // 3, 3), split, params, 2 * steps + _SLACK))
    if not made:
        raise TaskError(
            f"{folder}: no screen of the recording is two actions or more away from its first one."
        )
    return tuple(made)
