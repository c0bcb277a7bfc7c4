"""Dialects, the notations in which agents write actions, one file each: they parse answers and write actions.

To add one: write its file, and add its line to :data:`DIALECTS`.
"""

from digiq.tables import Table

DIALECTS = Table(
    "dialect",
    __name__,
    plain_json="PlainJson",
    ui_tars="UiTars",
    mobile_use="MobileUse",
    digirl="DigiRL",
)
"""Name of each dialect, which is also its file's name, and its class there (:class:`digiq.dialects.base.Dialect`)."""

__all__ = ["DIALECTS"]
