"""Calibrated Q-learning (Nakamoto et al., NeurIPS 2023), equation 5.

``cql`` with ``max(Q(s, a_n), G(s))`` in place of ``Q(s, a_n)`` in its penalty, G being the return that followed: values
do not sink below the behaviour policy's.
"""

from digiq.config import configclass
from digiq.critics.objectives.cql import CQL


@configclass
class CalQL(CQL):
    """Cal-QL: CQL, but not below the observed return."""

    # A class of its own: with a default instance of CQL, naming any other setting would switch the calibration off.
    calibrated: bool = True
    """Candidates are not pushed below the return that followed."""
