"""What every kind of device does, whatever it is; one of one's own as well. And the guides to devices and judges."""

from __future__ import annotations

import atexit
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

from android_env.actions import Action
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.evaluators import JUDGES
from android_env.faults import FaultLog
from android_env.tasks import Task, TaskSet, load_tasks
from android_env.testing import mobilegym
from android_env.testing.android_world import AndroidWorldDouble
from android_env.testing.appium import AppiumDouble
from android_env.testing.droidbot import write_exploration
from digiq.agents import collect
from digiq.agents.build import AgentConfig, DeviceConfig, build_agent, env_factory
from digiq.agents.collect import CollectConfig
from digiq.agents.devices import DEVICES, DeviceKind
from digiq.agents.rollout import plan_episodes, rollout
from digiq.artifacts import Manifest
from digiq.config import load, to_dict
from digiq.errors import ConfigError
from digiq.evaluation.evaluate import EvaluateConfig

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
TASKS = {name: load_tasks(f"{name}/train")[:3] for name in ("webshop", "miniwob")}
EXPLORATION = write_exploration(Path(tempfile.mkdtemp()) / "org.example")
atexit.register(shutil.rmtree, EXPLORATION.parent, ignore_errors=True)
TASKS["replay"] = load_tasks(EXPLORATION)[:3]
TASKS["android_world"] = tuple(
    Task(f"android_world/{n}", n, "android_world", 1, "test_world", {"task_type": n, "task_idx": "0"}, 4)
    for n in ("OpenSettings", "TypeName")
)
TASKS["mobilegym"] = load_tasks(f"mobilegym:{mobilegym.checkout()}")[:3]
RULE = {"success_activity": "Browser/*"}


def example(word: str) -> str:
    """The example of CONTRIBUTING.md in which this stands."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (code,) = (textwrap.dedent(block) for block in blocks if word in block)
    return code


def import_example(name: str, word: str) -> None:
    module = types.ModuleType(name)
    module.__file__ = str(ROOT / "CONTRIBUTING.md")
    sys.modules[name] = module
    exec(example(word), vars(module))


import_example("guides_device", "class Button")
TOY = "guides_device:Button"


class OnePhone:
    """The double as the pages of MiniWoB++: one page, whose reward is what the phone knows."""

    home = "http://phone/"

    def __init__(self, double):
        self.double = double

    def url(self, task, seed):
        self.double.load(load_tasks("webshop/train")[0], seed)
        return f"http://phone/{seed}"

    def goal(self, driver):
        return "the task's"

    def verdict(self, driver):
        return "success" if self.double.phone.verdict() == "success" else None

    def close(self):
        pass


@pytest.fixture
def doubled(request, monkeypatch):
    """Settings of a kind by name, everything that it needs from the machine doubled."""

    def double(name: str) -> dict:
        if name == "replay":
            return {"folder": str(EXPLORATION), "screen_hw": [64, 32]}
        if name == "android_world":
            world = AndroidWorldDouble()
            request.addfinalizer(world.close)
            return {"servers": [world.url], "screen_hw": [60, 40]}
        if name not in ("android", "chromium", "mobilegym", "web"):
            return {}
        pytest.importorskip("appium", reason="pip install 'digiq[appium]'")
        monkeypatch.setattr("android_env.clock.SystemClock.sleep", lambda clock, seconds: None)
        server = AppiumDouble()
        request.addfinalizer(server.close)
        if name == "android":
            return {"fleet": str(request.getfixturevalue("fleet")), "server": server.url}
        if name == "web":
            running = types.SimpleNamespace(url=server.url, start=lambda: None, stop=lambda: None)
            monkeypatch.setattr("android_env.appium.server.AppiumServer", lambda: running)
            monkeypatch.setattr(
                "android_env.appium.chromium.find_browser", lambda: ("/chromium", "/chromedriver")
            )
            module = types.ModuleType("doubled_pages")
            module.__file__ = __file__
            module.Shop = type("Shop", (), {"__new__": lambda cls: OnePhone(server), "__module__": __name__})
            monkeypatch.setitem(sys.modules, "doubled_pages", module)
            return {"pages": "doubled_pages:Shop"}
        host = f"android_env.devices.{'mobilegym' if name == 'mobilegym' else 'miniwob'}.host"
        monkeypatch.setattr(f"{host}.find_browser", lambda: ("/chromium", "/chromedriver"))
        running = types.SimpleNamespace(url=server.url, start=lambda: None, stop=lambda: None)
        monkeypatch.setattr(f"{host}.AppiumServer", lambda: running)
        if name == "mobilegym":
            world = mobilegym.DoubledWorld(server, load_tasks("webshop/train")[0])
            monkeypatch.setattr(f"{host}.World", lambda *_: world)
            height, width = server.phone.screen_hw
            monkeypatch.setattr("digiq.agents.devices.mobilegym.LAYOUT", (height, width))
            return {"checkout": str(mobilegym.checkout()), "pixel_ratio": 1.0}
        monkeypatch.setattr(f"{host}.html_folder", lambda: None)
        monkeypatch.setattr(f"{host}.MiniWoB", lambda: OnePhone(server))
        return {}

    return double


@pytest.fixture(params=[*DEVICES, TOY])
def config(request, doubled):
    settings = doubled(request.param)
    section = request.param if request.param in DEVICES else "own"
    return load(DeviceConfig, {"name": request.param, section: settings})


def tasks_for(config) -> TaskSet:
    """Three tasks that the device plays and its judge can judge."""
    family = next(iter(config.chosen.plays), "webshop")
    tasks = TASKS[family]
    if config.chosen.judge == "rules":
        tasks = tuple(dataclasses.replace(t, params={**t.params, **RULE}) for t in tasks)
    return TaskSet(f"three of {family}", tuple(tasks))


def test_what_is_to_be_known_of_it_is_there(config):
    kind: DeviceKind = config.chosen
    assert kind.judge in JUDGES and isinstance(kind.waits, bool) and isinstance(kind.exact, bool)
    assert isinstance(kind.plays, tuple) and kind.scripts
    assert isinstance(hash(kind), int), "configs can be keys"
    assert not config.chosen_judge.refusal(tasks_for(config)[0])


def test_identity_holds_its_settings_and_no_others(config):
    section = config.name if config.name in DEVICES else "own"
    assert set(to_dict(config)) == {"name", section, "judge", "deny_packages", "deny_urls", "deny_texts"}
    assert load(DeviceConfig, to_dict(config)).chosen == config.chosen


def test_the_device_is_what_episodes_need(config):
    tasks = tasks_for(config)
    device = config.chosen.maker()()
    try:
        first = device.reset(tasks[0], seed=3)
        assert first.screenshot.dtype == np.uint8 and first.screenshot.shape == (*device.screen_hw, 3)
        assert first.goal and isinstance(first.activity, str) and isinstance(first.ui_elements, str)
        assert np.array_equal(device.observe().screenshot, first.screenshot), "looking changes nothing"
        assert device.name and config.chosen_judge.answers(device)
        device.execute(Action.home())
        device.execute(Action.complete())
        assert device.observe().goal == first.goal
        again = device.reset(tasks[0], seed=3)
        assert np.array_equal(again.screenshot, first.screenshot) and again.goal == first.goal
        if config.chosen.exact:
            assert isinstance(device, SimulatedPhone) and not config.chosen.phone(render=False).render
    finally:
        device.close()


def test_its_scripts_play_it_and_giving_up_fails(config):
    tasks = tasks_for(config)
    specs = plan_episodes(tasks, 3, seed=0)
    script = "random" if "random" in config.chosen.scripts else "oracle"
    agent = build_agent(AgentConfig(kind=script), device=config)
    options = {"batch_size": 1, "threads": config.chosen.waits}  # doubles have one phone
    runs = list(rollout(agent, specs, env_factory(config, tasks), **options))
    assert {run.outcome for run in runs} <= {"success", "failure", "truncated"}
    assert all(run.steps for run in runs)
    assert runs[0].episode.device in (config.name, "button"), "episodes say what they were played on"
    env = env_factory(config, tasks)()
    env.reset(seed=0)
    assert env.step(Action.complete())[4]["outcome"] == "failure"
    assert isinstance(env.faults, FaultLog)
    env.close()


def test_scripts_and_tasks_of_others_are_refused(config):
    with pytest.raises(ConfigError, match=f"agent.kind: 'nobody' cannot act on device '{config.name}'"):
        EvaluateConfig(agent=AgentConfig(kind="nobody"), device=config)
    strange = TaskSet("strange", (dataclasses.replace(TASKS["webshop"][0], family="strange"),))
    if config.chosen.plays:
        with pytest.raises(ConfigError, match="it plays: "):
            env_factory(config, strange)
    elif config.chosen.judge == "rules":
        with pytest.raises(ConfigError, match="cannot be judged"):
            env_factory(config, strange)


def test_another_judge_may_be_named_where_it_can_judge(config):
    tasks = tasks_for(config)
    for name in JUDGES:
        asked = dataclasses.replace(config, judge=type(config.judge)(name=name))
        ruled = TaskSet("ruled", tuple(dataclasses.replace(t, params={**t.params, **RULE}) for t in tasks))
        make = env_factory(asked, ruled)
        device = config.chosen.maker()()
        able = asked.chosen_judge.answers(device)
        device.close()
        if able:
            env = make()
            assert env.judge == asked.chosen_judge
            env.close()
        else:
            with pytest.raises(ConfigError, match=f"device.judge: '{name}' cannot judge on device"):
                make()


def test_rules_need_tasks_that_have_some():
    config = load(DeviceConfig, {"judge": {"name": "rules"}})
    with pytest.raises(
        ConfigError, match="cannot be judged on 'simulated'; give its params 'success_activity'"
    ):
        env_factory(config, TaskSet("plain", TASKS["webshop"]))
    with pytest.raises(ConfigError, match="unknown judge 'rule'; did you mean 'rules'"):
        load(DeviceConfig, {"judge": {"name": "rule"}})


FOLLOWED = """
    import importlib, json, sys
    from pathlib import Path
    importlib.import_module(sys.argv[1]).__path__.insert(0, sys.argv[2])  # a copy with one file and one line more
    from digiq.agents.collect import CollectConfig
    from digiq.artifacts import Manifest
    from digiq.config import load, to_dict
    from digiq.evaluation import evaluate
    config = load(evaluate.EvaluateConfig, json.loads(sys.argv[3]))
    print(json.dumps(evaluate.run(config, out=Path(sys.argv[2]) / "out").manifest.counts))
    print(Manifest(stage="collect", version=1, config=to_dict(CollectConfig()), inputs={}, state="partial").identity)
"""


@pytest.mark.parametrize(
    ("package", "folder", "table", "word", "settings"),
    [
        (
            "digiq.agents",
            "devices",
            'DEVICES = Table(\n    "device",\n    __name__,\n',
            "class Button",
            {"agent": {"kind": "oracle"}, "device": {"name": "button", "button": {"presses": 3}}},
        ),
        (
            "android_env",
            "evaluators",
            "JUDGES = {\n",
            "class Away",
            {
                "agent": {"kind": "quitter"},
                "device": {"judge": {"name": "away", "away": {"home": "Nowhere"}}},
            },
        ),
    ],
    ids=["device", "judge"],
)
def test_the_contributors_guides_work_as_they_stand(tmp_path, package, folder, table, word, settings):
    """The file and the line, added to a copy of the folder, can be chosen by name; what does not use it is what it was."""
    (line,) = re.findall(rf"Add its line to `{table.split()[0]}` .*: `(.*)`\.", GUIDE)
    copy = tmp_path / folder
    shutil.copytree(ROOT / package.replace(".", "/") / folder, copy)
    file = re.match(r'"?(\w+)"?[=:]', line)[1]
    (copy / f"{file}.py").write_text(example(word))
    source = (copy / "__init__.py").read_text()
    assert source.count(table) == 1
    (copy / "__init__.py").write_text(source.replace(table, f"{table}    {line}\n"))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(FOLLOWED),
            package,
            str(tmp_path),
            json.dumps({"episodes": 4, "records": 1, **settings}),
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, identity = done.stdout.splitlines()
    assert {k: v for k, v in json.loads(found).items() if v} == {"episodes": 4, "success": 4}
    plain = Manifest(stage="collect", version=1, config=to_dict(CollectConfig()), inputs={}, state="partial")
    assert identity == str(plain.identity)


def test_a_device_of_ones_own_is_known_in_every_process(tmp_path, monkeypatch):
    (tmp_path / "mine_device.py").write_text(example("class Button"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("digiq.agents.collect.usable_cores", lambda: [0, 1])
    mapping = {"agent": {"kind": "oracle"}, "device": {"name": "mine_device:Button"}, "num_episodes": 130}
    done = collect.run(load(CollectConfig, mapping), out=tmp_path / "episodes")
    assert done.manifest.counts["success"] == 130
