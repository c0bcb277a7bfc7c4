"""Transitions and returns, against rows counted by hand."""

import numpy as np
import pytest

from digiq.data.transitions import build_transitions, observation_index, returns
from tests.digiq.data.test_store import ACTIONS, make_episode

EPISODES = [
    make_episode("done", ACTIONS[:3], terminal=True, reward=1.0),
    make_episode("cut", ACTIONS[:2], terminal=False, reward=0.0),
    make_episode("short", ACTIONS[:1], terminal=True, reward=0.5),
]


def test_every_non_terminal_observation_counts():
    expected = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert observation_index(EPISODES).tolist() == [list(row) for row in expected]


@pytest.mark.parametrize(
    ("timeout", "next_obs", "terminated"),
    [
        ("terminal", [1, 2, -1, 4, -1, -1], [0, 0, 1, 0, 1, 1]),
        ("bootstrap", [1, 2, -1, 4, 5, -1], [0, 0, 1, 0, 0, 1]),
    ],
)
def test_rows_and_timeouts(timeout, next_obs, terminated):
    rows = build_transitions(EPISODES, timeout=timeout)
    assert rows.obs.tolist() == [0, 1, 2, 3, 4, 6]
    assert rows.next_obs.tolist() == next_obs
    assert rows.terminated.tolist() == [bool(t) for t in terminated]
    assert rows.truncated.tolist() == [False, False, False, False, True, False]
    assert rows.reward.tolist() == [0, 0, 1, 0, 0, 0.5]
    assert rows.episode.tolist() == [0, 0, 0, 1, 1, 2]
    assert rows.step.tolist() == [0, 1, 2, 0, 1, 0]


def test_returns_stop_at_episode_ends():
    rows = build_transitions(EPISODES)
    np.testing.assert_allclose(returns(rows, 0.5), [0.25, 0.5, 1.0, 0.0, 0.0, 0.5])


def test_no_episodes_give_no_rows():
    assert len(build_transitions([])) == 0
    assert observation_index([]).shape == (0, 2)
