"""LLaVA-OneVision: the screen as tiles over a whole."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class LlavaOnevision(Generic):
    """LLaVA-OneVision."""

    models: ClassVar[Sequence[str]] = ("llava_onevision",)

    def decoder(self, model: Any) -> Any:
        return model.model.language_model
