"""PaliGemma: no dialogue, and every token of a prompt attends to every other."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class PaliGemma(Generic):
    """PaliGemma and PaliGemma 2."""

    models: ClassVar[Sequence[str]] = ("paligemma",)
    unshared: ClassVar[str] = (
        "every token of its prompt sees every other, so an action changes what comes before it"
    )

    uncropped: ClassVar[str] = "its processor restarts the text after the last picture"
    answer_type: ClassVar[int] = 1  # otherwise the prompt would attend to it

    def decoder(self, model: Any) -> Any:
        return model.model.language_model

    def tail(self, processor: Any) -> str:
        return "\n"

    def arrange(self, pictures: Sequence[Sequence[Any]]) -> Sequence[Any]:
        return [list(row) for row in pictures]
