"""What a family is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from digiq.errors import DigiQError


class BackboneError(DigiQError):
    """A directory that cannot be opened as a vision-language model, or a prompt that does not fit it."""


class Family(Protocol):
    """What must be known of a model that ``AutoModelForImageTextToText`` and ``AutoProcessor`` opened.

    :class:`digiq.vlm.families.generic.Generic` has what most have; a family says what is different.
    """

    models: ClassVar[Sequence[str]]
    """Hugging Face's ``model_type`` of those that the conformance suite opens."""
    needs: ClassVar[Sequence[str]]
    """Packages beyond Transformers that its processor imports."""
    unshared: ClassVar[str]
    """Why prefixes cannot be shared among prompts; empty where they can."""
    uncropped: ClassVar[str]
    """Why no picture can follow the words for an action; empty where one can."""
    answer_type: ClassVar[int]
    """``token_type_ids`` of an answer that is learned, where the model has them."""

    def matches(self, config: Any) -> bool:
        """Whether a model with this Hugging Face config is of the family; ``model_type`` is all that is sure to be there."""
        ...

    def decoder(self, model: Any) -> Any:
        """The language model inside: the module with ``layers``, to be cut off, and the final ``norm``.

        Raises:
          BackboneError: there is none.
        """
        ...

    def render(self, processor: Any, text: str, pictures: int = 1) -> str:
        """All that the processor is given: placeholders of the pictures before the prompt, and it as it stands, once."""
        ...

    def placeholder(self, processor: Any) -> str:
        """What stands for a picture inside a prompt; empty where the chat template lets none be there."""
        ...

    def arrange(self, pictures: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """The pictures of each prompt, as the processor wants them."""
        ...

    def tail(self, processor: Any) -> str:
        """What the processor puts after a text by itself."""
        ...
