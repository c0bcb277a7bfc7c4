"""LLaVA, and the embedded tiny one: its decoder has a fixed place."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class Llava(Generic):
    """LLaVA 1.5 and models that share its architecture."""

    models: ClassVar[Sequence[str]] = ("llava",)

    def decoder(self, model: Any) -> Any:
        return model.model.language_model
