"""Sources of rewards, one file each: a config with its settings, that says what the actions of episodes are worth.

To add one: write its file, and add its line to :data:`LABELS`.
"""

from digiq.data.labels.base import Labels, Spent, Unlabelled
from digiq.tables import Table

LABELS = Table(
    "source",
    __name__,
    outcome="Outcome",
    other_goals="OtherGoals",
    file="File",
    rule="Rule",
    judge="Judge",
)
"""Name of a source of rewards, which is its file's, and the class in there."""

__all__ = ["LABELS", "Labels", "Spent", "Unlabelled"]
