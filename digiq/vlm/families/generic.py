"""Any model: the decoder is looked for, and the processor's chat template renders the prompt where there is one."""

from typing import Any

from digiq.config import configclass
from digiq.vlm.families.base import BackboneError


@configclass
class Generic:
    """What is tried on a model of no family of its own."""

    def matches(self, config: Any) -> bool:
        return True

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
