"""The random scorer: a baseline that must not know anything."""

import dataclasses

import numpy as np

from android_env.actions import Action
from digiq.critics.scorer import RandomScorer
from digiq.policies.base import PolicyInput

SCREEN = PolicyInput(screenshot=np.zeros((4, 3, 3), np.uint8), goal="Go to the shop")
ACTIONS = [Action.tap(0.5, 0.5), Action.back(), Action.tap(0.5, 0.5), Action.type_text("shoes")]


def test_equal_candidates_tie_and_order_does_not_matter():
    q, v = RandomScorer(seed=1).score(SCREEN, ACTIONS)
    assert q[0] == q[2]
    assert len(set(q.tolist())) == 3
    assert v == 0.5
    np.testing.assert_array_equal(RandomScorer(seed=1).score(SCREEN, ACTIONS[::-1])[0], q[::-1])


def test_seed_goal_and_screen_change_the_draw():
    first = RandomScorer(seed=1).score(SCREEN, ACTIONS)[0]
    other_goal = dataclasses.replace(SCREEN, goal="Go home")
    other_screen = dataclasses.replace(SCREEN, screenshot=np.ones((4, 3, 3), np.uint8))
    for q in (
        RandomScorer(seed=2).score(SCREEN, ACTIONS)[0],
        RandomScorer(seed=1).score(other_goal, ACTIONS)[0],
        RandomScorer(seed=1).score(other_screen, ACTIONS)[0],
    ):
        assert np.all(q != first)


def test_values_are_uniform():
    many = [Action.tap(y, x) for y in np.linspace(0, 1, 60) for x in np.linspace(0, 1, 60)]
    q, _ = RandomScorer().score(SCREEN, many)
    assert abs(q.mean() - 0.5) < 0.02
    assert abs(q.std() - 12**-0.5) < 0.01
