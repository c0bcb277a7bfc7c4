"""Policies: what proposes actions from a screenshot and a goal, one file a kind.

To add a kind: write its file, and add its line to :data:`POLICIES`.
"""

from digiq.tables import Table

POLICIES = Table(
    "policy",
    __name__,
    grid="Grid",
)
"""Name of a kind, which is its file's, and the config of such a policy in there (:class:`digiq.policies.base.Kind`)."""

FITTINGS = Table("fitting", __name__, grid="digiq.policies.grid_fit:GridFitting")
"""What fitting such a policy can be told beside :class:`digiq.policies.fitting.FitConfig`, where there is anything."""

REFITTINGS = Table("fitting", __name__, grid="digiq.policies.grid_fit:GridRefitting")
"""The same where few rows are imitated from a policy that was fitted to many; only defaults differ."""

__all__ = ["FITTINGS", "POLICIES", "REFITTINGS"]
