"""Best-of-N: which candidate of which state is imitated."""

import numpy as np
import pytest

from digiq.errors import ConfigError
from digiq.extraction.best_of_n import BestOfN, best_of_n
from digiq.proposals.propose import supported

Q = np.array([[0.1, 0.5, 0.9], [0.3, 0.2, 0.1], [0.0, 0.6, 0.6]], np.float32)
BASELINE = np.array([0.2, 0.2, 0.2], np.float32)
VALID = np.ones((3, 3), bool)
LOG_PROB = np.log(np.array([[0.5, 0.3, 0.001], [0.2, 0.2, 0.2], [0.4, 0.02, 0.3]], np.float32))


def absolute(threshold: float, **fields) -> BestOfN:
    return BestOfN(threshold_mode="absolute", threshold=threshold, support=0.0, **fields)


def test_the_highest_q_is_chosen_and_kept_strictly_above_the_threshold():
    found = best_of_n(Q, BASELINE, VALID, absolute(0.1))
    assert found.choice.tolist() == [2, 0, 1]
    assert found.advantage == pytest.approx([0.7, 0.1, 0.4], abs=1e-6)
    assert found.keep.tolist()[::2] == [True, True]
    assert best_of_n(Q, BASELINE, VALID, absolute(0.5)).keep.tolist() == [True, False, False]


def test_an_invalid_candidate_is_never_chosen_and_a_state_without_any_never_kept():
    valid = np.array([[True, True, False], [False, False, False], [True, True, True]])
    found = best_of_n(Q, BASELINE, valid, absolute(-1.0))
    assert found.choice.tolist() == [1, -1, 1]
    assert found.keep.tolist() == [True, False, True]
    assert found.share_kept == 1.0


def test_a_candidate_that_the_proposer_hardly_makes_is_left_out():
    config = BestOfN(threshold_mode="absolute", threshold=-1.0, support=0.1)
    assert best_of_n(Q, BASELINE, VALID, config, LOG_PROB).choice.tolist() == [1, 0, 2]
    assert supported(LOG_PROB, VALID, 0.1).tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 1]]


def test_support_is_relative_to_the_likeliest_valid_candidate():
    valid = VALID.copy()
    valid[0, :2] = False
    assert supported(LOG_PROB, valid, 0.1)[0].tolist() == [False, False, True]


def test_support_needs_log_probabilities():
    with pytest.raises(ValueError, match="log-probabilities"):
        best_of_n(Q, BASELINE, VALID, BestOfN(support=0.1))


def test_quantile_keeps_the_share_above_it():
    config = BestOfN(threshold_mode="quantile", threshold=0.5, support=0.0)
    assert best_of_n(Q, BASELINE, VALID, config).keep.tolist() == [True, False, False]


@pytest.mark.parametrize("fields", [{"threshold": 1.0}, {"threshold": float("nan")}, {"support": 1.5}])
def test_settings_that_make_no_sense_are_refused(fields):
    with pytest.raises(ConfigError):
        BestOfN(**fields)


def test_only_the_first_candidates_count_where_a_number_is_given():
    q = np.array([[0.1, 0.2, 0.9], [0.5, 0.1, 0.2]], np.float32)
    valid = np.ones_like(q, bool)
    settings = {"threshold_mode": "absolute", "threshold": -1.0, "support": 0.0}
    one = best_of_n(q, np.zeros(2, np.float32), valid, BestOfN(candidates=1, **settings))
    two = best_of_n(q, np.zeros(2, np.float32), valid, BestOfN(candidates=2, **settings))
    assert one.choice.tolist() == [0, 0] and two.choice.tolist() == [1, 0]
    assert one.advantage == pytest.approx([0.1, 0.5])


def test_a_quantile_is_a_value_that_occurs_and_is_left_out_itself():
    q = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    for share, kept in ((0.0, 3), (0.3, 3), (0.4, 2), (0.5, 2), (0.6, 2), (0.7, 1), (0.99, 1)):
        chosen = best_of_n(
            q, np.zeros(4, np.float32), np.ones((4, 1), bool), BestOfN(threshold=share, support=0)
        )
        assert chosen.keep.sum() == kept and chosen.threshold in q


def test_standard_deviations_above_the_mean():
    q = np.array([[0.0], [1.0], [2.0], [5.0]], np.float32)
    config = BestOfN(threshold_mode="z", threshold=0.5, support=0)
    found = best_of_n(q, np.zeros(4, np.float32), np.ones((4, 1), bool), config)
    assert found.threshold == pytest.approx(2.0 + 0.5 * np.std([0, 1, 2, 5]))
    assert found.keep.tolist() == [False, False, False, True]


def test_quantiles_are_shares_and_other_modes_take_any_number():
    for share in (-0.5, 1.0, np.nan):
        with pytest.raises(ConfigError, match="a quantile is in"):
            BestOfN(threshold_mode="quantile", threshold=share)
    assert BestOfN(threshold_mode="absolute", threshold=-0.5).threshold == -0.5
    assert BestOfN(threshold_mode="z", threshold=2.0).threshold == 2.0


@pytest.mark.parametrize(
    ("q", "baseline", "valid"),
    [((2, 3), 2, (3, 3)), ((3, 3), 3, (2, 3)), ((2, 3), 3, (2, 3)), ((2, 2), 2, (2, 3))],
)
def test_shapes_that_disagree_are_refused(q, baseline, valid):
    with pytest.raises(ValueError, match="are not"):
        best_of_n(
            np.zeros(q, np.float32), np.zeros(baseline, np.float32), np.ones(valid, bool), absolute(0.0)
        )
