"""Formats of recorded episodes, one file each: a config that holds the settings, finds the recordings and reads them.

To add one: write its file, and add its line to :data:`IMPORTERS`.
"""

from digiq.data.importers.base import BadEpisode, Entry, Importer, Sources
from digiq.tables import Table

IMPORTERS = Table(
    "format",
    __name__,
    aitw="AitW",
    recordings="Recordings",
    jsonl="Jsonl",
    android_control="AndroidControl",
    aitz="AitZ",
    digirl="DigiRL",
    rlds="Rlds",
)
"""Name of each format, which is also its file's name, and the class in that file."""

__all__ = ["IMPORTERS", "BadEpisode", "Entry", "Importer", "Sources"]
