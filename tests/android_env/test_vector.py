"""AndroidEnv in gymnasium's vector environments."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from android_env.actions import Action
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from android_env.env import ACTION_TYPES, AndroidEnv
from android_env.tasks import load_tasks

TASKS = load_tasks("webshop/train")
NUM = 3


def vector(budget=3, **options):
    def make():
        return AndroidEnv(SimulatedPhone(noise=NO_NOISE, render=False), TASKS, max_steps=budget)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return SyncVectorEnv([make] * NUM, **options)


@pytest.fixture
def envs():
    made = vector()
    yield made
    made.close()


def idle_actions(envs, kinds=None):
    """A batch of taps on the status bar, in the form that the vector environment's action space has."""
    sample = envs.action_space.sample()
    sample["type"][:] = ACTION_TYPES.index(Action.back().type) if kinds is None else kinds
    return sample


def test_observations_and_actions_are_batched_and_contained(envs):
    observations, infos = envs.reset(seed=[5, 6, 7])
    assert observations["screenshot"].shape == (NUM, 320, 192, 3)
    assert len(set(observations["goal"])) == NUM and all(
        isinstance(goal, str) for goal in observations["goal"]
    )
    assert envs.observation_space.contains(observations)
    assert list(infos["step"]) == [0] * NUM
    assert envs.action_space.contains(envs.action_space.sample())


def test_seeds_are_each_environments_own(envs):
    observations, _ = envs.reset(seed=[5, 6, 7])
    for index, seed in enumerate([5, 6, 7]):
        single = AndroidEnv(SimulatedPhone(noise=NO_NOISE, render=False), TASKS)
        assert single.reset(seed=seed)[0]["goal"] == observations["goal"][index]


def test_budgets_truncate_exactly_and_the_next_step_resets(envs):
    envs.reset(seed=1)
    for number in range(1, 4):
        _, rewards, terminated, truncated, infos = envs.step(idle_actions(envs))
        assert list(infos["step"]) == [number] * NUM and not terminated.any() and not rewards.any()
        assert truncated.all() == (number == 3) == truncated.any()
    assert list(infos["outcome"]) == ["truncated"] * NUM
    _, rewards, terminated, truncated, infos = envs.step(idle_actions(envs))
    assert list(infos["step"]) == [0] * NUM and not (terminated | truncated).any() and not rewards.any()


def test_one_environment_ends_without_the_others(envs):
    envs.reset(seed=1)
    back, complete = (ACTION_TYPES.index(a.type) for a in (Action.back(), Action.complete()))
    _, _, terminated, truncated, infos = envs.step(idle_actions(envs, [back, complete, back]))
    assert list(terminated) == [False, True, False] and not truncated.any()
    assert list(infos["outcome"]) == ["", "failure", ""]
    *_, infos = envs.step(idle_actions(envs))
    assert list(infos["step"]) == [2, 0, 2]


def test_same_step_reset_keeps_the_last_observation():
    envs = vector(budget=1, autoreset_mode=AutoresetMode.SAME_STEP)
    before, _ = envs.reset(seed=1)
    after, _, _, truncated, infos = envs.step(idle_actions(envs))
    assert truncated.all() and list(infos["final_info"]["outcome"]) == ["truncated"] * NUM
    assert [o["goal"] for o in infos["final_obs"]] == list(before["goal"]) != list(after["goal"])
    envs.close()


def test_random_actions_stay_inside_the_spaces():
    envs = vector(budget=6)
    envs.action_space.seed(3)
    envs.reset(seed=3)
    for _ in range(25):
        observations, rewards, *_ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observations)
        assert rewards.dtype == np.float64 and set(rewards) <= {0.0, 1.0}
    envs.close()


def test_it_is_an_ordinary_gymnasium_environment():
    env = gym.wrappers.RecordEpisodeStatistics(AndroidEnv(SimulatedPhone(render=False), TASKS, max_steps=2))
    env.reset(seed=0)
    env.step(Action.back())
    assert env.step(Action.back())[4]["episode"]["l"] == 2
