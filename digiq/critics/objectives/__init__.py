"""Offline value objectives, one file each: a frozen config with a pure ``loss``.

To add one: write its file, and add its line to :data:`OBJECTIVES`.
"""

import dataclasses
import importlib

from digiq.config import configclass
from digiq.critics.objectives.base import Objective

OBJECTIVES = {
    "td": "TD",
    "mc": "MC",
    "nstep": "NStep",
    "td_lambda": "TDLambda",
    "iql": "IQL",
    "cql": "CQL",
    "cal_ql": "CalQL",
}
"""Name of an objective, which is its file's, and the class in there."""


def _default(name: str) -> Objective:
    return getattr(importlib.import_module(f"{__name__}.{name}"), OBJECTIVES[name])()


_DEFAULTS = {name: _default(name) for name in OBJECTIVES}
_FIELDS = [(name, type(default), dataclasses.field(default=default)) for name, default in _DEFAULTS.items()]


@configclass
class Objectives(dataclasses.make_dataclass("_Fields", _FIELDS, frozen=True, kw_only=True)):
    """Settings of every objective under its name; only the chosen one's are read."""


__all__ = ["OBJECTIVES", "Objective", "Objectives"]
