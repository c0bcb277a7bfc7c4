"""LLaVA-OneVision: the screen as tiles plus a view of the whole."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class LlavaOnevision(Generic):
    """LLaVA-OneVision."""

    models: ClassVar[Sequence[str]] = ("llava_onevision",)
    uncropped: ClassVar[str] = "beside a second picture it reads the screen without its tiles"

    def decoder(self, model: Any) -> Any:
        return model.model.language_model

    def arrange(self, pictures: Sequence[Sequence[Any]]) -> Sequence[Any]:
        return [list(row) for row in pictures]
