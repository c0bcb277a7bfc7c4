"""MobileGym's tasks and judges from a checkout, as far as they need no browser; the checkout is a double."""

from __future__ import annotations

import json
import sys

import pytest

pytest.importorskip("appium", reason="pip install 'digiq[appium]'")

from android_env.devices.mobilegym import World, built
from android_env.devices.mobilegym.checkout import OPEN, ROUTE, STATE, Checkout
from android_env.devices.mobilegym.scripts import PLANS, _filled
from android_env.errors import SetupError, TaskError
from android_env.faults import CommandFailed, JudgeError, TaskRefused
from android_env.tasks import Task, load_tasks
from android_env.testing import mobilegym


class Memory:
    """A simulator without a page."""

    def __init__(self):
        apps = {"notes": {"items": ["milk", "eggs"]}, "settings": {"dark": False}, "answer_sheet": {}}
        self.state, self.app, self.asked = {"os": {}, "apps": apps}, "", []

    def call(self, source, argument=None, *, cap_s=0.0):
        self.asked.append(source)
        if source == STATE:
            return json.dumps(self.state)
        if source == ROUTE:
            return {"app": self.app, "path": "/"} if self.app else None
        if source == OPEN:
            self.app = argument
        elif "setState" in source:
            for app, values in argument["patch"]["apps"].items():
                self.state["apps"][app] |= values
        elif source.startswith("async n"):
            return argument + 1
        return None


@pytest.fixture
def checkout():
    return Checkout(mobilegym.checkout())


@pytest.fixture
def memory():
    return Memory()


def task(name):
    return Task(f"mobilegym/{name}", name, "mobilegym", 1, "train", {"task": name})


def test_tasks_are_those_of_its_lists(checkout):
    assert checkout.splits() == ["test", "train"]
    train = load_tasks(f"mobilegym:{mobilegym.checkout()}#train")
    assert [t.task_id for t in train] == ["mobilegym/pocket.AddNote", "mobilegym/pocket.CountNotes"]
    assert [t.max_steps for t in train] == [15, 30], "a question has time for its answer sheet"
    assert {t.split for t in load_tasks(f"mobilegym:{mobilegym.checkout()}")} == {"train", "test"}
    (dark,) = checkout.tasks("test")
    assert (
        dark.level == 2
        and dark.max_steps == 30
        and dark.params == {"task": "pocket.GoDark", "apps": "settings"}
    )
    with pytest.raises(TaskError, match="no split 'secret'; it has: test, train"):
        load_tasks(f"mobilegym:{mobilegym.checkout()}#secret")


def test_other_folders_are_refused(checkout, tmp_path):
    with pytest.raises(TaskError, match="is not a checkout of MobileGym"):
        load_tasks(f"mobilegym:{tmp_path}")
    (tmp_path / "bench_env" / "task").mkdir(parents=True)
    (tmp_path / "bench_env" / "task" / "registry.py").touch()
    with pytest.raises(SetupError, match="one process per checkout"):
        Checkout(tmp_path)


def test_a_checkout_that_was_not_built_is_said(checkout, tmp_path):
    assert built(checkout) == mobilegym.checkout() / "dist"
    object.__setattr__(checkout, "folder", tmp_path)
    with pytest.raises(SetupError, match="holds no simulator; run 'npm install' and 'npm run build'"):
        built(checkout)


def test_the_package_as_a_whole_is_not_imported(checkout, memory):
    checkout.begin(task("pocket.AddNote"), 0, memory)
    assert not hasattr(sys.modules["bench_env"], "__file__")


def test_parameters_are_the_seeds_and_the_judge_sees_the_state(checkout, memory):
    goals = {checkout.begin(task("pocket.AddNote"), seed, Memory()).goal for seed in range(6)}
    assert goals == {f"Write {word} into the notebook" for word in ("bread", "butter", "salt")}
    episode = checkout.begin(task("pocket.AddNote"), 4, memory)
    assert episode.goal == "Write butter into the notebook" and memory.app == "notes"
    assert memory.state["apps"]["notes"]["items"] == ["milk"], "set up by the task"
    assert not checkout.passed(episode, memory)
    memory.state["apps"]["notes"]["items"].append("butter")
    assert checkout.passed(episode, memory)
    memory.state["apps"]["settings"]["dark"] = True
    assert not checkout.passed(episode, memory), "nothing else may change"


def test_a_question_is_answered_on_the_sheet_and_nowhere_else(checkout, memory):
    episode = checkout.begin(task("pocket.CountNotes"), 0, memory)
    sheet = memory.state["apps"]["answer_sheet"]
    assert "答题卡" in episode.goal and sheet["question"] == "How many notes are there?"
    assert sheet["fields"][0]["label"] == "how many" and sheet["submitted"] is False
    episode.answer = "2"
    assert not checkout.passed(episode, memory)
    sheet["answers"] = {"0": "2"}
    assert not checkout.passed(episode, memory), "it was not handed in"
    sheet["submitted"] = True
    assert checkout.passed(episode, memory)
    sheet["answers"] = {"0": "3"}
    assert not checkout.passed(episode, memory)


def test_whose_fault_it_is(checkout, memory):
    with pytest.raises(
        TaskRefused, match=r"set-up of pocket.Broken failed: ValueError: there is no such note"
    ):
        checkout.begin(task("pocket.Broken"), 0, memory)
    with pytest.raises(TaskError, match=r"has no task 'pocket.Nothing'"):
        checkout.begin(task("pocket.Nothing"), 0, memory)
    with pytest.raises(TaskError, match="MobileGym plays only its own tasks"):
        checkout.begin(load_tasks("webshop")[0], 0, memory)
    del memory.state["apps"]["notes"]
    with pytest.raises(CommandFailed, match="has no state for notes"):
        checkout.begin(task("pocket.CountNotes"), 0, memory)
    memory = Memory()
    episode = checkout.begin(task("pocket.AddNote"), 0, memory)
    del memory.state["apps"]["notes"]["items"]
    with pytest.raises(JudgeError, match="KeyError"):
        checkout.passed(episode, memory)


def test_the_simulator_is_served_from_the_checkout(checkout):
    import urllib.error
    import urllib.request

    world = World(checkout)
    try:
        with urllib.request.urlopen(world.home) as answer:
            assert b"__SIM__" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{world.home}../bench_env/task/base.py")
    finally:
        world.close()
    assert World(checkout, "http://127.0.0.1:4173/").home == "http://127.0.0.1:4173/"


def test_plans_name_their_parameters():
    assert _filled("{mode|list=one|grid=two} of {n}", {"mode": "grid", "n": 3}) == "two of 3"
    assert _filled("{mode|list=one}", {"mode": "grid"}) == "grid"
    assert len([name for name in PLANS if name not in mobilegym.DOUBLED]) >= 8
