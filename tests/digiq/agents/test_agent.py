"""Test-time Best-of-N: which candidate is played, and when the policy's own choice stands."""

from __future__ import annotations

import math

import numpy as np
import pytest

from android_env.actions import Action
from digiq.agents.agent import Agent, EachTurn, ScriptedAgent, Turn
from digiq.policies.base import Candidate, PolicyInput

A, B, C = Action.tap(0.1, 0.1), Action.tap(0.5, 0.5), Action.back()


class FixedPolicy:
    """Always draws A, B, A, C, as many of them as asked for."""

    def sample(self, inputs, n, rng, temperature=1.0):
        self.asked = n, temperature
        row = [Candidate(A, -0.5), Candidate(B, -1.5), Candidate(A, -0.5), Candidate(C, -2.5)]
        return [row[:n] for _ in inputs]


class TableScorer:
    def __init__(self, values, v=0.0):
        self.values, self.v, self.seen = values, v, []

    def score(self, observation, candidates):
        self.seen.append(list(candidates))
        return np.array([self.values[c] for c in candidates], np.float32), self.v


def turns(count=1):
    pixels = np.zeros((4, 4, 3), np.uint8)
    return [Turn(PolicyInput(pixels, "goal"), np.random.default_rng(i)) for i in range(count)]


def test_without_a_scorer_one_sample_is_played_with_its_probability():
    policy = FixedPolicy()
    decisions = Agent(policy, temperature=0.7).act(turns(3))
    assert [(d.action, d.log_prob) for d in decisions] == [(A, -0.5)] * 3
    assert policy.asked == (1, 0.7)


def test_the_best_distinct_candidate_is_played_and_its_probability_is_unknown():
    scorer = TableScorer({A: 0.1, B: 0.2, C: 0.9})
    (decision,) = Agent(FixedPolicy(), EachTurn(scorer), num_candidates=4).act(turns())
    assert decision.action == C and math.isnan(decision.log_prob)
    assert scorer.seen == [[A, B, C]]
    assert decision.candidates == (A, B, C) and decision.q == pytest.approx((0.1, 0.2, 0.9))


@pytest.mark.parametrize(("v", "played"), [(0.3, C), (0.5, A)])
def test_below_the_threshold_the_policys_own_sample_stands(v, played):
    scorer = TableScorer({A: 0.1, B: 0.2, C: 0.9}, v)
    (decision,) = Agent(FixedPolicy(), EachTurn(scorer), num_candidates=4, threshold=0.5).act(turns())
    assert decision.action == played
    assert math.isnan(decision.log_prob) == (played == C)


def test_ties_go_to_the_earlier_sample():
    scorer = TableScorer({A: 0.4, B: 0.4, C: 0.4})
    (decision,) = Agent(FixedPolicy(), EachTurn(scorer), num_candidates=4).act(turns())
    assert decision.action == A


def test_scripted_agents_read_the_device():
    def choose(device, rng):
        return device["best"], math.log(0.5)

    pixels = PolicyInput(np.zeros((4, 4, 3), np.uint8), "goal")
    turn = Turn(pixels, np.random.default_rng(0), device={"best": B})
    (decision,) = ScriptedAgent(choose, "oracle").act([turn])
    assert (decision.action, decision.log_prob) == (B, math.log(0.5))
