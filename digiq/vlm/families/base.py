"""What a family is."""

from __future__ import annotations

from typing import Any, Protocol

from digiq.errors import DigiQError


class BackboneError(DigiQError):
    """A directory that cannot be opened as a vision-language model, or a prompt that does not fit it."""


class Family(Protocol):
    """What must be known of a model that ``AutoModelForImageTextToText`` and ``AutoProcessor`` opened."""

    def matches(self, config: Any) -> bool:
        """Whether a model with this Hugging Face config is of the family."""
        ...

    def decoder(self, model: Any) -> Any:
        """The language model inside: the module with ``layers``, to be cut off, and the final ``norm``.

        Raises:
          BackboneError: there is none.
        """
        ...

    def render(self, processor: Any, text: str) -> str:
        """All that the processor is given: the image's placeholder, and the prompt as it stands, once."""
        ...
