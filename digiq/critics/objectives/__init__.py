"""Offline value objectives, one file each: a frozen config with a pure ``loss``.

To add one: write its file, and name it in :class:`Objectives`.
"""

from digiq.config import configclass
from digiq.critics.objectives.base import Objective
from digiq.critics.objectives.cal_ql import CalQL
from digiq.critics.objectives.cql import CQL
from digiq.critics.objectives.iql import IQL
from digiq.critics.objectives.mc import MC
from digiq.critics.objectives.nstep import NStep
from digiq.critics.objectives.td import TD
from digiq.critics.objectives.td_lambda import TDLambda


@configclass
class Objectives:
    """Settings of every objective; only the chosen one's are read."""

    td: TD = TD()
    """The paper's temporal-difference pair."""
    mc: MC = MC()
    """Regression on observed returns."""
    nstep: NStep = NStep()
    """n-step returns."""
    td_lambda: TDLambda = TDLambda()
    """λ-returns."""
    iql: IQL = IQL()
    """Implicit Q-learning."""
    cql: CQL = CQL()
    """Conservative Q-learning over the stored candidates."""
    cal_ql: CalQL = CalQL()
    """Cal-QL: conservative, but not below the observed return."""


__all__ = ["Objective", "Objectives"]
