"""What most models share: the decoder is found by search, and the processor's chat template renders the prompt."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.base import BackboneError

_BETWEEN = ("(before)", "(after)")


@configclass
class Generic:
    """Base class of families; matches no model itself."""

    models: ClassVar[Sequence[str]] = ()
    needs: ClassVar[Sequence[str]] = ()
    unshared: ClassVar[str] = ""
    uncropped: ClassVar[str] = ""
    answer_type: ClassVar[int] = 0

    def matches(self, config: Any) -> bool:
        return config.model_type in self.models

    def decoder(self, model: Any) -> Any:
        """The first module outside the vision tower with ``layers`` and ``norm``."""
        for name, module in model.named_modules():
            if "vision" not in name and hasattr(module, "layers") and hasattr(module, "norm"):
                return module
        raise BackboneError(f"{type(model).__name__} has no decoder with 'layers' and 'norm'.")

    def render(self, processor: Any, text: str, pictures: int = 1) -> str:
        """One user turn after the pictures, then the assistant's header; without a template, image tokens and text."""
        if not getattr(processor, "chat_template", None):
            return self.token(processor) * pictures + text
        return self.turn(processor, [*[{"type": "image"}] * pictures, {"type": "text", "text": text}])

    def placeholder(self, processor: Any) -> str:
        """What the chat template puts between two texts for a picture; empty if it moves pictures to the front."""
        if not getattr(processor, "chat_template", None):
            return self.token(processor)
        first, second = _BETWEEN
        content = [{"type": "text", "text": first}, {"type": "image"}, {"type": "text", "text": second}]
        return self.turn(processor, content).partition(first)[2].partition(second)[0]

    def token(self, processor: Any) -> str:
        """The placeholder of a picture if there is no chat template."""
        return processor.image_token

    def turn(self, processor: Any, content: list[dict[str, str]]) -> str:
        """The chat template's text for a user turn."""
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def arrange(self, pictures: Sequence[Sequence[Any]]) -> Sequence[Any]:
        return [picture for row in pictures for picture in row]

    def tail(self, processor: Any) -> str:
        return ""
