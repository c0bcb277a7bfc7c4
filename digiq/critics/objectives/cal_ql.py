"""Calibrated Q-learning (Nakamoto et al., NeurIPS 2023), equation 5.

This is ``cql`` with ``max(Q(s, a_n), G(s))`` in place of ``Q(s, a_n)`` in its penalty, where G is the return that
followed. It keeps values from sinking below those of the behaviour policy.
"""

from digiq.config import configclass
from digiq.critics.objectives.cql import CQL


@configclass
class CalQL(CQL):
    """Cal-QL: CQL, but not below the observed return."""

    # A separate class: with a default instance of CQL, naming any other setting would switch the calibration off.
    calibrated: bool = True
    """Candidates are not pushed below the return that followed."""
