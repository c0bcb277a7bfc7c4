"""Policies, which propose actions from a screenshot and a goal; each kind has its own file.

To add a kind: write its file, and add its line to :data:`POLICIES`.
"""

from digiq.tables import Table

POLICIES = Table(
    "policy",
    __name__,
    grid="Grid",
)
"""The name of each kind, which is that of its file, and its config class (:class:`digiq.policies.base.Kind`)."""

FITTINGS = Table("fitting", __name__, grid="digiq.policies.grid_fit:GridFitting")
"""Settings for fitting a kind of policy besides :class:`digiq.policies.fitting.FitConfig`, if it has any."""

REFITTINGS = Table("fitting", __name__, grid="digiq.policies.grid_fit:GridRefitting")
"""The same for fitting few rows from a policy that was fitted to many; only the defaults differ."""

__all__ = ["FITTINGS", "POLICIES", "REFITTINGS"]
