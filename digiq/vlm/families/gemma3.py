"""Gemma 3: image tokens see one another, and images are nested by prompt."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class Gemma3(Generic):
    """Gemma 3 with vision."""

    models: ClassVar[Sequence[str]] = ("gemma3",)

    def decoder(self, model: Any) -> Any:
        return model.model.language_model

    def render(self, processor: Any, text: str) -> str:
        if not getattr(processor, "chat_template", None):
            return processor.boi_token + text
        return Generic().render(processor, text)

    def arrange(self, images: Sequence[Any]) -> Sequence[Any]:
        return [[image] for image in images]
