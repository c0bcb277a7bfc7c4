"""The interface of an engine, and of the requests to it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import Field

from android_env.actions import Action, ActionType, format_action
from digiq.data.schema import decode_png
from digiq.vlm.prompts import Grounding, Prompt, Template, build_prompt, is_cropped, pictures

if TYPE_CHECKING:
    from digiq.features.extract import FeaturizeConfig

Kind = Literal["observation", "pair"]
Layer = int | Annotated[float, Field(gt=0, lt=1)] | Literal["middle", "all"]
"""A layer number from 1 or, negative, from the end; a fraction of the depth; or a word."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for the features of an observation, or of an observation and an action."""

    image: bytes | npt.NDArray[np.uint8]
    """uint8 [H, W, 3], or a PNG, which is decoded when ``screenshot`` is accessed."""
    goal: str
    action: Action | None
    prompt: Prompt
    grounding: Grounding
    digest: bytes = b""
    """SHA-256 of the PNG, if the row is to be stored."""
    activity: str | None = None
    """Foreground activity; like ``ui_elements``, it comes from the device itself and is None at test time. For
    oracles."""
    ui_elements: str | None = None
    history: str = ""
    """Previous actions in words, as in the prompt."""
    before: bytes | npt.NDArray[np.uint8] | None = None
    """The screenshot before the last action, in the form of ``image``, if the prompt shows it."""
    before_digest: bytes = b""
    """Like ``digest``, of ``before``."""
    where: str = ""
    """Episode and step, for error messages."""

    @classmethod
    def build(
        cls,
        image: bytes | npt.NDArray[np.uint8],
        goal: str,
        action: Action | None,
        grounding: Grounding,
        *,
        template: Template | None = None,
        history: str = "",
        before: bytes | npt.NDArray[np.uint8] | None = None,
        **known: Any,
    ) -> Request:
        """The request with its prompt: that of a pair, or that of an observation if ``action`` is None.

        ``template`` defaults to ``readout``'s.
        """
        prompt = build_prompt(
            goal, action, grounding=grounding, template=template, history=history, before=before is not None
        )
        return cls(image, goal, action, prompt, grounding, history=history, before=before, **known)

    def of(self, action: Action | None, template: Template) -> Request:
        """The same screen, goal and history with an action."""
        prompt = template.prompt(
            self.goal,
            action,
            grounding=self.grounding,
            history=self.history,
            before=self.before is not None,
        )
        return dataclasses.replace(self, action=action, prompt=prompt)

    @property
    def state(self) -> tuple[Any, ...]:
        """What the candidates of a state share; they differ only in their action."""
        before = self.before_digest or _own(self.before)
        return self.digest or _own(self.image), before, self.drawn, self.goal, self.history

    @property
    def screenshot(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3], with the cursor if it is drawn; accessed once, when its batch is prepared."""
        image = _decode(self.image) if isinstance(self.image, bytes) else self.image
        return pictures(image, self.action, self.grounding)[0]

    def pictures(
        self, image: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8] | None
    ) -> list[npt.NDArray[np.uint8]]:
        """All pictures of the prompt, from the decoded images; uint8 [H, W, 3] each, with the cursor if it is drawn."""
        return pictures(image, self.action, self.grounding, before)

    @property
    def screens(self) -> tuple[bytes, ...]:
        """Digests of its screenshots."""
        return (self.digest,) if self.before is None else (self.digest, self.before_digest)

    @property
    def drawn(self) -> str:
        """The action, if it is drawn on the screenshot."""
        if self.grounding != "cursor" or self.action is None or self.action.type is not ActionType.DUAL_POINT:
            return ""
        return format_action(self.action)

    @property
    def seen(self) -> tuple[str | bytes, ...]:
        """What else the model sees beside the screenshot and the prompt's text; part of the row's key."""
        cropped = self.action is not None and is_cropped(self.action, self.grounding)
        marked = format_action(self.action) if cropped and self.action is not None else self.drawn
        return (marked,) if self.before is None else (marked, self.before_digest)


def _own(image: bytes | npt.NDArray[np.uint8] | None) -> bytes:
    return image if isinstance(image, bytes) else str(id(image)).encode()


def decoded(
    images: Sequence[bytes | npt.NDArray[np.uint8]],
) -> list[npt.NDArray[np.uint8] | Exception]:
    """Images as arrays, or the error of one that cannot be decoded. Each distinct image is decoded once, in threads."""
    distinct = {id(image): image for image in images if isinstance(image, bytes)}

    def attempt(image: bytes) -> npt.NDArray[np.uint8] | Exception:
        try:
            return _decode(image)
        except (OSError, SyntaxError, ValueError) as error:
            return error

    found = dict(zip(distinct, _decoding.map(attempt, distinct.values()), strict=True))
    return [found[id(image)] if isinstance(image, bytes) else image for image in images]


# A state's candidates are computed in one batch or in consecutive ones, so a cache of few decoded screens is enough.
_decode = functools.lru_cache(maxsize=64)(decode_png)
_decoding = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decoding")


class Engine(Protocol):
    """An opened engine. Extraction and test time use the same one, so that a critic sees what it was trained on."""

    @property
    def layers(self) -> tuple[str, ...]:
        """L layer names, as used by the store and the critic."""
        ...

    def dim(self, kind: Kind) -> int:
        """D, the width of a row in each layer."""
        ...

    def identity(self, kind: Kind) -> dict[str, Any]:
        """Everything that determines a row's content, except the request itself; other values mean other rows."""
        ...

    def rows(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """(positions int64 [B], features float32 [B, L, D]) in batches, in any order; all requests are of one kind."""
        ...


@runtime_checkable
class Deals(Protocol):
    """An engine whose rows go to requests other than their own; only a control needs this."""

    def deal(self, keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The row keys of one kind, uint8 [n, 16], in the order in which requests get them."""
        ...


@runtime_checkable
class ByState(Protocol):
    """An engine that is cheaper if it gets the candidates of a state together."""

    by_state: Literal[True]


class Opens(Protocol):
    """A member of :data:`digiq.features.engines.ENGINES`: a config class with its engine's own settings."""

    def open(self, reading: FeaturizeConfig, vlm: Path) -> Engine:
        """Opens the engine.

        Args:
          reading: what to read from a VLM, and how; the same for every engine.
          vlm: a Hugging Face image-text-to-text directory.

        Raises:
          DigiQError: the model does not open, or a layer or span does not exist.
        """
        ...


def layer_name(layer: int, pooling: str = "") -> str:
    """Name of a layer's arrays; with ``pooling``, that of one of the layer's several poolings."""
    return f"layer_{layer:02d}{pooling and '_'}{pooling}"
