"""Recordings as devices: recorded actions lead where they led, all others change nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.devices.replay import Replay, load, tasks
from android_env.devices.replay.scripts import SCRIPTED
from android_env.env import AndroidEnv
from android_env.errors import TaskError
from android_env.recording import Recorder
from android_env.tasks import load_tasks
from android_env.testing.droidbot import write_exploration

TOP, BOTTOM, MIDDLE = Action.tap(0.35, 0.5), Action.tap(0.7, 0.5), Action.tap(0.52, 0.5)


@pytest.fixture
def folder(tmp_path):
    return write_exploration(tmp_path / "org.example")


def test_the_graph_is_what_was_explored(folder):
    graph = load(folder)
    assert graph.start == "main" and len(graph.screens) == 8
    assert graph.follow("main", TOP) == "settings" and graph.follow("main", BOTTOM) == "about"
    assert graph.follow("main", MIDDLE) is None and graph.follow("settings", BOTTOM) is None
    assert graph.follow("settings", Action.back()) == "main" and graph.follow("main", Action.back()) is None
    assert graph.follow("about", Action.swipe("up")) == "licence", (
        "to see what lies below, the finger goes up"
    )
    assert graph.follow("about", Action.swipe("down")) is None
    assert graph.follow("licence", Action.type_text("Hello")) == "about"
    assert graph.follow("licence", Action.type_text("bye")) is None
    assert graph.follow("about", Action.open_app("org.example")) == "main"
    assert graph.follow("main", Action.long_press(0.35, 0.5)) == "main"
    for edge in graph.edges:
        assert graph.follow(edge.start, edge.action) == edge.end


def test_an_action_that_nobody_recorded_changes_nothing_and_is_told(folder):
    device = Replay(load(folder), (64, 32))
    device.reset(tasks(folder)[0], seed=0)
    for action in (MIDDLE, Action.enter(), Action.swipe("left"), Action.type_text("x")):
        before = device.observe().screenshot
        device.execute(action)
        assert device.report.sent == "nothing" and device.report.notes == ("unrecorded",)
        assert np.array_equal(device.observe().screenshot, before) and before.shape == (64, 32, 3)
    device.execute(TOP)
    assert device.report.sent == "executed" and device.report.notes == () and device.at == "settings"


def test_tasks_are_reachable_screens_the_oracle_takes_the_shortest_way_and_chance_does_not(folder):
    made = tasks(folder, held_out=2)
    assert [task.params["screen"] for task in made] == ["sound", "licence", "ringtone"], "no island"
    assert [task.split for task in made] == ["train", "test_screen", "train"]
    assert "'Volume'" in made[0].goal
    env = AndroidEnv(Replay(load(folder), (64, 32)), made)
    for task in made:
        env.reset(seed=0, options={"task": task})
        steps = 3 if task is made[2] else 2
        outcomes = [env.step(env.device.best_action())[4]["outcome"] for _ in range(steps)]
        assert outcomes == ["", "", "success"][-steps:]
    env.reset(seed=0, options={"task": made[0]})
    assert env.step(Action.complete())[4]["outcome"] == "failure"
    for name in ("random", "explore"):
        rng = np.random.default_rng(0)
        env.reset(seed=0, options={"task": made[1]})
        ways = [SCRIPTED[name](env.device, rng) for _ in range(40)]
        assert len({action.type for action in ways}) > 1


def test_tasks_load_by_folder_and_split(folder, tmp_path):
    assert len(load_tasks(folder)) == 3
    assert {t.split for t in load_tasks(f"{folder}#train")} == {"train"}
    with pytest.raises(TaskError, match="splits"):
        load_tasks(f"{folder}#tune")
    (folder / "utg.js").write_text("var utg = {}")
    with pytest.raises(TaskError, match="cannot be read"):
        load_tasks(folder)


def test_our_own_recordings_are_graphs_too(folder, tmp_path):
    """Played on one replay device, recorded, and played again on a device made of that recording."""
    task = tasks(folder)[0]
    device = Replay(load(folder), (64, 32))
    env = AndroidEnv(device, [task])
    seen, _ = env.reset(seed=0)
    recorder = Recorder(
        tmp_path / "recordings", episode_id="e#0", task=task, seed=0, device="replay", policy="oracle",
        screen_hw=device.screen_hw,
    )  # fmt: skip
    recorder.seen(seen)
    for action in (MIDDLE, TOP, TOP):
        seen, reward, *_, info = env.step(action)
        recorder.acted(action, executed=True, reward=reward, verdict=info["outcome"])
        recorder.seen(seen)
    recorder.end("success")
    graph = load(tmp_path / "recordings")
    assert len(graph.screens) == 3
    first = graph.follow(graph.start, TOP)
    assert first is not None and first != graph.start and graph.follow(first, TOP) not in (None, first)
    assert graph.follow(graph.start, Action.tap(0.3, 0.2)) == first, (
        "anywhere on the element that was touched"
    )
    assert graph.follow(graph.start, MIDDLE) == graph.start
    assert graph.follow(graph.start, BOTTOM) is None
    (made,) = tasks(tmp_path / "recordings")
    replayed = Replay(graph, (64, 32))
    replayed.reset(made, seed=0)
    replayed.execute(replayed.best_action())
    replayed.execute(replayed.best_action())
    assert replayed.verdict() == "success"
    assert json.loads(replayed.observe().ui_elements) and ActionType.DRAG not in replayed.actions


def test_the_clock_makes_no_other_screen_and_episodes_begin_where_most_of_them_began(folder, tmp_path):
    task = tasks(folder)[0]
    device = Replay(load(folder), (64, 32))
    env = AndroidEnv(device, [task])
    for minute, before in enumerate(((TOP,), (), ())):
        seen, _ = env.reset(seed=0)
        for action in before:  # one recording that begins elsewhere
            seen, *_ = env.step(action)
        recorder = Recorder(
            tmp_path / "recordings", episode_id=f"e#{minute}", task=task, seed=0, device="android",
            policy="oracle", screen_hw=device.screen_hw,
        )  # fmt: skip
        for action in (TOP, None):
            screenshot = np.array(seen["screenshot"])
            screenshot[0, minute] = 255 - screenshot[0, minute]
            recorder.seen({**seen, "screenshot": screenshot})
            if action is not None:
                seen, reward, *_, info = env.step(action)
                recorder.acted(action, executed=True, reward=reward, verdict=info["outcome"])
        recorder.end("truncated")
    graph = load(tmp_path / "recordings")
    assert len(graph.screens) == 3
    begun, led = graph.start, graph.follow(graph.start, TOP)
    assert led is not None and graph.follow(led, TOP) not in (None, begun, led)
