"""`AndroidEnv`: a device, tasks and a judge as a gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from android_env.actions import Action, ActionType
from android_env.devices import Device, LogsFaults, Observation, Reports, StepReport, Verdict
from android_env.errors import ActionError, EpisodeError, TaskError
from android_env.evaluators import Moment, knowing
from android_env.faults import CAPS, FaultEvent, FaultLog, JudgeError
from android_env.safety import NO_SAFETY_LIST, SafetyList
from android_env.spaces import AnyText
from android_env.tasks.task import Task

__all__ = ["ACTION_TYPES", "AndroidEnv", "Observation", "StepInfo", "action_from_sample"]

ACTION_TYPES: tuple[ActionType, ...] = tuple(ActionType)
"""The action type for each value of the action space's `type`, an index from 0."""


class StepInfo(TypedDict):
    """What `reset` and `step` return besides the observation."""

    task_id: str
    step: int
    """Actions executed in this episode so far."""
    executed: Action | None
    """The action that was just executed; None after `reset`, and if it was refused."""
    outcome: Literal["", "success", "failure", "truncated"]
    """How the episode ended; empty while it continues. `truncated`: the budget is used up."""
    report: StepReport | None
    """How the action went, if the device reports it (`Reports`); None if `executed` is None."""
    refused: str
    """Why the safety list refused the action, which ends the episode as a failure; empty if it was not refused."""


class AndroidEnv(gym.Env[dict[str, Any], Any]):
    """Episodes of tasks on a device.

    Observations are dicts with the fields of `Observation`. A screenshot of another size, for example after an app has
    rotated the screen, is resized to the device's size; taps still hit what it shows, since they are fractions of the
    screen. `step` takes an `Action`, or a sample of `action_space` (see `action_from_sample`). The reward is 1 when
    the judge says `success`, else 0. An episode terminates with the judge's verdict and is truncated after exactly its
    budget of executed actions.

    Args:
        device: the device that runs the episodes; the environment closes it.
        tasks: the tasks from which `reset` chooses, unless one is named.
        judge: asked after each action; by default the device's own truth. See `evaluators`.
        max_steps: budget of actions for every episode; by default each task's own.
        safety: what no agent may do; checked before an action is sent to the device.

    Raises:
        TaskError: `tasks` is empty.
        ValueError: `max_steps` is below 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 (gymnasium reads it so)
    render_mode = "rgb_array"

    def __init__(
        self,
        device: Device,
        tasks: Sequence[Task],
        *,
        judge: Callable[[Moment], Verdict | None] | None = None,
        max_steps: int | None = None,
        safety: SafetyList = NO_SAFETY_LIST,
    ) -> None:
        if not len(tasks):
            raise TaskError("AndroidEnv got no tasks; give it at least one.")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps is {max_steps}; use at least 1, or None for each task's own.")
        self.device = device
        self.tasks = tuple(tasks)
        self.judge = judge or knowing(device)
        self.max_steps = max_steps
        self.safety = safety
        self.faults = device.faults if isinstance(device, LogsFaults) else FaultLog()
        """Where the judge's faults are counted and written: together with the device's, if it logs any."""
        self._by_id = {task.task_id: task for task in self.tasks}
        self._task: Task | None = None
        self._observation: Observation | None = None
        self.observation_space = spaces.Dict(
            {
                "screenshot": spaces.Box(0, 255, (*device.screen_hw, 3), np.uint8),
                "goal": AnyText(4096),
                "activity": AnyText(4096),
                "ui_elements": AnyText(1 << 20),
            }
        )
        point = spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Dict(
            {
                "type": spaces.Discrete(len(ACTION_TYPES)),
                "touch_yx": point,
                "lift_yx": spaces.Box(0.0, 1.0, (2,), np.float32),
                "text": AnyText(256),
            }
        )

    @property
    def task(self) -> Task:
        """The task of the current or the last episode."""
        if self._task is None:
            raise EpisodeError("there is no episode yet; call reset() first.")
        return self._task

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], StepInfo]:
        """Starts an episode.

        Args:
            seed: seeds the device's episode and the choice of a task; drawn from the environment's generator if None.
            options: `{"task": ...}` names the task, as a `Task` or by the id of one of `tasks`.

        Raises:
            TaskError: the option is neither a task nor the id of one.
        """
        super().reset(seed=seed)
        wanted = (options or {}).get("task")
        chosen = int(self.np_random.integers(len(self.tasks)))
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        task = self.tasks[chosen] if wanted is None else wanted
        if isinstance(task, str):
            task = self._by_id.get(task)
        if not isinstance(task, Task):
            raise TaskError(
                f"options['task'] is {wanted!r}; give a Task or the id of one of the {len(self.tasks)} tasks."
            )
        self._task = task
        self._step = 0
        self._over = False
        self._observation = self.device.reset(task, seed=seed)
        return self._seen(), self._info(None, "")

    def step(self, action: Action | Mapping[str, Any]) -> tuple[dict[str, Any], float, bool, bool, StepInfo]:
        """Executes one action.

        Raises:
            EpisodeError: `reset` was not called, or the episode is over.
            ActionError: `action` is neither an `Action` nor a sample of `action_space`.
            DeviceFault: the device or the judge (`JudgeError`) failed; the episode cannot continue.
        """
        if self._task is None or self._over:
            raise EpisodeError("the episode is over or has not begun; call reset() before step().")
        action = action if isinstance(action, Action) else action_from_sample(action)
        assert self._observation is not None
        if refused := self.safety.refusal(action, self._observation):
            self._over = True
            return self._seen(), 0.0, True, False, self._info(None, "failure", refused)
        self.device.execute(action)
        self._step += 1
        self._observation = self.device.observe()
        budget = self._task.max_steps if self.max_steps is None else self.max_steps
        last = self._step >= budget
        verdict = self._judged(action, last)
        truncated = verdict is None and last
        self._over = verdict is not None or truncated
        info = self._info(action, "truncated" if truncated else verdict or "")
        return self._seen(), float(verdict == "success"), verdict is not None, truncated, info

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The current screenshot, uint8[H, W, 3].

        Raises:
            EpisodeError: `reset` was not called.
        """
        if self._observation is None:
            raise EpisodeError("there is nothing to render yet; call reset() first.")
        return self._observation.screenshot

    def close(self) -> None:
        """Closes the device."""
        self.device.close()

    def _judged(self, action: Action, last: bool) -> Verdict | None:
        """The judge's verdict; a judge that fails is asked again, as often as a failed read is retried."""
        assert self._observation is not None
        moment = Moment(self.task, action, self._observation, self.device, last)
        for left in reversed(range(1 + CAPS[JudgeError.rung])):
            try:
                return self.judge(moment)
            except JudgeError as error:
                done = JudgeError.rung.name if left else "raised"
                self.faults.kinds[error.kind] += 1
                self.faults.add(FaultEvent(self.device.name, error.kind, str(error), "judge", done))
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _seen(self) -> dict[str, Any]:
        seen = self._observation
        assert seen is not None
        return {
            "screenshot": _fitted(seen.screenshot, self.device.screen_hw),
            "goal": seen.goal,
            "activity": seen.activity,
            "ui_elements": seen.ui_elements,
        }

    def _info(
        self,
        executed: Action | None,
        outcome: Literal["", "success", "failure", "truncated"],
        refused: str = "",
    ) -> StepInfo:
        report = self.device.report if executed is not None and isinstance(self.device, Reports) else None
        return {
            "task_id": self.task.task_id,
            "step": self._step,
            "executed": executed,
            "outcome": outcome,
            "report": report,
            "refused": refused,
        }


def _fitted(screenshot: np.ndarray, screen_hw: tuple[int, int]) -> np.ndarray:
    if screenshot.shape[:2] == tuple(screen_hw):
        return screenshot
    from PIL import Image

    return np.asarray(Image.fromarray(screenshot).resize((screen_hw[1], screen_hw[0])))


def action_from_sample(sample: Any) -> Action:
    """The action for a sample of `AndroidEnv.action_space`.

    Raises:
        ActionError: `sample` is not such a sample.
    """
    try:
        kind = ACTION_TYPES[int(sample["type"])]
        touch, lift = (tuple(map(float, sample[name])) for name in ("touch_yx", "lift_yx"))
        return Action(kind, touch, lift, str(sample["text"]))  # type: ignore[arg-type]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ActionError(
            f"{sample!r} is neither an Action nor a sample of the action space: {error}."
        ) from None
