"""MobileGym's tasks and judges, from the user's own checkout of its repository (Apache-2.0).

They are Python code in its folder `bench_env`, written for MobileGym's own environment. `Environment` offers what they
need of it, over any page that contains the simulator. The package's `__init__.py` imports a browser driver and model
clients, which no task needs, so the package is imported without it.

Naming a checkout runs its code, as naming a recipe does. Name only checkouts that you trust.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
import types
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from android_env.errors import SetupError, TaskError
from android_env.faults import CommandFailed, JudgeError, TaskRefused, classify
from android_env.tasks.task import Task

T = TypeVar("T")
FAMILY = "mobilegym"
SPLITS = ("train", "test")
BUDGETS = {"L1": 15, "L2": 30, "L3": 45, "L4": 60}
"""Actions that MobileGym allows, by difficulty; 15 more if an answer sheet must be filled in."""
SHEET_STEPS = 15
SHEET_HINT = " 然后打开 答题卡 APP 在里面回答问题并提交"
"""What MobileGym appends to a question: open the answer sheet, answer there, submit it."""
APPS_CAP_S = 60.0
"""How long the data of a task's apps may take to load, seconds."""
_PACKAGE = "bench_env"
_IMPORTING = threading.RLock()


class Simulator(Protocol):
    """An open page with MobileGym in it."""

    def call(self, source: str, argument: Any = None, *, cap_s: float = ...) -> Any:
        """The JSON value of a JavaScript expression; a function is called with the argument, and a promise is awaited.

        Raises:
            CommandFailed: it throws.
            ServerSlow: it takes longer than `cap_s`.
        """
        ...


@dataclass(frozen=True)
class Seen:
    """The simulator at one moment, under the names that MobileGym's judges use."""

    route: Mapping[str, Any]
    state: Mapping[str, Any]
    step_idx: int = 0


@dataclass(eq=False)
class Episode:
    """One running task."""

    name: str
    """MobileGym's name of the task."""
    task: Any
    """MobileGym's own task object, with its parameters drawn."""
    goal: str
    first: Seen
    answer: str | None = None


STATE = """() => {
  const open = [];
  return JSON.stringify(window.__SIM__.getState(), function (key, value) {
    if (typeof value === 'function' || typeof value === 'symbol') return undefined;
    if (value instanceof Node || value instanceof Window) return undefined;
    if (value && typeof value === 'object') {
      while (open.length && open.at(-1) !== this) open.pop();
      if (open.includes(value)) return undefined;
      open.push(value);
    }
    return value;
  });
}"""
"""Script that returns the whole state as JSON, without anything that is not data."""
ROUTE = "() => window.__OS__?.getAppRoute?.() || null"
READY = "() => Boolean(window.__SIM__?.getState && window.__OS__?.openApp)"
OPEN = """async id => {
  window.__OS__.openApp(id);
  for (let left = 80; left && window.__OS__.getAppRoute?.()?.app !== id; left--)
    await new Promise(done => setTimeout(done, 50));
}"""


class Environment:
    """The environment that MobileGym's tasks expect, over a `Simulator`. Its methods are coroutines that never wait."""

    supports_state_injection = True

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.page = _Page(simulator)
        self.stopwatch = _NoWatch()

    async def reset(self, app_ids: Sequence[str] | None = None) -> None:
        """Loads the data of these apps, or of all if None; the page itself is new already."""
        self.simulator.call(
            "ids => window.__SIM__.waitForData?.(ids || undefined)",
            None if app_ids is None else list(app_ids),
            cap_s=APPS_CAP_S,
        )

    async def wait_ready(self, app_ids: Sequence[str] | None = None, timeout_ms: int = 60_000) -> None:
        await self.reset(app_ids)

    async def get_state(self, *, required_apps: Sequence[str] | None = None) -> Any:
        """The state now.

        Raises:
            CommandFailed: there is no state, or one of the apps is missing from it.
        """
        state = json.loads(self.simulator.call(STATE) or "null")
        if not isinstance(state, dict) or "os" not in state:
            raise CommandFailed(f"the simulator's state cannot be read: {str(state)[:60]!r}")
        missing = sorted(set(required_apps or ()) - set(state.get("apps") or {}))
        if missing:
            raise CommandFailed(f"the simulator has no state for {', '.join(missing)}")
        return state

    async def set_state(self, patch: Mapping[str, Any], *, deep: bool = True, reload: bool = False) -> None:
        if reload:
            raise CommandFailed(
                "a task asks for a reload, which would erase the episode from the browser's memory"
            )
        given = {"patch": patch, "deep": deep}
        self.simulator.call(
            "({patch, deep}) => { window.__SIM__.setState(patch, {deep, reload: false}); }", given
        )

    async def get_route(self) -> Any:
        return self.simulator.call(ROUTE) or {}

    async def get_observation(self) -> Seen:
        return Seen(await self.get_route(), await self.get_state())

    async def open_app(self, app_name: str, timeout_ms: int = 8000, wait_stable: bool = False) -> None:
        self.simulator.call(OPEN, app_name)
        if wait_stable:
            self.simulator.call("() => new Promise(done => setTimeout(done, 300))")

    async def warm_apps(self, app_ids: Sequence[str], settle_ms: int = 300) -> None:
        """Opens each app once, so that its state exists, and goes home."""
        for app_id in app_ids:
            self.simulator.call(OPEN, app_id)
            self.simulator.call("ms => new Promise(done => setTimeout(done, ms))", settle_ms)
        await self.go_home()

    async def go_home(self) -> None:
        self.simulator.call("() => { window.__OS__.goHome(); }")
        self.simulator.call("() => new Promise(done => setTimeout(done, 300))")


class _Page:
    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def evaluate(self, source: str, argument: Any = None) -> Any:
        return self._simulator.call(source, argument)


class _NoWatch:
    """A stopwatch that does nothing, since nobody reads how long each part of a set-up takes."""

    total = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        yield

    def reset(self) -> None:
        pass

    def summary(self) -> str:
        return ""


@dataclass(frozen=True)
class Checkout:
    """A checkout of MobileGym's repository.

    Raises:
        SetupError: the folder holds no checkout, or this process already runs the code of another one.
    """

    folder: Path
    _package: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        folder = Path(self.folder).resolve()
        object.__setattr__(self, "folder", folder)
        home = folder / _PACKAGE
        if not (home / "task" / "registry.py").is_file():
            raise SetupError(
                f"{folder} is not a checkout of MobileGym: it has no {_PACKAGE}/task/registry.py."
            )
        with _IMPORTING:
            package = sys.modules.get(_PACKAGE)
            if package is None:
                package = types.ModuleType(_PACKAGE)
                package.__path__ = [str(home)]
                sys.modules[_PACKAGE] = package
            elif list(getattr(package, "__path__", [])) != [str(home)]:
                raise SetupError(
                    f"this process already runs the tasks of {next(iter(package.__path__), '?')}; use one process per checkout."
                )
        object.__setattr__(self, "_package", package)

    def splits(self) -> list[str]:
        """Names of the checkout's task lists."""
        return sorted(path.stem for path in (self.folder / _PACKAGE / "splits").glob("*.txt"))

    def tasks(self, split: str = "") -> tuple[Task, ...]:
        """The tasks of one list, by default those of `train` and `test`; goals are reworded when an episode begins.

        Raises:
            TaskError: there is no such list, or it names a task that does not exist.
        """
        lists = {name: self._listed(name) for name in ([split] if split else SPLITS)}
        return tuple(self._described(name, task_id) for name, ids in lists.items() for task_id in ids)

    def begin(self, task: Task, seed: int, simulator: Simulator) -> Episode:
        """Sets a task up in an open, new simulator; the seed draws its parameters.

        Raises:
            TaskError: the task does not belong to this checkout.
            TaskRefused: the task's own set-up fails.
            DeviceFault: the simulator does not do what the set-up requires.
        """
        made = self._class(_named(task))(_seed=seed)
        environment = Environment(simulator)
        try:
            first = _run(made.setup(environment))
        except Exception as error:
            if classify(error) is not None:
                raise
            raise TaskRefused(
                f"the set-up of {_named(task)} failed: {type(error).__name__}: {error}"
            ) from error
        if made.answer_fields:
            goal = made.description + SHEET_HINT
            sheet = {
                "question": made._resolve_answer_question() or made.description,
                "hint": made.answer_hint,
                "fields": made._resolve_answer_fields(),
                "answers": {},
                "submitted": False,
            }
            _run(environment.set_state({"apps": {"answer_sheet": sheet}}))
        else:
            goal = made.description
        return Episode(_named(task), made, goal, first)

    def passed(self, episode: Episode, simulator: Simulator) -> bool:
        """Whether MobileGym's judge considers the task done, with nothing else changed.

        Raises:
            JudgeError: the judge has no answer.
            DeviceFault: the simulator does not answer.
        """
        last = _run(Environment(simulator).get_observation())
        try:
            found = self._judged(episode, last)
        except Exception as error:
            raise JudgeError(f"MobileGym's judge: {type(error).__name__}: {error}") from error
        if found.judge_error:
            raise JudgeError(f"MobileGym's judge: {found.judge_error}")
        return bool(found.passed)

    def _judged(self, episode: Episode, last: Seen) -> Any:
        task = episode.task
        given = lambda answer: self._judge.JudgeInput(  # noqa: E731
            init_obs=episode.first, last_obs=last, answer=answer
        )
        if not task.answer_fields:
            return task.evaluate(given(episode.answer))
        # Then only what was submitted on the sheet counts as the answer.
        sheet = (last.state.get("apps") or {}).get("answer_sheet") or {}
        if self._own_goals(task):
            handed_in = sheet.get("answers") if sheet.get("submitted") else None
            return task.evaluate(given(_joined(handed_in) if handed_in else None))
        checks = self._common.build_grounded_checks(task, given(None), sheet)
        return task._evaluate_with_checks(given(None), checks)

    def _own_goals(self, task: Any) -> bool:
        """Whether the task checks more than the answer sheet."""
        definer = next(cls for cls in type(task).__mro__ if "check_goals" in vars(cls))
        return definer not in (self._base.BaseTask, self._common.AnswerTask)

    @cached_property
    def _judge(self) -> Any:
        return self._module("task.judge")

    @cached_property
    def _base(self) -> Any:
        return self._module("task.base")

    @cached_property
    def _common(self) -> Any:
        return self._module("task.common_tasks")

    @cached_property
    def _registry(self) -> Any:
        return self._module("task.registry").TaskRegistry()

    def _module(self, name: str) -> Any:
        with _IMPORTING:
            try:
                return importlib.import_module(f"{_PACKAGE}.{name}")
            except ImportError as error:
                raise SetupError(f"{self.folder}: {_PACKAGE}.{name} cannot be imported: {error}") from None

    def _class(self, task_id: str) -> Any:
        with _IMPORTING:
            try:
                return self._registry.get_by_id(task_id)
            except ValueError as error:
                raise TaskError(f"{self.folder} has no task {task_id!r}: {error}.") from None
            except ImportError as error:
                raise SetupError(f"{self.folder}: task {task_id!r} cannot be imported: {error}") from None

    def _listed(self, split: str) -> list[str]:
        file = self.folder / _PACKAGE / "splits" / f"{split}.txt"
        if split not in self.splits():
            raise TaskError(f"{self.folder} has no split {split!r}; it has: {', '.join(self.splits())}.")
        lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    def _described(self, split: str, task_id: str) -> Task:
        cls = self._class(task_id)
        budget = cls.max_steps or BUDGETS.get(cls.difficulty, 30)
        budget += SHEET_STEPS if cls.answer_fields else 0
        level = int(cls.difficulty[1:]) if cls.difficulty[1:].isdigit() else 1
        params = {"task": task_id, "apps": ",".join(cls.apps)}
        goal = cls.templates[0] if cls.templates else task_id  # with gaps, which the episode's state fills
        return Task(f"{FAMILY}/{task_id}", goal, FAMILY, level, split, params, budget)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(coroutine)


def _joined(answers: Mapping[str, Any]) -> str:
    parts = []
    for key in sorted(answers, key=int):
        value = answers[key]
        parts += [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return ", ".join(parts)


def _named(task: Task) -> str:
    if task.family != FAMILY or "task" not in task.params:
        raise TaskError(
            f"task {task.task_id!r} is of family {task.family!r}; MobileGym plays only its own tasks."
        )
    return task.params["task"]
