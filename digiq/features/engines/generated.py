"""The generated engine: pools hidden states over an answer that the model generates, as the paper's code does.

Decoding is greedy, whereas upstream samples at a temperature of 0.2, so that a row is the same whenever it is computed.
Each token costs a forward pass of the whole model, and one more pass reads the states.

Source: Digi-Q's implementation, which asks if the screen changes and averages the last layer over the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from digiq.config import configclass
from digiq.errors import DigiQError
from digiq.features.engines.base import Kind, Request
from digiq.features.engines.pipeline import ahead, preparing
from digiq.features.engines.plain import (
    PlainEngine,
    naming,
    open_plain,
    pool_span,
    poolings,
    screens,
    sized,
    wanted_layers,
)

if TYPE_CHECKING:
    from digiq.features.extract import FeaturizeConfig
    from digiq.vlm.backbone import Backbone

_VERSION = 1  # raised when the same settings give different rows


@configclass
class Generated:
    """Pools the answer to a prompt instead of the prompt's spans; goes with the prompt ``paper``."""

    packages: ClassVar = ("torch", "transformers")

    tokens: Annotated[int, Field(ge=1, le=64)] = 1
    """Most tokens of an answer; it ends at the model's own end-of-sequence token, which counts."""

    def open(self, reading: FeaturizeConfig, vlm: Path) -> GeneratedEngine:
        whole = open_plain(dataclasses.replace(reading, layers=("all",)), vlm)
        if whole.backbone.family.unshared:
            kind = whole.backbone.model.config.model_type
            raise DigiQError(
                f"engine generated: models of type '{kind}' read the prompt again for each token of an answer "
                f"({whole.backbone.family.unshared}); use engine plain."
            )
        numbers = wanted_layers(reading.layers, len(whole.numbers))
        return GeneratedEngine(dataclasses.replace(whole, numbers=numbers), self.tokens)


@dataclasses.dataclass(frozen=True)
class GeneratedEngine:
    """The opened VLM, with all its layers, because the last one decides its answer."""

    plain: PlainEngine
    tokens: int

    @property
    def layers(self) -> tuple[str, ...]:
        return self.plain.layers

    def dim(self, kind: Kind) -> int:
        return self.plain.backbone.hidden_size

    def identity(self, kind: Kind) -> dict[str, Any]:
        about = {
            **self.plain.identity(kind),
            "engine": "generated",
            "tokens": self.tokens,
            "generated": _VERSION,
        }
        del about["spans"]
        return about

    def rows(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        from digiq.vlm.backbone import count_tokens, prepare

        backbone, reading = self.plain.backbone, self.plain.reading
        counts = preparing.submit(count_tokens, backbone, [r.prompt for r in requests]).result()
        order = np.lexsort([counts, [len(r.prompt.pictures) for r in requests]])
        size = sized(backbone, [requests[i] for i in order[-1:]], reading.batch_size)

        def load(positions: npt.NDArray[np.int64]) -> Any:
            chosen = [requests[i] for i in positions]
            with naming(chosen):
                return prepare(backbone, screens(chosen), [r.prompt for r in chosen])

        return ahead([order[i : i + size] for i in range(0, len(order), size)], load, self._compute)

    def _compute(self, batch: Any) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            inputs, answer = answered(self.plain.backbone, batch, self.tokens)
            states = self.plain.backbone.model.base_model(
                **inputs, output_hidden_states=True, use_cache=False
            ).hidden_states
            pooled = [
                pool_span(states[layer], answer, how)
                for layer in self.plain.numbers
                for how in poolings(self.plain.pooling)
            ]
            return torch.stack(pooled, dim=1).float().cpu().numpy()


def answered(backbone: Backbone, batch: Any, tokens: int) -> tuple[dict[str, Any], Any]:
    """Model inputs with up to ``tokens`` greedily decoded tokens after each prompt, and their mask: bool [B, T]."""
    import torch

    from digiq.vlm.backbone import with_answers

    inputs = dict(batch.inputs)
    head, family = backbone.model.get_output_embeddings(), backbone.family
    ends = backbone.model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ()) | {backbone.processor.tokenizer.eos_token_id}
    count = inputs["attention_mask"].sum(dim=1)
    goes_on = torch.ones_like(count, dtype=torch.bool)
    length = torch.zeros_like(count)
    for _ in range(tokens):
        last = inputs["attention_mask"].sum(dim=1) - 1
        states = backbone.model.base_model(**inputs, use_cache=False).last_hidden_state
        chosen = head(states[torch.arange(len(last), device=last.device), last]).argmax(dim=-1)
        inputs = with_answers(inputs, chosen, family.answer_type)
        length += goes_on
        goes_on &= torch.tensor([int(token) not in ends for token in chosen.tolist()], device=last.device)
        if not bool(goes_on.any()):
            break
    at = torch.arange(inputs["attention_mask"].shape[1], device=count.device)
    return inputs, (at >= count[:, None]) & (at < (count + length)[:, None])
