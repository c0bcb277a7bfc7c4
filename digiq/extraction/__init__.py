"""From values to a policy: objectives that choose what is imitated, one file each, and the sources of values.

To add an objective: write its file, and add its line to :data:`EXTRACTIONS`.
"""

from digiq.extraction.base import Choice, Extraction, Ranks, States, Targets, Values, ValueSource
from digiq.tables import Table

EXTRACTIONS = Table(
    "objective",
    __name__,
    best_of_n="BestOfN",
    filtered_bc="FilteredBC",
    digirl="DigiRL",
    progress="Progress",
    lower_bound="LowerBound",
    awr="AWR",
)
"""The name of each objective, which is that of its file, and its class."""

VALUES = Table("source", __name__, critic="digiq.extraction.critic_values:CriticValues")
"""Sources of the Q and V that objectives ask for. Controls with exact or random values are in
:mod:`digiq.laboratory.controls`."""

__all__ = [
    "EXTRACTIONS",
    "VALUES",
    "Choice",
    "Extraction",
    "Ranks",
    "States",
    "Targets",
    "ValueSource",
    "Values",
]
