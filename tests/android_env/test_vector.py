"""AndroidEnv in gymnasium's vector environments."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from android_env.actions import Action
from android_env.devices import StepReport
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from android_env.env import ACTION_TYPES, AndroidEnv, StepInfo
from android_env.tasks import load_tasks

TASKS = load_tasks("webshop/train")
NUM = 3


def make(budget=3):
    return AndroidEnv(SimulatedPhone(noise=NO_NOISE, render=False), TASKS, max_steps=budget)


def vector(budget=3, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return SyncVectorEnv([partial(make, budget)] * NUM, **options)


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


def test_environments_in_processes_of_their_own_say_the_same(envs):
    # "spawn": a process with threads must not be forked. Such a process cannot import this file: a function made here
    # travels whole, one of the module would travel as its name.
    def make_there():
        return AndroidEnv(SimulatedPhone(noise=NO_NOISE, render=False), TASKS, max_steps=3)

    apart = AsyncVectorEnv([make_there] * NUM, shared_memory=False, context="spawn")
    try:
        here, there = envs.reset(seed=[5, 6, 7]), apart.reset(seed=[5, 6, 7])
        assert_same(here[0], there[0])
        assert set(here[1]) == set(there[1]) >= set(StepInfo.__annotations__)
        for _ in range(4):
            actions = idle_actions(envs)
            here, there = envs.step(actions), apart.step(actions)
            assert_same(here[0], there[0])
            assert [list(values) for values in here[1:4]] == [list(values) for values in there[1:4]]
            assert list(here[4]["outcome"]) == list(there[4]["outcome"])
    finally:
        apart.close()


def test_shared_memory_that_would_keep_texts_as_they_were_at_first_is_refused():
    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([make], context="spawn")


def assert_same(here, there):
    assert np.array_equal(here["screenshot"], there["screenshot"])
    assert all(here[name] == there[name] for name in ("goal", "activity", "ui_elements"))


def test_info_is_of_its_type():
    env = make()
    kinds = {
        "task_id": str,
        "step": int,
        "executed": Action | None,
        "outcome": str,
        "report": StepReport | None,
        "refused": str,
    }
    assert set(kinds) == set(StepInfo.__annotations__)
    for info in (env.reset(seed=0)[1], env.step(Action.back())[4], env.step(Action.complete())[4]):
        assert set(info) == set(kinds) and all(isinstance(info[name], kind) for name, kind in kinds.items())
        assert info["outcome"] in ("", "success", "failure", "truncated")
