"""Exact values as a scorer: the oracle of Best-of-N."""

from __future__ import annotations

import numpy as np
import pytest

from android_env.devices.simulated import collector, kernel
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from digiq.agents.agent import Agent, Turn
from digiq.agents.build import AgentConfig, DeviceConfig, build_agent, device_tasks, env_factory
from digiq.agents.devices.simulated import Simulated
from digiq.agents.oracle import ExactScorer
from digiq.agents.rollout import plan_episodes, rollout
from digiq.errors import ConfigError
from digiq.evaluation.evaluate import EvaluateConfig
from digiq.policies.base import Candidate, PolicyInput

TASKS = [task for task in device_tasks("webshop/train") if task.level == 2][:6]


class CollectorAsPolicy:
    """Cheats: draws from the collector on phones it is given, since a test cannot wait for a fitted policy."""

    def __init__(self):
        self.phones = []

    def sample(self, inputs, n, rng, temperature=1.0):
        return [
            [Candidate(*collector.collector_policy(phone, generator)) for _ in range(n)]
            for phone, generator in zip(self.phones, rng, strict=True)
        ]


class OnPhones(Agent):
    reads_device = True

    def act(self, turns):
        self.policy.phones = [turn.device for turn in turns]
        return super().act(turns)


def success(agent) -> float:
    runs = rollout(
        agent,
        plan_episodes(TASKS, 12, seed=0),
        env_factory(DeviceConfig(simulated=Simulated(noise=NO_NOISE)), TASKS),
        record=lambda _: False,
    )
    return float(np.mean([run.outcome == "success" for run in runs]))


def test_oracle_scored_best_of_n_beats_the_policy_and_the_oracle_always_succeeds():
    plain = success(OnPhones(CollectorAsPolicy()))
    best = success(OnPhones(CollectorAsPolicy(), ExactScorer(), num_candidates=8))
    assert best > plain + 0.3
    assert success(build_agent(AgentConfig(kind="oracle"))) == 1.0
    assert success(build_agent(AgentConfig(kind="homesick"))) == 0.0


def test_scores_are_the_simulators_own():
    phone = SimulatedPhone(render=False)
    phone.reset(TASKS[0], seed=3)
    good = phone.display.concrete(kernel.oracle(phone.state, TASKS[0]))
    bad = phone.display.concrete(("complete",))
    turn = Turn(
        PolicyInput(phone.observe().screenshot, TASKS[0].goal), np.random.default_rng(0), phone, step=2
    )
    ((q, v),) = ExactScorer(discount=0.95).score_turns([turn], [[good, bad]])
    assert q[1] == 0.0 and 0 < q[0] <= v + 1e-6
    late = Turn(turn.observation, turn.rng, phone, step=TASKS[0].max_steps - 1)
    assert ExactScorer().score_turns([late], [[good]])[0][0] == 0.0


def test_tables_are_kept_up_to_a_number():
    scorer, phone = ExactScorer(keep=2), SimulatedPhone(render=False)
    for seed in range(4):
        phone.reset(TASKS[0], seed=seed)
        turn = Turn(PolicyInput(phone.observe().screenshot, ""), np.random.default_rng(0), phone)
        scorer.score_turns([turn], [[phone.display.concrete(("home",))]])
    assert len(scorer._tables) == 2


def test_another_device_has_no_exact_values(tmp_path):
    exact = AgentConfig(scorer="best_values")
    with pytest.raises(ConfigError, match="simulated phone"):
        build_agent(exact, device=DeviceConfig(name="chromium"), policy=tmp_path)
    with pytest.raises(ConfigError, match="simulated phone"):
        EvaluateConfig(agent=exact, device=DeviceConfig(name="android"))
