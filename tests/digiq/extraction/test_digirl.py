"""DigiRL's filter against numbers worked out by hand."""

import numpy as np
import pytest

from android_env.actions import Action
from digiq.errors import ConfigError
from digiq.extraction.base import States, Values
from digiq.extraction.digirl import DigiRL, best_trajectories, code_advantages, step_advantages


def test_late_steps_are_judged_by_the_outcome_and_early_ones_by_the_change_of_value():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.2, 0.6, 0.5, 0.0])
    found = step_advantages(rewards, values, decay=0.5, gamma=1.0)
    # λ^2 = .25: .25·1 + .75·(.6 - .2); λ = .5: .5·1 + .5·(.5 - .6); last: 1·1.
    assert found == pytest.approx([0.25 + 0.75 * 0.4, 0.5 + 0.5 * -0.1, 1.0])


def test_the_ends_of_the_decay():
    rewards, values = np.array([0.0, 1.0]), np.array([0.3, 0.4, 0.0])
    assert step_advantages(rewards, values, 1.0, 0.9) == pytest.approx([1.0, 1.0])
    # With λ = 0 only the last step keeps the outcome (0^0 = 1).
    assert step_advantages(rewards, values, 0.0, 0.9) == pytest.approx([0.9 * 0.4 - 0.3, 1.0])


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="one more"):
        step_advantages(np.zeros(2), np.zeros(2), 0.5, 1.0)


def test_best_trajectories_exceed_what_was_expected_most():
    keep = best_trajectories(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.9, 0.1, -0.3, 0.8]), share=0.5)
    assert keep.tolist() == [False, True, True, False]
    assert best_trajectories(np.zeros(3), np.zeros(3), share=0.01).sum() == 1


def three_episodes(bootstraps: bool) -> States:
    """A success of two steps, one that ran out after two, a failure of one; numbered with gaps."""
    episode = np.array([3, 3, 5, 5, 5, 8], np.int32)
    logged = [Action.tap(0.1, 0.1), Action.back(), Action.home(), Action.enter(), None, Action.complete()]
    return States(
        episode=episode,
        step=np.array([0, 1, 0, 1, 2, 0], np.int32),
        group=episode,
        logged=tuple(logged),
        reward=np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        total=np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        terminated=np.array([True, True, False, False, False, True]),
        values=Values(
            q=None,
            v=np.array([0.5, 0.8, 0.2, 0.4, 0.9, 0.1], np.float32),
            baseline="v",
            discount=1.0,
            bootstraps=bootstraps,
        ),
    )


@pytest.mark.parametrize(("bootstraps", "rows"), [(True, [0, 1, 2, 3]), (False, [0, 1, 2])])
def test_steps_are_judged_within_their_own_episode(bootstraps, rows):
    # By the change of value: .3, then the outcome 1; .2, then .5 to the last screen, or nothing where time-outs are worth 0.
    states = three_episodes(bootstraps)
    found = DigiRL(decay=0.0 if not bootstraps else 0.5, threshold=0.05).select(
        states, np.random.default_rng(0)
    )
    expected = [
        start + int(t)
        for start, count, after in ((0, 2, 0.0), (2, 2, 0.9 if bootstraps else 0.0), (5, 1, 0.0))
        for t in np.flatnonzero(
            step_advantages(
                states.reward[start : start + count],
                np.append(states.values.v[start : start + count].astype(float), after),
                0.5 if bootstraps else 0.0,
                1.0,
            )
            > 0.05
        )
    ]
    assert found.row.tolist() == expected and set(expected) <= set(rows)
    assert found.considered == 5 and found.action == [states.logged[row] for row in found.row]


def test_only_the_best_trajectories_are_looked_at():
    found = DigiRL(threshold=-9.0, trajectories=0.34).select(three_episodes(True), np.random.default_rng(0))
    assert found.row.tolist() == [0, 1] and found.report == {"trajectories": 1}


def test_the_form_of_the_authors_code_adds_the_return_to_the_change_of_value():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.2, 0.6, 0.5, 0.0])
    found = code_advantages(rewards, values, gamma=0.9)
    assert found == pytest.approx([0.4 + 0.81, -0.1 + 0.9, 1.0 - 0.5 + 1.0])
    assert code_advantages(np.zeros(0), np.zeros(1), 0.9).shape == (0,)


def test_the_form_of_the_authors_code_looks_at_all_trajectories_of_the_highest_return():
    def rows(share: float) -> list[int]:
        filtered = DigiRL(form="code", trajectories=share)
        return filtered.select(three_episodes(True), np.random.default_rng(0)).row.tolist()

    assert rows(0.1) == [0, 1]  # the only success
    # Of all three, also the steps whose value rises by more than 0.05: .2 to .4, and .4 to .9 at the cut.
    assert rows(1.0) == [0, 1, 2, 3]


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_the_decay_is_a_share(decay):
    with pytest.raises(ConfigError, match="decay"):
        DigiRL(decay=decay)
