"""Families of vision-language models, one file each: what differs between them beyond what Hugging Face evens out.

To add one: write its file, and add its line at the end of :data:`FAMILIES`; of those that match a model, the last counts.
"""

from typing import Any

from digiq.tables import Table
from digiq.vlm.families.base import BackboneError, Family

FAMILIES = Table(
    "family",
    __name__,
    generic="Generic",
    llava="Llava",
)
"""Name of a family, which is its file's, and the class in there."""


def family_of(config: Any) -> Family:
    """The family of a model, from its Hugging Face config."""
    families = [FAMILIES[name]() for name in FAMILIES]
    return [family for family in families if family.matches(config)][-1]


__all__ = ["FAMILIES", "BackboneError", "Family", "family_of"]
