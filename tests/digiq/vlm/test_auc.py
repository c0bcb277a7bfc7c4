import math

import numpy as np
import pytest

from digiq.statistics import auc


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_counting_pairs_ties_as_halves(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, 40), rng.random(40) < 0.4
    wins = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    assert auc(scores, labels) == pytest.approx(np.mean(wins))


def test_one_class_alone_has_no_auc():
    assert math.isnan(auc([1.0, 2.0], [True, True]))
