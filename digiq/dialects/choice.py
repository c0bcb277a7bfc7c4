"""A config that chooses a dialect."""

from digiq.config import configclass
from digiq.dialects import DIALECTS
from digiq.tables import chosen_from


@configclass
class DialectConfig(chosen_from(DIALECTS, default="plain_json")):
    """The notation in which an agent writes its actions."""
