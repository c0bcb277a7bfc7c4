"""Qwen-VL: positions in three dimensions, and a number of image tokens that grows with the screen's size."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class QwenVl(Generic):
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

    models: ClassVar[Sequence[str]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

    def decoder(self, model: Any) -> Any:
        return model.model.language_model
