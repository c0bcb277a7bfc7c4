"""Families of vision-language models, one file each: the differences between them that Hugging Face does not hide.

To add one: write its file, and add its line at the end of :data:`FAMILIES`; if several match a model, the last counts.
"""

from typing import Any

from digiq.tables import Table
from digiq.vlm.families.base import BackboneError, Family

FAMILIES = Table(
    "family",
    __name__,
    llava="Llava",
    qwen_vl="QwenVl",
    idefics3="Idefics3",
    paligemma="PaliGemma",
    gemma3="Gemma3",
    llava_onevision="LlavaOnevision",
    internvl="InternVl",
)
"""Name of each family, which is also its file's name, and the class in that file."""


def family_of(config: Any) -> Family:
    """The family of a model, from its Hugging Face config.

    Raises:
      BackboneError: it belongs to none, so the layout of its prompts and layers is unknown.
    """
    families = [FAMILIES[name]() for name in FAMILIES]
    found = [family for family in families if family.matches(config)]
    if not found:
        covered = ", ".join(model for family in families for model in family.models)
        raise BackboneError(
            f"models of type '{config.model_type}' are not supported (supported: {covered}); add a family, one file "
            "and one line (CONTRIBUTING.md, 'Adding a backbone family')."
        )
    return found[-1]


__all__ = ["FAMILIES", "BackboneError", "Family", "family_of"]
