"""What every judge of the table does, whatever it judges by; a judge of one's own as well."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pickle
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from android_env.env import AndroidEnv
from android_env.errors import TaskError
from android_env.evaluators import JUDGES, Judge, Moment, knowing
from android_env.evaluators.rules import Rules
from android_env.evaluators.state import State
from android_env.tasks import Task, load_tasks

TASK = load_tasks("webshop/train").where(level=1)[0]
RULED = dataclasses.replace(TASK, params={**TASK.params, "success_activity": "Browser/*"})


def guides_judge():
    """The example of CONTRIBUTING.md, as a module of its own."""
    guide = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "class Away" in c)
    module = types.ModuleType("guides_judge")
    sys.modules["guides_judge"] = module
    exec(textwrap.dedent(code), vars(module))
    return module.Away


Toy = guides_judge()


@dataclasses.dataclass
class Case:
    judge: Judge
    device: object
    """Knows, or shows, what the judge looks at."""
    phone: SimulatedPhone
    """What the device is, or is in front of."""
    task: object = TASK
    not_this: object = None
    """A task that it refuses."""
    not_on: object = None
    """A device that it cannot judge on."""


class Mute:
    """A phone that does not know the truth."""

    name, screen_hw = "mute", SimulatedPhone.screen_hw


@pytest.fixture(params=[*JUDGES, "toy"])
def case(request):
    phone = SimulatedPhone(noise=NO_NOISE, render=False)
    name = request.param
    judge = Toy() if name == "toy" else judge_called(name)
    if name == "state":
        yield Case(judge, phone, phone, not_on=Mute())
    elif name == "page_reward":
        pytest.importorskip("appium", reason="pip install 'digiq[appium]'")
        with behind_appium() as (device, behind):
            yield Case(judge, device, behind, not_on=phone)
    elif name == "mobilegym":
        pytest.importorskip("appium", reason="pip install 'digiq[appium]'")
        with simulator() as (device, behind):
            judge = dataclasses.replace(judge, when="reached")  # the player below declares no end
            yield Case(judge, device, behind, task=GYM, not_on=phone)
    else:
        yield Case(judge, phone, phone, task=RULED, not_this=TASK if name == "rules" else None)


GYM = Task("mobilegym/pocket.AddNote", "write", "mobilegym", 1, "train", {"task": "pocket.AddNote"})


@contextlib.contextmanager
def simulator():
    """MobileGym's phone on a doubled server, and the phone in it."""
    from android_env.appium.chromium import Viewport
    from android_env.appium.device import AppiumDevice
    from android_env.appium.settle import SettleConfig
    from android_env.devices.mobilegym import Phone
    from android_env.testing.appium import AppiumDouble
    from android_env.testing.clock import FakeClock
    from android_env.testing.mobilegym import DoubledWorld

    with AppiumDouble() as double:
        height, width = double.phone.screen_hw
        viewport = Viewport(height=height, width=width, pixel_ratio=1.0)
        device = AppiumDevice(
            double.url,
            Phone(DoubledWorld(double, TASK), viewport=viewport, programs=("/chromium", "/chromedriver")),
            settle=SettleConfig(stable_polls=1),
            clock=FakeClock(),
            screen_hw=double.phone.screen_hw,
        )
        yield device, double.phone
        device.close()


def judge_called(name: str) -> Judge:
    return getattr(importlib.import_module(f"android_env.evaluators.{name}"), JUDGES[name])()


@contextlib.contextmanager
def behind_appium():
    """A device on a doubled server, and the phone in it; the dialect passes on what a page would say."""
    from android_env.appium.device import AppiumDevice
    from android_env.appium.settle import SettleConfig
    from android_env.appium.uiautomator2 import UiAutomator2
    from android_env.testing.appium import AppiumDouble
    from android_env.testing.clock import FakeClock

    class Page(UiAutomator2):
        def verdict(self, driver):
            # A page knows nothing of declarations.
            return "success" if double.phone.verdict() == "success" else None

    with AppiumDouble() as double:
        device = AppiumDevice(
            double.url,
            Page("emulator-5554"),
            settle=SettleConfig(stable_polls=1),
            clock=FakeClock(),
            restore=double.load,
            screen_hw=double.phone.screen_hw,
        )
        yield device, double.phone
        device.close()


def play(case, choose, steps=15):
    """The outcome of the actions that `choose` finds, and after how many."""
    env = AndroidEnv(case.device, [case.task], judge=case.judge)
    env.reset(seed=0)
    for _ in range(steps):
        *_, info = env.step(choose())
        if info["outcome"]:
            break
    return info["outcome"], info["step"]


def test_what_the_task_asks_for_is_success_however_it_is_judged(case):
    rng = np.random.default_rng(0)
    outcome, _ = play(case, lambda: draw(SCRIPTED["oracle"](case.phone.display), rng)[0])
    assert outcome == "success"


def test_nothing_done_is_no_verdict_and_giving_up_is_failure(case):
    assert play(case, lambda: Action(ActionType.WAIT), steps=3) == ("", 3)
    assert play(case, Action.complete) == ("failure", 1)
    assert play(case, Action.impossible) == ("failure", 1)


def test_equal_moments_get_equal_verdicts_from_equal_judges(case):
    case.device.reset(case.task, seed=0)
    again = pickle.loads(pickle.dumps(case.judge))  # as processes hand it on
    assert again == case.judge and hash(again) == hash(case.judge)
    for action in (Action.home(), Action.complete(), Action.home()):
        moment = Moment(case.task, action, case.device.observe(), case.device)
        assert case.judge(moment) == case.judge(moment) == again(moment)


def test_where_it_can_judge_is_said_beforehand_and_holds(case):
    assert case.judge.answers(case.device) and not case.judge.refusal(case.task)
    seen = case.device.reset(case.task, seed=0)
    if case.not_this is not None:
        assert case.judge.refusal(case.not_this)
        with pytest.raises(TaskError, match="cannot be judged"):
            case.judge(Moment(case.not_this, Action.home(), seen, case.device))
    if case.not_on is not None:
        assert not case.judge.answers(case.not_on)
        with pytest.raises(TaskError, match=repr(case.not_on.name)):
            case.judge(Moment(case.task, Action.home(), seen, case.not_on))


def test_by_default_a_device_is_asked_for_the_truth(case):
    found = knowing(case.device)
    assert found == (State() if isinstance(case.judge, Rules | Toy) else type(case.judge)())
    assert AndroidEnv(case.device, [case.task]).judge == found
