"""AndroidEnv: gymnasium's contract, exact budgets, verdicts, clear errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from android_env.actions import Action
from android_env.devices.simulated.collector import SCRIPTED, draw
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from android_env.env import AndroidEnv, action_from_sample
from android_env.errors import ActionError, EpisodeError, TaskError
from android_env.tasks import load_tasks

TASKS = load_tasks("webshop/train")
NOWHERE = Action.tap(0.02, 0.5)


def make_env(**options) -> AndroidEnv:
    success = options.pop("success", "on_reach")
    return AndroidEnv(SimulatedPhone(noise=NO_NOISE, success=success, render=False), TASKS, **options)


def play(env, name, seed=0, **options):
    rng = np.random.default_rng(seed)
    env.reset(seed=seed, options=options)
    while True:
        result = env.step(draw(SCRIPTED[name](env.device.display), rng)[0])
        if result[2] or result[3]:
            return result


def test_gymnasium_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*alternative render modes.*")
        check_env(AndroidEnv(SimulatedPhone(), TASKS))


def test_random_samples_are_actions():
    env = AndroidEnv(SimulatedPhone(render=False), TASKS)
    env.action_space.seed(1)
    env.reset(seed=1)
    kinds = set()
    for _ in range(60):
        sample = env.action_space.sample()
        *_, terminated, truncated, info = env.step(sample)
        assert info["executed"] == action_from_sample(sample)
        kinds.add(info["executed"].type)
        if terminated or truncated:
            env.reset()
    assert len(kinds) > 6


@pytest.mark.parametrize("budget", [None, 1, 7])
def test_a_budget_of_n_is_n_executed_actions(budget):
    env = make_env(max_steps=budget)
    env.reset(seed=0)
    wanted = budget or env.task.max_steps
    for number in range(1, wanted + 1):
        _, reward, terminated, truncated, info = env.step(NOWHERE)
        assert info["step"] == number and reward == 0 and not terminated
        assert truncated == (number == wanted)
    assert info["outcome"] == "truncated"


def test_the_last_action_of_the_budget_may_succeed():
    steps = play(make_env(), "oracle")[4]["step"]
    task = TASKS.tasks[0]
    _, reward, terminated, truncated, info = play(make_env(max_steps=4), "oracle", task=task)
    assert (reward, terminated, truncated, info["outcome"]) == (1.0, True, False, "success")
    assert steps >= info["step"] == 4
    assert play(make_env(max_steps=3), "oracle", task=task)[4]["outcome"] == "truncated"


def test_reaching_ends_the_episode_or_declaring_does():
    reach = play(make_env(), "oracle", task=TASKS[5])[4]
    declare = play(make_env(success="on_declare"), "oracle", task=TASKS[5])[4]
    assert reach["outcome"] == declare["outcome"] == "success"
    assert declare["executed"] == Action.complete() and declare["step"] == reach["step"] + 1


@pytest.mark.parametrize("success", ["on_reach", "on_declare"])
@pytest.mark.parametrize("action", [Action.complete(), Action.impossible()])
def test_declaring_too_early_fails(success, action):
    env = make_env(success=success)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(action)
    assert terminated and reward == 0 and info["outcome"] == "failure"
    with pytest.raises(EpisodeError, match="reset"):
        env.step(NOWHERE)


def test_tasks_are_chosen_by_option_and_else_by_seed():
    env = make_env()
    assert env.reset(seed=3, options={"task": TASKS[9]})[0]["goal"] == TASKS[9].goal
    assert env.reset(seed=3, options={"task": TASKS[8].task_id})[1]["task_id"] == TASKS[8].task_id
    assert len({env.reset(seed=seed)[1]["task_id"] for seed in range(12)}) > 4
    with pytest.raises(TaskError, match="nonsense"):
        env.reset(options={"task": "nonsense"})


def test_equal_seeds_give_equal_episodes():
    def trace(seed):
        env = AndroidEnv(SimulatedPhone(), TASKS)
        rng = np.random.default_rng(5)
        observation, _ = env.reset(seed=seed)
        seen = [observation["screenshot"]]
        for _ in range(6):
            observation, *_ = env.step(draw(SCRIPTED["collector"](env.device.display), rng)[0])
            seen.append(observation["screenshot"])
            if env._over:
                break
        return np.stack(seen)

    assert np.array_equal(trace(1), trace(1))
    assert not np.array_equal(trace(1)[0], trace(2)[0])


def test_misuse_is_a_clear_error():
    env = make_env()
    for call in (lambda: env.step(NOWHERE), env.render, lambda: env.task):
        with pytest.raises(EpisodeError, match="reset"):
            call()
    env.reset(seed=0)
    for nonsense in (3, {"type": 99}, {"type": 1, "touch_yx": [2.0, 0.0], "lift_yx": [0.0, 0.0], "text": ""}):
        with pytest.raises(ActionError):
            env.step(nonsense)
    with pytest.raises(TaskError, match="no tasks"):
        AndroidEnv(SimulatedPhone(), ())
    with pytest.raises(ValueError, match="max_steps"):
        make_env(max_steps=0)


def test_a_device_that_cannot_judge_needs_a_judge():
    class Mute:
        name, screen_hw = "mute", (320, 192)

        def __init__(self):
            self.phone = SimulatedPhone(render=False)
            self.reset, self.execute = self.phone.reset, self.phone.execute
            self.observe, self.close = self.phone.observe, self.phone.close

    env = AndroidEnv(Mute(), TASKS)
    env.reset(seed=0)
    with pytest.raises(TaskError, match="give AndroidEnv a judge"):
        env.step(NOWHERE)
    env = AndroidEnv(Mute(), TASKS, judge=lambda moment: "success")
    env.reset(seed=0)
    assert env.step(NOWHERE)[1] == 1.0
