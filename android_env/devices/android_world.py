"""AndroidWorld's tasks through its HTTP server (`server/android_server.py` in its repository, Apache-2.0, Google).

The server has one emulator and one suite of tasks. It differs from DigiQ's devices as follows. Its `input_text` presses
enter after the text. Its scrolls have a direction but no position, and name the direction in which the view moves over
the content, so a finger's swipe up is a scroll down. It reports no activity and, in this version, no elements. Its
errors are status 500 without a message. A task that was not torn down spoils the next one. Success is checked when the
agent declares the end.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from android_env.actions import Action, ActionType
from android_env.clock import Clock
from android_env.devices import Observation, StepReport, Verdict
from android_env.errors import EpisodeError, TaskError
from android_env.faults import (
    CommandFailed,
    FaultLog,
    MalformedResponse,
    Recovery,
    Rung,
    ServerDead,
    ServerSlow,
)
from android_env.tasks.task import Task

FAMILY = "android_world"
ACTIONS = frozenset(ActionType) - {ActionType.DRAG, ActionType.RECENT_APPS}
"""The server has no drag and no button for recent apps."""
_PLAIN: Mapping[ActionType, dict[str, Any]] = {
    ActionType.PRESS_BACK: {"action_type": "navigate_back"},
    ActionType.PRESS_HOME: {"action_type": "navigate_home"},
    ActionType.PRESS_ENTER: {"action_type": "keyboard_enter"},
    ActionType.WAIT: {"action_type": "wait"},
    ActionType.STATUS_TASK_COMPLETE: {"action_type": "status", "goal_status": "complete"},
    ActionType.STATUS_TASK_IMPOSSIBLE: {"action_type": "status", "goal_status": "infeasible"},
}
_TEXTS: Mapping[ActionType, tuple[str, str]] = {
    ActionType.TYPE: ("input_text", "text"),
    ActionType.OPEN_APP: ("open_app", "app_name"),
    ActionType.ANSWER: ("answer", "text"),
}
_LOOKED_AT = {"up": "down", "down": "up", "left": "right", "right": "left"}


class Server:
    """Client for the server's routes.

    Args:
        url: where it listens, for example `http://127.0.0.1:5000`.
        timeout_s: how long an answer may take, seconds; setting a task up is slow.
    """

    def __init__(self, url: str, *, timeout_s: float = 180.0) -> None:
        self.url, self.timeout_s = url.rstrip("/"), timeout_s

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """The JSON object that a route returns.

        Raises:
            ServerDead: nothing listens, or the connection broke.
            ServerSlow: there was no answer in time.
            CommandFailed: the server returned an error.
            MalformedResponse: the answer is not a JSON object.
        """
        asked = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()
        }
        url = f"{self.url}{path}{f'?{urllib.parse.urlencode(asked)}' if asked else ''}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                value = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            told = error.read(200).decode(errors="replace")
            raise CommandFailed(f"{method} {path}: {error.code} {told}") from None
        except TimeoutError:
            raise ServerSlow(f"{method} {path} was not answered in {self.timeout_s:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise ServerSlow(f"{method} {path} was not answered in {self.timeout_s:g} s") from None
            raise ServerDead(f"{method} {path}: {error.reason}") from None
        except OSError as error:
            raise ServerDead(f"{method} {path}: {error}") from None
        except ValueError as error:
            raise MalformedResponse(f"{method} {path}: {error}") from None
        if not isinstance(value, dict):
            raise MalformedResponse(f"{method} {path} was answered with {str(value)[:60]!r}")
        return value


class AndroidWorld:
    """The server's emulator as a device; implements `Device`, `Reports`, `JudgesItself` and `LogsFaults`.

    Args:
        server: its routes.
        screen_hw: height and width that screenshots are resized to, pixels; None leaves them unchanged.
        restart: restarts the server, or its container; None: it is not restarted.
        clock: the clock that measures time limits.
        log: where faults are counted and written.
        recovery: further options of `faults.Recovery`.

    Raises:
        DeviceFault: the server does not return its screen.
    """

    name = "android_world"
    actions = ACTIONS

    def __init__(
        self,
        server: Server,
        *,
        screen_hw: tuple[int, int] | None = None,
        restart: Callable[[], Any] | None = None,
        clock: Clock | None = None,
        log: FaultLog | None = None,
        recovery: Mapping[str, Any] | None = None,
    ) -> None:
        self.server = server
        self.report = StepReport("nothing")
        repairs: dict[Rung, Callable[[], Any]] = {Rung.NEW_SESSION: lambda: server.call("GET", "/health")}
        if restart is not None:
            repairs[Rung.REBOOT] = restart
        self.recovery = Recovery(repairs, device=self.name, clock=clock, log=log, **(recovery or {}))
        self._task: Task | None = None
        self._begun: Task | None = None  # set up on the phone, not torn down yet
        self._declared = False
        self._own_hw = self._pixels().shape[:2] if screen_hw is None else None
        self.screen_hw: tuple[int, int] = screen_hw or (self._own_hw or (0, 0))

    @property
    def faults(self) -> FaultLog:
        return self.recovery.log

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Sets the task up, with the parameters that the suite's own seed has drawn; `seed` has no effect.

        Raises:
            TaskError: the task belongs to another family.
            TaskRefused: the server works but does not set the task up.
            Quarantined: the server could not be repaired.
        """
        _named(task)
        self._task, self._declared = task, False
        self.report = StepReport("nothing")
        return self.recovery.reset(lambda: self._begin(task), works=self._works)

    def execute(self, action: Action) -> None:
        """Executes one action; also tells the server when the agent declares the end, since some tasks check that.

        Raises:
            EpisodeError: `reset` was not called.
            DeviceFault: the episode cannot continue.
        """
        if self._task is None:
            raise EpisodeError("the device has no episode yet; call reset(task, seed=...) first.")
        self._declared |= action.ends_episode
        said = self._said(action)
        if said is None:
            self.report = StepReport("nothing", notes=("refused",))
            return
        before = self.faults.kinds.total()
        sent = self.recovery.act(lambda: self.server.call("POST", "/execute_action", said), lambda: False)
        self.report = StepReport(
            "nothing" if sent == "refused" else sent, faults=self.faults.kinds.total() - before
        )

    def observe(self) -> Observation:
        assert self._task is not None
        pixels = self.recovery.read(self._pixels)
        return Observation(pixels, self._task.goal, f"{FAMILY}/{self._task.params['task_type']}", "[]")

    def verdict(self) -> Verdict | None:
        """None until the agent declares the end; then success if the server's score is 1."""
        if not self._declared or self._task is None:
            return None
        named = _named(self._task)
        found = self.recovery.read(lambda: self.server.call("GET", "/task/score", **named))
        return "success" if float(found.get("score", 0.0)) >= 1 else "failure"

    def close(self) -> None:
        """Tears the last task down; the server keeps running."""
        with contextlib.suppress(Exception):
            self._end()

    def _begin(self, task: Task) -> Observation:
        self._end()
        self.server.call("POST", "/reset", go_home=True)
        self._begun = task
        self.server.call("POST", "/task/initialize", **_named(task))
        return Observation(self._pixels(), task.goal, f"{FAMILY}/{task.params['task_type']}", "[]")

    def _end(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            # A set-up that failed half-way has nothing to tear down, and the server then returns an error.
            with contextlib.suppress(CommandFailed):
                self.server.call("POST", "/task/tear_down", **_named(begun))

    def _works(self) -> None:
        self.server.call("GET", "/health")
        self.server.call("POST", "/reset", go_home=True)
        self._pixels()

    def _pixels(self) -> np.ndarray:
        found = self.server.call("GET", "/screenshot", wait_to_stabilize=True)
        try:
            pixels = np.asarray(found["pixels"], np.uint8)
        except (KeyError, ValueError, TypeError, OverflowError):
            raise MalformedResponse("/screenshot has no pixels") from None
        if pixels.ndim != 3 or pixels.shape[2] < 3 or not pixels.size:
            raise MalformedResponse(f"/screenshot has pixels of shape {pixels.shape}")
        pixels = pixels[:, :, :3]
        self._phone_hw = pixels.shape[:2]
        hw = getattr(self, "screen_hw", self._phone_hw)
        if pixels.shape[:2] != tuple(hw):
            from PIL import Image

            pixels = np.asarray(Image.fromarray(pixels).resize((hw[1], hw[0])))
        return pixels

    def _said(self, action: Action) -> dict[str, Any] | None:
        """The action in the server's format; None if it has no such action."""
        if action.type in _PLAIN:
            return dict(_PLAIN[action.type])
        if action.type in _TEXTS:
            kind, field = _TEXTS[action.type]
            return {"action_type": kind, field: action.text}
        if action.is_swipe:
            return {"action_type": "scroll", "direction": _LOOKED_AT[str(action.swipe_direction)]}
        kinds = {
            ActionType.DUAL_POINT: "click",
            ActionType.LONG_PRESS: "long_press",
            ActionType.DOUBLE_TAP: "double_tap",
        }
        if action.type not in kinds:
            return None
        (y, x), (height, width) = action.touch_yx, self._phone_hw
        at = {"x": min(int(x * width), width - 1), "y": min(int(y * height), height - 1)}
        return {"action_type": kinds[action.type], **at}


def tasks(server: Server, *, combinations: int = 1, seed: int = 42, max_steps: int = 30) -> tuple[Task, ...]:
    """All tasks of the server's suite, regenerated from a seed; their split is `test_world`.

    Args:
        server: its routes.
        combinations: how many sets of parameters each task gets.
        seed: seed of the parameters.
        max_steps: budget of each task. AndroidWorld's own is ten times a task's complexity, which the server does not
            report.

    Raises:
        DeviceFault: the server does not answer.
    """
    server.call("GET", "/suite/reinitialize", n_task_combinations=combinations, seed=seed, task_family=FAMILY)
    made = []
    for name in server.call("GET", "/suite/task_list", max_index=-1)["task_list"]:
        for index in range(int(server.call("GET", "/suite/task_length", task_type=name)["length"])):
            params = {"task_type": str(name), "task_idx": str(index)}
            goal = str(server.call("GET", "/task/goal", **params)["goal"])
            task_id = f"{FAMILY}/{name}/{seed}.{index}"
            made.append(Task(task_id, goal, FAMILY, 1, "test_world", params, max_steps))
    return tuple(made)


def _named(task: Task) -> dict[str, str]:
    if task.family != FAMILY or not {"task_type", "task_idx"} <= set(task.params):
        raise TaskError(f"task {task.task_id!r} is not one of AndroidWorld's.")
    return {name: task.params[name] for name in ("task_type", "task_idx")}
