"""Idefics3 and SmolVLM: the screen as tiles, and images nested by prompt."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class Idefics3(Generic):
    """SmolVLM, SmolVLM2 and Idefics3."""

    models: ClassVar[Sequence[str]] = ("smolvlm", "idefics3")
    needs: ClassVar[Sequence[str]] = ("num2words",)

    def decoder(self, model: Any) -> Any:
        return model.model.text_model

    def arrange(self, images: Sequence[Any]) -> Sequence[Any]:
        return [[image] for image in images]

    def render(self, processor: Any, text: str) -> str:
        """Rendered by the tokeniser: SmolVLM's own way asks the video processor, which is not there."""
        template = getattr(processor, "chat_template", None)
        if not template:
            return processor.image_token + text
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
