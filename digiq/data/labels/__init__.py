"""Sources of rewards, one file each: a config that holds its settings and says what the actions of episodes are worth.

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
"""Name of each source of rewards, which is also its file's name, and the class in that file."""

__all__ = ["LABELS", "Labels", "Spent", "Unlabelled"]
