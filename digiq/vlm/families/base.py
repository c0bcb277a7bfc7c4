"""The interface of a family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from digiq.errors import DigiQError


class BackboneError(DigiQError):
    """A directory that cannot be opened as a vision-language model, or a prompt that does not fit it."""


class Family(Protocol):
    """What must be known about a model opened by ``AutoModelForImageTextToText`` and ``AutoProcessor``.

    :class:`digiq.vlm.families.generic.Generic` fits most models; a family overrides what is different.
    """

    models: ClassVar[Sequence[str]]
    """Hugging Face's ``model_type`` of the models that the conformance suite opens."""
    needs: ClassVar[Sequence[str]]
    """Packages beyond Transformers that its processor imports."""
    unshared: ClassVar[str]
    """Why prefixes cannot be shared among prompts; empty if they can."""
    uncropped: ClassVar[str]
    """Why no picture can follow the words for an action; empty if one can."""
    answer_type: ClassVar[int]
    """Entry of a learned answer in ``token_type_ids``, if the model has them."""

    def matches(self, config: Any) -> bool:
        """Whether a model with this Hugging Face config is of the family; only ``model_type`` is sure to exist."""
        ...

    def decoder(self, model: Any) -> Any:
        """The language model inside: the module with the ``layers``, which get cut off, and the final ``norm``.

        Raises:
          BackboneError: there is no such module.
        """
        ...

    def render(self, processor: Any, text: str, pictures: int = 1) -> str:
        """The processor's whole text: placeholders of the pictures, and then the prompt, unchanged and once."""
        ...

    def placeholder(self, processor: Any) -> str:
        """What stands for a picture inside a prompt; empty if the chat template allows none there."""
        ...

    def arrange(self, pictures: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """The pictures of each prompt, nested as the processor expects."""
        ...

    def tail(self, processor: Any) -> str:
        """What the processor itself appends to a text."""
        ...
