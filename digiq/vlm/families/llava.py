"""LLaVA, and the embedded tiny one: its decoder has a fixed place."""

from typing import Any

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class Llava:
    """LLaVA 1.5 and what shares its architecture."""

    def matches(self, config: Any) -> bool:
        return config.model_type == "llava"

    def decoder(self, model: Any) -> Any:
        return model.model.language_model

    def render(self, processor: Any, text: str) -> str:
        return Generic().render(processor, text)
