"""Computes features of plain screens, goals and actions, without artefacts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq.config import load
from digiq.errors import DigiQError
from digiq.features.engines.base import Layer, Request
from digiq.features.extract import FeaturizeConfig
from digiq.features.screens import to_screenshot
from digiq.vlm.prompts import Grounding, describe_history


def extract_features(
    items: Iterable[tuple[Any, ...]],
    *,
    model: str | Path,
    layers: Sequence[Layer] = (-1,),
    spans: Sequence[str] = (),
    pooling: str = "auto",
    prompt: str = "auto",
    grounding: Grounding = "cursor",
    engine: str = "plain",
    batch_size: int | Literal["auto"] = 32,
    dtype: str = "bfloat16",
    device: str = "cpu",
) -> dict[int | str, npt.NDArray[np.float32]]:
    """Features of screens, goals and actions.

    Args:
      items: (image, goal, action) or (image, goal, candidates), optionally followed by history and the image before the
        last action. An image is anything that :func:`digiq.features.screens.to_screenshot` takes. Action None gives the
        features of the observation. Candidates are a sequence of actions, and history is a sequence of earlier actions.
        Either all actions are None or none is, because the two kinds of prompt have different spans.
      model: a Hugging Face image-text-to-text directory.
      layers: as ``featurize.layers``.
      spans: spans of the prompt, or ``answer``, the last token; none: those named in the prompt's file.
      pooling: of each span: last, mean, both, or auto (as the prompt's file says).
      prompt: general, paper, readout, the path of a file, or auto.
      grounding: how a tap's place is shown.
      engine: one of :data:`digiq.features.engines.ENGINES`.
      batch_size: prompts per forward pass; auto: as many as memory allows.
      dtype: torch's name of the model's dtype.
      device: where torch runs.

    Returns:
      By resolved layer number, float32 [R, len(spans)·H], with one row per action, in order of items and candidates. If
      ``pooling`` is both, by names such as ``layer_03_mean``.

    Raises:
      DigiQError: there are no items, an item is not as above, or a model, layer or span does not exist.
    """
    told = {
        "layers": list(layers),
        "pooling": pooling,
        "prompt": prompt,
        "grounding": grounding,
        "engine": engine,
    }
    told |= {"batch_size": batch_size, "dtype": dtype, "device": device}
    config = load(FeaturizeConfig, told, where="extract_features").resolved(Path(model))
    requests: list[Request] = []
    for number, item in enumerate(items):
        requests += _requests(item, f"item {number}", config)
    if not requests:
        raise DigiQError("extract_features: no items were given.")
    if len({request.action is None for request in requests}) > 1:
        raise DigiQError("extract_features: some items have an action and some have None; use two calls.")
    if spans:
        field = "observation_spans" if requests[0].action is None else "pair_spans"
        config = dataclasses.replace(config, **{field: tuple(spans)})
    opened = config.chosen.open(config, Path(model))
    out: npt.NDArray[np.float32] | None = None
    for positions, features in opened.rows(requests):
        if out is None:
            out = np.empty((len(requests), *features.shape[1:]), np.float32)
        out[positions] = features
    assert out is not None
    number = {name: name.removeprefix("layer_") for name in opened.layers}
    return {int(n) if n.isdigit() else name: out[:, i] for i, (name, n) in enumerate(number.items())}


def _requests(item: Any, where: str, config: FeaturizeConfig) -> list[Request]:
    if not isinstance(item, Sequence) or isinstance(item, str | bytes) or not 3 <= len(item) <= 5:
        raise DigiQError(
            f"extract_features: {where} is not (image, goal, candidates), (image, goal, candidates, history) or (image, goal, "
            "candidates, history, image before)."
        )
    image, goal, asked, *more = item
    if not isinstance(goal, str):
        raise DigiQError(
            f"extract_features: {where} has a goal of type {type(goal).__name__}; give a string."
        )
    actions = [asked] if asked is None or isinstance(asked, Action) else list(asked)
    past, earlier = (*more, None, None)[:2]
    history = [] if past is None else list(past)
    wrong = [a for a in (*actions, *history) if not (isinstance(a, Action) or (a is None and a is asked))]
    if wrong or not actions:
        said = f"a {type(wrong[0]).__name__} among its actions" if wrong else "no candidates"
        raise DigiQError(f"extract_features: {where} has {said}; give Action objects, or None alone.")
    screenshot = to_screenshot(image, f"extract_features: {where}")
    before = (
        None if earlier is None else to_screenshot(earlier, f"extract_features: {where}, the image before")
    )
    template = config.template
    first = Request.build(
        screenshot,
        goal,
        actions[0],
        config.grounding,
        template=template,
        history=describe_history(history, len(history)),
        before=before,
        where=where,
    )
    return [first, *(first.of(action, template) for action in actions[1:])]
