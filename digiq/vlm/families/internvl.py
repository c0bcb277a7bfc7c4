"""InternVL, in the form that Hugging Face converts."""

from collections.abc import Sequence
from typing import Any, ClassVar

from digiq.config import configclass
from digiq.vlm.families.generic import Generic


@configclass
class InternVl(Generic):
    """InternVL."""

    models: ClassVar[Sequence[str]] = ("internvl",)

    def decoder(self, model: Any) -> Any:
        return model.model.language_model
