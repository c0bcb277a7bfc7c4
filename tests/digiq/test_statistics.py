"""Statistics against brute force, exact enumeration and published values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from digiq import statistics


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy_and_contains_the_estimate(counts):
    successes, trials = counts
    ours = statistics.wilson(successes, trials)
    theirs = binomtest(successes, trials).proportion_ci(method="wilson")
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_wilson_known_values():
    # Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29.
    for successes, trials, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]:
        assert statistics.wilson(successes, trials)[1:] == pytest.approx((low, high), abs=5e-5)
    assert statistics.wilson(0, 20)[1:] == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert statistics.wilson(1, 29)[1:] == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_of_nothing_is_ignorance_and_nonsense_is_refused():
    value, low, high = statistics.wilson(0, 0)
    assert math.isnan(value) and (low, high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes = 3"):
        statistics.wilson(3, 2)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=4, max_size=12))
def test_cluster_bootstrap_agrees_with_full_enumeration(rows):
    clusters = [c for c, _ in rows]
    values = np.array([v for _, v in rows], float)
    groups = [values[np.equal(clusters, label)] for label in dict.fromkeys(clusters)]
    draws = itertools.product(groups, repeat=len(groups))  # all C^C equally likely resamples
    means = np.array([np.concatenate(draw).mean() for draw in draws])
    estimate = statistics.cluster_bootstrap(values, clusters, confidence=0.8, resamples=20_000)
    assert estimate.value == pytest.approx(values.mean())
    for end, below in [(estimate.low, 0.1), (estimate.high, 0.9)]:
        assert np.mean(means < end - 1e-9) <= below + 0.01
        assert np.mean(means <= end + 1e-9) >= below - 0.01


def test_clusters_widen_the_interval():
    values = np.repeat([0.0, 1.0] * 10, 20)  # 20 tasks, each with 20 identical episodes
    tasks = np.repeat(np.arange(20), 20)
    by_task = statistics.cluster_bootstrap(values, tasks)
    by_episode = statistics.cluster_bootstrap(values, np.arange(400))
    assert by_task.high - by_task.low == pytest.approx(
        math.sqrt(20) * (by_episode.high - by_episode.low), rel=0.15
    )


def test_bootstrap_statistic_of_the_mean_is_the_cluster_bootstrap():
    rng = np.random.default_rng(3)
    values, clusters = rng.normal(size=60), rng.integers(12, size=60)
    general = statistics.bootstrap_statistic(lambda rows: values[rows].mean(), list(clusters), resamples=4000)
    direct = statistics.cluster_bootstrap(values, list(clusters))
    assert general.value == pytest.approx(direct.value)
    assert general[1:] == pytest.approx(direct[1:], abs=0.02)


def test_hierarchical_bootstrap_weighs_seeds_equally_and_sees_their_spread():
    values = np.array([1.0] * 90 + [0.0] * 10)
    seeds, tasks = [0] * 90 + [1] * 10, list(range(90)) + list(range(10))
    estimate = statistics.hierarchical_bootstrap(values, seeds, tasks)
    assert estimate.value == pytest.approx(0.5)
    # Two seeds, each drawn with chance 1/2 a slot: both ends are reached with chance 1/4.
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_hierarchical_bootstrap_variance_is_the_textbook_sum():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 40)) + rng.normal(size=(6, 1))  # seeds x tasks, one episode each
    seeds, tasks = np.repeat(np.arange(6), 40), np.tile(np.arange(40), 6)
    estimate = statistics.hierarchical_bootstrap(
        table.ravel(), list(seeds), list(tasks), confidence=0.6826895
    )
    between = table.mean(axis=1).var() / 6
    within = table.var(axis=1).mean() / 40 / 6
    assert (estimate.high - estimate.low) / 2 == pytest.approx(math.sqrt(between + within), rel=0.05)


def test_bootstraps_are_reproducible_and_refuse_empty_input():
    values, tasks = [0.0, 1.0, 1.0], ["a", "b", "c"]
    assert statistics.cluster_bootstrap(values, tasks, seed=1) == statistics.cluster_bootstrap(
        values, tasks, seed=1
    )
    with pytest.raises(ValueError, match="common length"):
        statistics.cluster_bootstrap([], [])
    with pytest.raises(ValueError, match="common length"):
        statistics.hierarchical_bootstrap([1.0], [0], [])
    with pytest.raises(ValueError, match="nothing to resample"):
        statistics.bootstrap_statistic(lambda rows: 0.0, [])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=9))
def test_paired_comparison_agrees_with_all_sign_flips(pairs):
    a, b = np.array(pairs, float).T
    result = statistics.paired_comparison(a, b, range(len(pairs)), resamples=20_000)
    gaps = a - b
    flips = np.array(list(itertools.product([-1, 1], repeat=len(pairs)))) @ gaps
    exact = np.mean(np.abs(flips) >= abs(gaps.sum()) - 1e-9)
    assert result.p_value == pytest.approx(exact, abs=0.02)
    assert result.wins - result.losses == gaps.sum()
    assert result.wins + result.losses + result.ties == len(pairs)
    assert result.difference.value == pytest.approx(gaps.mean())


def test_paired_comparison_refuses_unpaired_results():
    with pytest.raises(ValueError, match="pair up"):
        statistics.paired_comparison([1.0], [1.0, 0.0], ["t"])


SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Hours gained by one drug over another, ten patients (Student, 1908)."""


def test_the_t_test_gives_students_own_numbers():
    found = statistics.t_test(SLEEP)
    assert found.mean == pytest.approx((1.58, 0.7001, 2.4599), abs=1e-4)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    # The interval holds exactly the means that are not rejected.
    assert statistics.t_test(SLEEP, found.mean.low).p_value == pytest.approx(0.05)
    assert statistics.t_test(SLEEP, found.mean.value).p_value == 1.0


def test_a_t_test_of_one_value_says_nothing_and_of_equal_ones_all():
    assert statistics.t_test([0.3]) == ((0.3, -math.inf, math.inf), 1.0)
    assert statistics.t_test([0.1 + 0.2, 0.3, 0.3], 0.3) == (pytest.approx((0.3, 0.3, 0.3)), 1.0)
    assert statistics.t_test([0.3, 0.3]).p_value == 0.0
    for wrong in ([], [math.nan, 1.0], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="finite numbers only"):
            statistics.t_test(wrong)


def test_the_t_interval_of_five_seeds_covers_what_it_says():
    draws = np.random.default_rng(0).normal(0.1, 0.05, (2000, 5))
    intervals = [statistics.t_test(row).mean for row in draws]
    assert np.mean([i.low <= 0.1 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.015)


def test_holms_adjustment_by_hand():
    # 4 × 0.005; 3 × 0.01; 2 × 0.03; and 1 × 0.04, which may not be below the one before.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]).tolist() == [1.0, 1.0] and statistics.holm([0.2]).tolist() == [0.2]
    assert statistics.holm([]).tolist() == []
    for wrong in (math.nan, 1.1, -0.1):
        with pytest.raises(ValueError, match="must lie in"):
            statistics.holm([0.5, wrong])


def test_holm_seldom_rejects_any_of_many_true_hypotheses():
    p_values = np.random.default_rng(1).random((4000, 5))
    assert np.mean([statistics.holm(row).min() <= 0.05 for row in p_values]) == pytest.approx(0.05, abs=0.01)


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(1, n))))
def test_pass_at_k_and_pass_hat_k_are_averages_over_all_subsets(case):
    successes, episodes, k = case
    outcomes = [1] * successes + [0] * (episodes - successes)
    subsets = list(itertools.combinations(outcomes, k))
    assert statistics.pass_at_k(episodes, successes, k) == pytest.approx(np.mean([max(s) for s in subsets]))
    assert statistics.pass_hat_k(episodes, successes, k) == pytest.approx(np.mean([min(s) for s in subsets]))


def test_pass_at_k_refuses_more_tries_than_were_made():
    with pytest.raises(ValueError, match="k = 5"):
        statistics.pass_at_k(4, 2, 5)
    with pytest.raises(ValueError, match="successes = 5"):
        statistics.pass_hat_k(4, 5, 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20))
def test_auc_counts_pairs(rows):
    scores, labels = np.array([s for s, _ in rows]), np.array([p for _, p in rows])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    expected = np.mean(pairs) if pairs else math.nan
    assert statistics.auc(scores, labels) == pytest.approx(expected, nan_ok=True)
