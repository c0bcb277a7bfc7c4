"""Engines, one file each: they turn observations and actions into rows of features, for the store and at test time.

To add one: write its file, and add its line to :data:`ENGINES`.
"""

from digiq.features.engines.base import ByState, Deals, Engine, Opens, Request
from digiq.tables import Table

ENGINES = Table(
    "engine",
    __name__,
    plain="Plain",
    shared="Shared",
    generated="Generated",
)
"""Name of each engine, which is also its file's name, and the class in that file."""

__all__ = ["ENGINES", "ByState", "Deals", "Engine", "Opens", "Request"]
