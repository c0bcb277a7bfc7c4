"""Offline value objectives, one file each: a frozen config with a pure ``loss``.

To add one: write its file, and add its line to :data:`OBJECTIVES`.
"""

from digiq.critics.objectives.base import Objective
from digiq.tables import Table

OBJECTIVES = Table(
    "objective",
    __name__,
    td="TD",
    mc="MC",
    nstep="NStep",
    td_lambda="TDLambda",
    iql="IQL",
    cql="CQL",
    cal_ql="CalQL",
    exact="Exact",
)
"""The name of each objective, which is that of its file, and its class."""

__all__ = ["OBJECTIVES", "Objective"]
