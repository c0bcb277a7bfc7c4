"""Gemma 3: image tokens attend to one another, and images are nested by prompt."""

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

    def token(self, processor: Any) -> str:
        return processor.boi_token

    def arrange(self, pictures: Sequence[Sequence[Any]]) -> Sequence[Any]:
        return [list(row) for row in pictures]
