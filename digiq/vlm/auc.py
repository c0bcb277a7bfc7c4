"""The area under the ROC curve: for tuning's held-out answers, and for every report above it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata


def auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The chance that a positive outscores a negative, ties counting half.

    Args:
      scores: float[n], higher means more likely positive.
      labels: bool[n].

    Returns:
      A number in [0, 1]; NaN when one class is absent.
    """
    labels = np.asarray(labels, bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(np.asarray(scores, np.float64))
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))
