"""How agents write their actions, one file a dialect: what they say becomes an action, and an action what they would say.

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
"""Name of a dialect, which is its file's, and the class in there (:class:`digiq.dialects.base.Dialect`)."""

__all__ = ["DIALECTS"]
