"""The hierarchical bootstrap, against random-effects data whose truth is known."""

import numpy as np
import pytest

from digiq.statistics import (
    cluster_bootstrap,
    hierarchical_bootstrap,
    hierarchical_replicates,
    hierarchical_statistic,
)


def simulate(rng, seeds=5, tasks=20, repeats=2, mean=0.5, between=0.1, within=0.15):
    """Successes of one arm whose rate varies by seed and by task; the true mean over both is ``mean``."""
    of_seed = rng.normal(0, between, seeds)
    of_task = rng.normal(0, within, (seeds, tasks))
    p = np.clip(mean + of_seed[:, None] + of_task, 0, 1)
    values = (rng.random((repeats, seeds, tasks)) < p).astype(float)
    labels = np.broadcast_to(np.arange(seeds)[:, None], (repeats, seeds, tasks))
    names = np.broadcast_to(np.arange(tasks)[None], (repeats, seeds, tasks))
    return values.ravel(), labels.ravel().tolist(), names.ravel().tolist()


@pytest.mark.parametrize(("seeds", "least"), [(5, 0.8), (15, 0.86)])
def test_intervals_hold_the_true_mean_about_as_often_as_they_say(seeds, least):
    rng, held, pooled = np.random.default_rng(3), 0, 0
    for trial in range(150):
        values, labels, tasks = simulate(rng, seeds=seeds)
        found = hierarchical_statistic(
            lambda m: m[..., 0], values[None], labels, tasks, resamples=200, seed=trial
        )
        held += found.low <= 0.5 <= found.high
        naive = cluster_bootstrap(values, list(zip(labels, tasks, strict=True)), resamples=200, seed=trial)
        pooled += naive.low <= 0.5 <= naive.high
    assert least <= held / 150 <= 0.995
    # Pooling the seeds takes their episodes for independent ones, and its intervals for far better than they are.
    assert pooled / 150 < held / 150 - 0.08


def test_one_arm_agrees_with_the_plain_hierarchical_bootstrap():
    values, seeds, tasks = simulate(np.random.default_rng(0))
    mine = hierarchical_statistic(lambda m: m[..., 0], values[None], seeds, tasks, resamples=4000)
    plain = hierarchical_bootstrap(values, seeds, tasks, resamples=4000)
    assert mine.value == pytest.approx(plain.value)
    assert mine.low == pytest.approx(plain.low, abs=0.02) and mine.high == pytest.approx(plain.high, abs=0.02)


def test_arms_are_resampled_together():
    values, seeds, tasks = simulate(np.random.default_rng(1))
    both = np.stack([values, values])
    gap = hierarchical_statistic(lambda m: m[..., 1] - m[..., 0], both, seeds, tasks, resamples=200)
    assert gap == (0.0, 0.0, 0.0)
    ratio = hierarchical_statistic(lambda m: m[..., 1] / m[..., 0], both, seeds, tasks, resamples=200)
    assert ratio == (1.0, 1.0, 1.0)


def test_every_seed_weighs_the_same():
    point, replicates = hierarchical_replicates(
        np.array([[1.0, 1.0, 1.0, 0.0]]), ["a", "a", "a", "b"], ["t"] * 4, resamples=50
    )
    assert point.tolist() == [0.5] and set(replicates.ravel()) <= {0.0, 0.5, 1.0}


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="shape"):
        hierarchical_replicates(np.ones(3), ["a"] * 3, ["t"] * 3)
    with pytest.raises(ValueError, match="shape"):
        hierarchical_replicates(np.ones((1, 3)), ["a"] * 2, ["t"] * 3)
