"""MiniWoB++ on a real browser: each task is solved by its oracle and not by chance."""

from __future__ import annotations

import numpy as np
import pytest

from android_env.actions import Action
from android_env.appium.chromium import script
from android_env.appium.settle import SettleConfig
from android_env.devices.miniwob.scripts import by_chance, oracle
from android_env.env import AndroidEnv
from android_env.evaluators.page_reward import PageReward
from android_env.tasks import Task, load_tasks

TASKS = load_tasks("miniwob")
BY_PAGE = {task.params["page"]: task for task in TASKS}
AT_ONCE = SettleConfig(cap_s=0.0)
"""Chance does not look, so it need not wait."""

EVERY = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.params["page"])


def verdict_on(device):
    """What the open page says of itself."""
    return device.ask(device.dialect.verdict)


@EVERY
def test_the_oracle_solves_it_within_the_budget(miniwob, task):
    env = AndroidEnv(miniwob, TASKS)
    for seed in range(2):
        observation, _ = env.reset(seed=seed, options={"task": task})
        assert observation["goal"] and observation["goal"] != task.goal
        outcome = ""
        while not outcome:
            *_, info = env.step(oracle(miniwob))
            outcome = info["outcome"]
        assert outcome == "success", f"seed {seed}: {observation['goal']}"


@EVERY
def test_chance_hardly_ever_solves_it(miniwob, task, monkeypatch):
    monkeypatch.setattr(miniwob, "settle", AT_ONCE)
    won = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        miniwob.reset(task, seed=seed)
        verdict = None
        for _ in range(task.max_steps):
            miniwob.execute(by_chance(miniwob, rng))
            verdict = verdict_on(miniwob)
            if verdict:
                break
        won += verdict == "success"
    assert won <= 2


def test_a_seed_is_a_problem(miniwob):
    task = BY_PAGE["click-checkboxes"]
    shots = [miniwob.reset(task, seed=seed) for seed in (3, 4, 3)]
    assert np.array_equal(shots[0].screenshot, shots[2].screenshot) and shots[0].goal == shots[2].goal
    assert shots[0].goal != shots[1].goal


def test_pages_do_not_run_out_of_time(miniwob):
    miniwob.reset(BY_PAGE["click-link"], seed=0)
    assert miniwob.ask(lambda driver: script(driver, "return core.EPISODE_MAX_TIME")) > 1e9
    assert verdict_on(miniwob) is None and PageReward().answers(miniwob)


def test_who_leaves_finds_the_same_problem_again(miniwob):
    before = miniwob.reset(BY_PAGE["login-user"], seed=5)
    miniwob.execute(Action.home())
    home = miniwob.observe()
    assert home.activity == "chromium/home" and "Task" in home.ui_elements
    assert home.goal == before.goal and verdict_on(miniwob) is None
    miniwob.execute(oracle(miniwob))  # taps the link
    assert np.array_equal(miniwob.observe().screenshot, before.screenshot)


def test_a_wrong_answer_fails_and_so_does_giving_up(miniwob):
    task = BY_PAGE["click-dialog-2"]
    miniwob.reset(task, seed=0)
    wrong = [
        "const said = core.getUtterance();",
        "const button = [...document.querySelectorAll('.ui-dialog-buttonset button')]",
        ".find(e => !said.includes('\"' + e.textContent + '\"'));",
        "const box = button.getBoundingClientRect();",
        "return [(box.top + box.height / 2) / innerHeight, (box.left + box.width / 2) / innerWidth]",
    ]
    miniwob.execute(Action.tap(*miniwob.ask(lambda driver: script(driver, "\n".join(wrong)))))
    assert verdict_on(miniwob) == "failure"
    env = AndroidEnv(miniwob, TASKS)
    env.reset(seed=0, options={"task": task})
    _, reward, terminated, truncated, info = env.step(Action.complete())
    assert (reward, terminated, truncated, info["outcome"]) == (0.0, True, False, "failure")


@pytest.mark.parametrize("page", ["../core/core", "no-such-page", ""])
def test_a_task_cannot_name_what_is_no_page(miniwob, page):
    task = Task("miniwob/x", "x", "miniwob", 1, "train", {"page": page})
    with pytest.raises(ValueError, match="MiniWoB\\+\\+ has no page"):
        miniwob.reset(task, seed=0)
