"""Off-policy estimates against the exact values of a small MDP.

Two states, two actions, three steps. A log that holds every possible episode exactly as often as the behaviour makes it has
no sampling error, so the estimates must equal the policy's true value, and not only come near it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from android_env.actions import Action
from digiq.data.transitions import observation_index
from digiq.errors import DigiQError
from digiq.evaluation.off_policy import (
    cross_fitted,
    doubly_robust,
    effective_episodes,
    fitted_q,
    model_value,
    ratios,
    weighted_importance,
    weights,
)
from digiq.evaluation.offline import OfflineConfig, estimates
from digiq.features.extract import Features
from digiq.policies.base import Candidate
from digiq.proposals.propose import to_arrays
from tests.digiq.data.test_store import make_episode

STEPS, GAMMA = 3, 0.9
BEHAVIOR = np.array([[0.25, 0.75], [0.5, 0.5]])
POLICY = np.array([[0.9, 0.1], [0.2, 0.8]])
MOVES = np.array([[[1.0, 0.0], [0.25, 0.75]], [[0.5, 0.5], [0.0, 1.0]]])  # [state, action, next]
PAYS = np.array([[0.0, 1.0], [2.0, 1.5]])
CELLS = STEPS * 2 * 2


def exact() -> np.ndarray:
    """V of each state at each step, by backward induction; float64[STEPS + 1, 2]."""
    v = np.zeros((STEPS + 1, 2))
    for t in reversed(range(STEPS)):
        v[t] = (POLICY * (PAYS + GAMMA * MOVES @ v[t + 1])).sum(axis=1)
    return v


def every_episode() -> list[list[tuple[int, int]]]:
    """Each path of states and actions from state 0, as often as in 1,024 episodes of the behaviour."""
    found = []
    for actions in itertools.product((0, 1), repeat=STEPS):
        for states in itertools.product((0, 1), repeat=STEPS - 1):
            path = list(zip((0, *states), actions, strict=True))
            chance = float(np.prod([BEHAVIOR[s, a] for s, a in path]))
            chance *= float(np.prod([MOVES[s, a, n] for (s, a), (n, _) in itertools.pairwise(path)]))
            times = chance * 1024
            assert times == int(times)
            found += [path] * int(times)
    assert len(found) == 1024
    return found


def sampled(count: int, seed: int) -> list[list[tuple[int, int]]]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        path, state = [], 0
        for _ in range(STEPS):
            action = int(rng.random() < BEHAVIOR[state, 1])
            path.append((state, action))
            state = int(rng.random() < MOVES[state, action, 1])
        found.append(path)
    return found


def cell(t: int, s: int, a: int) -> int:
    return (t * 2 + s) * 2 + a


class Log:
    """The arrays that the estimates take, with one feature for each step, state and action."""

    def __init__(self, paths):
        rows = [(e, t, s, a) for e, path in enumerate(paths) for t, (s, a) in enumerate(path)]
        self.episode, t, s, a = np.array(rows).T
        self.reward = PAYS[s, a]
        self.discount = np.where(t == STEPS - 1, 0.0, GAMMA)
        self.behavior, self.policy = np.log(BEHAVIOR[s, a]), np.log(POLICY[s, a])
        self.features = np.eye(CELLS)[[cell(*row) for row in zip(t, s, a, strict=True)]]
        self.here = np.zeros((len(rows), CELLS))
        for k, (time, state) in enumerate(zip(t, s, strict=True)):
            for action in (0, 1):
                self.here[k, cell(time, state, action)] = POLICY[state, action]
        self.following = np.roll(self.here, -1, axis=0)
        self.weights = weights(self.episode, self.discount, ratios(self.policy, self.behavior))


@pytest.fixture(scope="module")
def whole() -> Log:
    return Log(every_episode())


def test_fqe_is_the_true_q(whole):
    found = fitted_q(whole.features, whole.following, whole.reward, whole.discount, ridge=1e-12)
    v = exact()
    for t, s, a in itertools.product(range(STEPS), (0, 1), (0, 1)):
        if t == 0 and s == 1:
            continue  # no episode starts there
        assert found[cell(t, s, a)] == pytest.approx(PAYS[s, a] + GAMMA * MOVES[s, a] @ v[t + 1], abs=1e-7)
    told = model_value(whole.episode, whole.here @ found)
    assert told.value == pytest.approx(v[0, 0], abs=1e-7)


def test_wis_is_the_true_value_and_what_was_logged_is_not(whole):
    told = weighted_importance(whole.weights, whole.reward)
    assert told.value == pytest.approx(exact()[0, 0], abs=1e-9)
    same = weights(whole.episode, whole.discount, np.ones(len(whole.reward)))
    logged = weighted_importance(same, whole.reward)
    assert abs(logged.value - exact()[0, 0]) > 0.1
    assert effective_episodes(same) == pytest.approx(1024)
    assert 20 < effective_episodes(whole.weights) < 500


@pytest.mark.parametrize("model", ["right", "zero", "wrong"])
def test_doubly_robust_is_right_whatever_the_model(whole, model):
    rng = np.random.default_rng(0)
    fitted = fitted_q(whole.features, whole.following, whole.reward, whole.discount, ridge=1e-12)
    w = {"right": fitted, "zero": np.zeros(CELLS), "wrong": rng.normal(size=CELLS)}[model]
    told = doubly_robust(whole.weights, whole.reward, whole.features @ w, whole.here @ w)
    assert told.value == pytest.approx(exact()[0, 0], abs=1e-7)


def sampled_estimates(count: int, seed: int):
    log = Log(sampled(count, seed))
    q, v = cross_fitted(log.episode, log.features, log.following, log.here, log.reward, log.discount)
    return weighted_importance(log.weights, log.reward), doubly_robust(log.weights, log.reward, q, v)


def test_intervals_hold_the_truth_as_often_as_they_say_and_shrink():
    truth, few = exact()[0, 0], [sampled_estimates(200, seed) for seed in range(20)]
    for each in zip(*few, strict=True):
        assert sum(e.low < truth < e.high for e in each) >= 16
    widths = [[e.high - e.low for e in pair] for pair in (few[0], sampled_estimates(3200, 0))]
    assert all(wide > 2 * narrow for wide, narrow in zip(*widths, strict=True))
    assert widths[1][1] < widths[1][0]  # a good model takes noise away


def test_episodes_of_different_lengths_end_where_they_end():
    """One pays 1 at once, one pays 1 after two steps: (1 + γ²) / 2 under equal weights."""
    episode, reward = np.array([0, 1, 1, 1]), np.array([1.0, 0, 0, 1])
    w = weights(episode, np.array([0, GAMMA, GAMMA, 0]), np.ones(4))
    assert weighted_importance(w, reward).value == pytest.approx((1 + GAMMA**2) / 2)
    zero = np.zeros(4)
    assert doubly_robust(w, reward, zero, zero).value == pytest.approx((1 + GAMMA**2) / 2)


def test_missing_log_probabilities_and_a_q_that_runs_away_are_said():
    with pytest.raises(DigiQError, match="no log-probability of 1 of 2 logged actions"):
        ratios(np.zeros(2), np.array([np.nan, -1.0]))
    with pytest.raises(DigiQError, match="raise ridge"):
        fitted_q(np.ones((2, 1)), np.full((2, 1), 3.0), np.ones(2), np.ones(2))


ACTIONS = (Action.back(), Action.home())


class Reader:
    """The policy of the MDP, which reads step and state in the goal."""

    def log_prob(self, inputs, actions, temperature=1.0):
        states = [int(seen.goal.split()[1]) for seen in inputs]
        return np.log([POLICY[s, ACTIONS.index(a)] for s, a in zip(states, actions, strict=True)])


def as_episodes(paths):
    """The log as the store has it, with candidates of both actions and a feature for each cell."""
    episodes, candidates, pairs, rows = [], [], [], []
    for number, path in enumerate(paths):
        made = make_episode(f"e{number}", [ACTIONS[a] for _, a in path])
        steps = [
            dataclasses.replace(
                step, goal=f"{t} {s}", reward=PAYS[s, a], behavior_log_prob=float(np.log(BEHAVIOR[s, a]))
            )
            for t, (step, (s, a)) in enumerate(zip(made.steps, path, strict=False))
        ]
        episodes.append(dataclasses.replace(made, split="test", steps=(*steps, made.steps[-1])))
        for t, (s, a) in enumerate(path):
            candidates.append([Candidate(ACTIONS[a], 0.0), Candidate(ACTIONS[1 - a], 0.0)])
            rows.append([len(pairs), len(pairs) + 1])
            pairs += [np.eye(CELLS)[cell(t, s, a)], np.eye(CELLS)[cell(t, s, 1 - a)]]
    assert len(observation_index(episodes)) == len(rows)
    features = Features({"one": np.zeros((len(rows), 1))}, {"one": np.array(pairs)}, np.array(rows, np.int32))
    return episodes, to_arrays(candidates), features


def test_the_stage_estimates_stored_episodes():
    episodes, proposals, features = as_episodes(every_episode())
    config = OfflineConfig(estimate=("fqe", "wis", "dr"), gamma=GAMMA, ridge=1e-9)
    found = estimates(config, episodes, Reader(), proposals, features)
    for name in config.estimate:
        # Stored rewards and log-probabilities are float32; Q of either half is fitted on a sample of the log.
        assert found[name]["value"] == pytest.approx(exact()[0, 0], abs=0.05 if name == "dr" else 1e-5)
    assert found["logged"]["value"] != pytest.approx(exact()[0, 0], abs=0.1)
    silent = [
        dataclasses.replace(
            e, steps=tuple(dataclasses.replace(s, behavior_log_prob=math.nan) for s in e.steps)
        )
        for e in episodes[:4]
    ]
    wis = dataclasses.replace(config, estimate=("wis",))
    with pytest.raises(DigiQError, match="no log-probability of 12 of 12 logged actions"):
        estimates(wis, silent, Reader(), None, None)
    with pytest.raises(DigiQError, match="need --proposals"):
        estimates(dataclasses.replace(config, estimate=("fqe",)), episodes, Reader(), None, None)
