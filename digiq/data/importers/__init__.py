"""Formats of recorded episodes, one file each: a config with what it needs to be told, that finds and reads.

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
"""Name of a format, which is its file's, and the class in there."""

__all__ = ["IMPORTERS", "BadEpisode", "Entry", "Importer", "Sources"]
