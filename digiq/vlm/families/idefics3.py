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

    def arrange(self, pictures: Sequence[Sequence[Any]]) -> Sequence[Any]:
        return [list(row) for row in pictures]

    def turn(self, processor: Any, content: list[dict[str, str]]) -> str:
        """Rendered by the tokeniser, because SmolVLM's own method needs the absent video processor."""
        return processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=processor.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
