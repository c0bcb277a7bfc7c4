"""From values to a policy: objectives that choose what is imitated, one file each, and where values come from.

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
"""Name of an objective, which is its file's, and the class in there."""

VALUES = Table("source", __name__, critic="digiq.extraction.critic_values:CriticValues")
"""Where the Q and V that objectives ask for come from. The controls that know more, or nothing, are
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
