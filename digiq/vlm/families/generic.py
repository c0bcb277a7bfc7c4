"""What most models have in common: the decoder is looked for, and the processor's chat template renders the prompt."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.base import BackboneError


@configclass
class Generic:
    """What a family inherits; of no model by itself."""

    models: ClassVar[Sequence[str]] = ()
    needs: ClassVar[Sequence[str]] = ()
    unshared: ClassVar[str] = ""
    answer_type: ClassVar[int] = 0

    def matches(self, config: Any) -> bool:
        return config.model_type in self.models

    def decoder(self, model: Any) -> Any:
        """The first module outside the vision tower with ``layers`` and ``norm``."""
        for name, module in model.named_modules():
            if "vision" not in name and hasattr(module, "layers") and hasattr(module, "norm"):
                return module
        raise BackboneError(f"{type(model).__name__} has no decoder with 'layers' and 'norm'.")

    def render(self, processor: Any, text: str) -> str:
        """One user turn after the image, followed by the assistant's header; without a template image token and text."""
        if not getattr(processor, "chat_template", None):
            return processor.image_token + text
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def arrange(self, images: Sequence[Any]) -> Sequence[Any]:
        return list(images)

    def tail(self, processor: Any) -> str:
        return ""
