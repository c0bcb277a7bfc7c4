"""A double of a MobileGym checkout: a page that implements `window.__SIM__` and its siblings, and tasks with judges.

All of it is DigiQ's own code, written to the protocol: a phone with a notebook, a settings switch and an answer sheet,
two training tasks and one for reporting. `checkout` writes it to a folder, once per process, since a process can run
the code of only one checkout. If there is no browser either, `DoubledWorld` presents the phone of an `AppiumDouble` as
the simulator.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from android_env.actions import Action
from android_env.devices.mobilegym import KEYS, World
from android_env.devices.mobilegym.checkout import Episode, Seen
from android_env.devices.mobilegym.scripts import PLANS, Tap, Type
from android_env.tasks.task import Task
from android_env.testing.appium import AppiumDouble

PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, user-scalable=no"><style>
body { margin: 0; font: 22px sans-serif; background: #eef } button, input { font: inherit; display: block; margin: 30px;
  padding: 20px; width: 240px } p { margin: 30px }
</style></head><body><div id="root"></div><script>
const fresh = () => ({
  os: {time: {timestamp: 1700000000000}, installedApps: [
    {id: 'notes', name: 'Notebook'}, {id: 'settings', name: 'Settings'}, {id: 'answer_sheet', name: 'Answer sheet'}]},
  apps: {notes: {items: ['milk', 'eggs']}, settings: {dark: false},
    answer_sheet: {question: '', hint: null, fields: [], answers: {}, submitted: false}}});
let state = JSON.parse(localStorage.state || 'null') || fresh(), app = '', path = '/';
const merge = (to, from) => { for (const [k, v] of Object.entries(from)) {
  if (v && typeof v === 'object' && !Array.isArray(v) && to[k] && typeof to[k] === 'object') merge(to[k], v);
  else to[k] = v; } };
const add = (tag, text, tapped, into = document.querySelector('#root')) => {
  const e = document.createElement(tag); e.textContent = text; e.onclick = tapped; into.append(e); return e; };
const changed = change => { change(); localStorage.state = JSON.stringify(state); draw(); };
const go = (to, at = '/') => { [app, path] = [to, at]; draw(); };
function draw() {
  document.querySelector('#root').innerHTML = '';
  const {notes, settings, answer_sheet: sheet} = state.apps;
  if (!app) for (const {id, name} of state.os.installedApps) add('button', name, () => go(id));
  if (app === 'notes') {
    for (const item of notes.items) add('p', item);
    const field = add('input', ''); field.placeholder = 'new note';
    add('button', 'Add', () => changed(() => notes.items.push(field.value)));
  }
  if (app === 'settings')
    add('button', 'Dark: ' + (settings.dark ? 'on' : 'off'), () => changed(() => { settings.dark = !settings.dark; }));
  if (app === 'answer_sheet') {
    add('p', sheet.question);
    const field = add('input', ''); field.placeholder = 'answer'; field.value = sheet.answers[0] || '';
    add('button', 'Hand in', () => changed(() => { sheet.answers = {0: field.value}; sheet.submitted = true; }));
  }
}
window.__SIM__ = {
  getState: () => ({...state, os: {...state.os, self: window, time: {...state.os.time}}}),
  setState: (patch, {deep}) => changed(() => deep ? merge(state, patch) : Object.assign(state, patch)),
  resetState: async () => changed(() => { state = fresh(); }),
  waitForData: async apps => { await new Promise(done => setTimeout(done, 20)); },
};
window.__OS__ = {
  openApp: id => go(id), goHome: () => go(''), handleBack: () => go(''), showRecents: () => go(''),
  getAppRoute: () => app ? {app, path} : null,
};
draw();
</script></body></html>
"""

_BASE = """
class BaseTask:
    templates, apps, difficulty, max_steps = [], [], "L1", None
    answer_fields = answer_hint = None

    def __init__(self, _seed=None):
        self.params, self._seed = {}, _seed

    @property
    def description(self):
        return self.templates[0].format(**self.params)

    def _resolve_answer_fields(self):
        return list(self.answer_fields)

    def _resolve_answer_question(self):
        return None

    async def setup(self, env):
        await env.reset(app_ids=self.apps or None)
        await (env.warm_apps(self.apps) if len(self.apps) > 1 else env.open_app(self.apps[0], wait_stable=True))
        await self._prepare(env)
        await env.get_state(required_apps=self.apps)
        return await env.get_observation()

    async def _prepare(self, env):
        pass

    def check_goals(self, input):
        raise NotImplementedError

    def evaluate(self, input):
        return self._evaluate_with_checks(input, self.check_goals(input))

    def _evaluate_with_checks(self, input, checks):
        from bench_env.task.judge import JudgeResult

        strip = lambda apps: {k: v for k, v in apps.items() if k not in (*self.apps, "answer_sheet")}
        clean = strip(input.apps) == strip(input.apps_init)
        return JudgeResult(all(check["passed"] for check in checks), clean)
"""
_JUDGE = """
from dataclasses import dataclass


@dataclass
class JudgeInput:
    init_obs: object
    last_obs: object
    answer: str | None = None

    apps = property(lambda self: self.last_obs.state["apps"])
    apps_init = property(lambda self: self.init_obs.state["apps"])


@dataclass
class JudgeResult:
    success: bool
    clean: bool
    judge_error: str | None = None

    @property
    def passed(self):
        return self.success and self.clean
"""
_COMMON = """
from bench_env.task.base import BaseTask


class AnswerTask(BaseTask):
    def check_goals(self, input):
        return [{"passed": input.answer == str(self.get_expected_response(input)[0])}]


def build_grounded_checks(task, input, sheet):
    expected = task.get_expected_response(input)
    checks = [{"passed": sheet["answers"].get(str(i)) == str(e)} for i, e in enumerate(expected)]
    return [*checks, {"passed": sheet["submitted"] is True}]
"""
_REGISTRY = """
import importlib


class TaskRegistry:
    def get_by_id(self, task_id):
        suite, _, name = task_id.partition(".")
        module = importlib.import_module(f"bench_env.task.{suite}.tasks")
        if not hasattr(module, name):
            raise ValueError(f"no task {name} in {suite}")
        return getattr(module, name)
"""
_TASKS = """
from bench_env.task.base import BaseTask
from bench_env.task.common_tasks import AnswerTask

WORDS = ("bread", "butter", "salt")


class AddNote(BaseTask):
    templates, apps = ["Write {word} into the notebook"], ["notes"]

    def __init__(self, _seed=None):
        super().__init__(_seed)
        self.params["word"] = WORDS[(_seed or 0) % len(WORDS)]

    async def _prepare(self, env):
        await env.set_state({"apps": {"notes": {"items": ["milk"]}}}, deep=True, reload=False)
        assert await env.page.evaluate("async n => { return n + 1 }", 1) == 2

    def check_goals(self, input):
        return [{"passed": self.params["word"] in input.apps["notes"]["items"]}]


class CountNotes(AnswerTask):
    templates, apps, max_steps = ["How many notes are there?"], ["notes"], 15
    answer_fields = [{"type": "number", "label": "how many"}]

    def get_expected_response(self, input):
        return [len(input.apps_init["notes"]["items"])]


class GoDark(BaseTask):
    templates, apps, difficulty = ["Switch to the dark theme"], ["settings"], "L2"

    def check_goals(self, input):
        return [{"passed": input.apps["settings"]["dark"]}]


class Broken(BaseTask):
    templates, apps = ["It cannot begin"], ["notes"]

    async def _prepare(self, env):
        raise ValueError("there is no such note")
"""
FILES = {
    "dist/index.html": PAGE,
    "bench_env/__init__.py": "raise ImportError('the package as a whole is not to be imported')\n",
    "bench_env/task/__init__.py": "",
    "bench_env/task/base.py": _BASE,
    "bench_env/task/judge.py": _JUDGE,
    "bench_env/task/common_tasks.py": _COMMON,
    "bench_env/task/registry.py": _REGISTRY,
    "bench_env/task/pocket/__init__.py": "",
    "bench_env/task/pocket/tasks.py": _TASKS,
    "bench_env/splits/train.txt": "# one a line\npocket.AddNote\n\npocket.CountNotes\n",
    "bench_env/splits/test.txt": "pocket.GoDark\n",
}
DOUBLED = {
    "pocket.AddNote": (Tap("new note"), Type("{word}"), Tap("Add")),
    "pocket.CountNotes": (),
    "pocket.GoDark": (Tap("Dark: off"),),
}
"""The scripted player's plans for the double's tasks; it has none for `CountNotes`."""


@functools.cache
def checkout() -> Path:
    """The folder of the double, with a built simulator; it is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="mobilegym-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    PLANS.update(DOUBLED)
    return folder


class DoubledWorld(World):
    """The simulated phone behind an `AppiumDouble`, presented as MobileGym's phone.

    Args:
        double: the server.
        task: the task given to its phone, whatever MobileGym's task is.
    """

    def __init__(self, double: AppiumDouble, task: Task) -> None:
        self.double, self.task = double, task
        self.home = "http://simulator/"

    def begin(self, driver: Any, task: Task, seed: int) -> Episode:
        self.double.load(self.task, seed)
        return Episode(task.task_id, SimpleNamespace(params={}), self.task.goal, Seen({}, {}))

    def passed(self, driver: Any, episode: Episode) -> bool:
        return self.double.phone.verdict() == "success"

    def simulator(self, driver: Any) -> Any:
        return self

    def call(self, source: str, argument: Any = None, *, cap_s: float = 0.0) -> Any:
        """Presses the back or the home button; anything else, such as a query for apps, returns an empty list."""
        action = {KEYS["back"]: Action.back(), KEYS["home"]: Action.home()}.get(source)
        if action is not None:
            self.double.executed.append(action)
            self.double.phone.execute(action)
        return []

    def close(self) -> None:
        """Does nothing, since there is nothing to stop."""
