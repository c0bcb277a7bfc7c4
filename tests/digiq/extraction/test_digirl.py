"""DigiRL's filter against numbers worked out by hand."""

import numpy as np
import pytest

from digiq.extraction.digirl import best_trajectories, step_advantages


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
