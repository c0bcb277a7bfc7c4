"""Entropy and divergence against the sums that they estimate."""

import numpy as np
import pytest

from android_env.actions import Action
from digiq.policies.base import Candidate, PolicyInput
from digiq.policies.divergence import FLOOR, divergence

ACTIONS = [Action.back(), Action.home(), Action.enter()]


class Table:
    """A policy that does the same wherever it is."""

    def __init__(self, *probabilities):
        self.p = np.array(probabilities)

    def sample(self, inputs, n, rngs, temperature=1.0):
        drawn = [rng.choice(len(self.p), n, p=self.p) for rng in rngs]
        return [[Candidate(ACTIONS[k], float(np.log(self.p[k]))) for k in row] for row in drawn]

    def log_prob(self, inputs, actions, temperature=1.0):
        assert len(inputs) == len(actions)
        with np.errstate(divide="ignore"):
            return np.log(self.p[[ACTIONS.index(action) for action in actions]])


INPUTS = [PolicyInput(np.zeros((2, 2, 3), np.uint8), f"goal {k}") for k in range(400)]


def test_they_estimate_the_sums():
    p, q = Table(0.7, 0.2, 0.1), Table(0.3, 0.3, 0.4)
    found = divergence(p, q, INPUTS, draws=50)
    assert found.entropy == pytest.approx(-(p.p * np.log(p.p)).sum(), abs=0.02)
    assert found.kl == pytest.approx((p.p * np.log(p.p / q.p)).sum(), abs=0.03)
    assert divergence(q, p, INPUTS, draws=50).kl == pytest.approx((q.p * np.log(q.p / p.p)).sum(), abs=0.03)


def test_from_itself_a_policy_is_exactly_nothing_away():
    p = Table(0.7, 0.2, 0.1)
    assert divergence(p, p, INPUTS[:5]).kl == 0


def test_what_the_other_cannot_do_is_far_and_finite():
    found = divergence(Table(1.0, 0.0, 0.0), Table(0.0, 0.5, 0.5), INPUTS[:5])
    assert found.kl == pytest.approx(-FLOOR - 1) and found.entropy == 0


def test_draws_depend_on_the_seed_alone():
    p, q = Table(0.7, 0.2, 0.1), Table(0.3, 0.3, 0.4)
    assert divergence(p, q, INPUTS[:20]) == divergence(p, q, INPUTS[:20])
    assert divergence(p, q, INPUTS[:20]) != divergence(p, q, INPUTS[:20], seed=1)
