"""The ``featurize`` stage: hidden states of the frozen VLM for every observation and every distinct candidate."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from android_env.actions import Action, ActionType, format_action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.data.transitions import observation_index
from digiq.errors import ArtifactError
from digiq.features.engine import Request, extract, open_truncated, wanted_layers
from digiq.features.store import ROWS_PER_SHARD, RowStore, row_key
from digiq.progress import progress
from digiq.proposals.propose import load_proposals
from digiq.vlm.prompts import build_prompt

STAGE, VERSION = "featurize", 1
INDEX = "index.npz"


@configclass
class FeaturizeConfig:
    """Which hidden states to keep, and how."""

    layers: tuple[int, ...] = (-1,)
    """Language-model layers, from 1, or from the end with negative numbers; all come from one pass."""
    pair_spans: tuple[str, ...] = ("kind", "part", "fits", "changes")
    """Spans of the pair prompt; each is pooled, and they are concatenated."""
    observation_spans: tuple[str, ...] = ("screen", "overlay", "field", "query", "address")
    """Spans of the observation prompt."""
    pooling: Literal["last", "mean"] = "last"
    """The last token of a span, or the mean of its tokens."""
    grounding: Literal["cursor", "text"] = "cursor"
    """How the VLM sees where a tap lands: drawn on the screenshot, or as coordinates."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Prompts a forward pass."""
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    """Of the model's weights and activations; stored features are bfloat16."""
    device: str = "cpu"
    """Where torch runs: cpu, cuda, cuda:1, ..."""


@dataclasses.dataclass(frozen=True)
class Features:
    """An opened ``featurize`` artefact; S observations, N candidates each, M distinct (observation, action) pairs."""

    observation: dict[str, npt.NDArray[Any]]
    """By layer name, bfloat16 [S, D]."""
    pair: dict[str, npt.NDArray[Any]]
    """By layer name, bfloat16 [M, D]."""
    candidate_row: npt.NDArray[np.int32]
    """[S, N] rows of ``pair``; -1: no such candidate; column 0 is the logged action."""


def layer_name(layer: int) -> str:
    """Name of a layer's arrays."""
    return f"layer_{layer:02d}"


def run(
    config: FeaturizeConfig,
    *,
    episodes: Path,
    rewards: Path | None,
    proposals: Path,
    vlm: Path,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Computes the rows that ``out`` lacks and writes the index over them.

    Args:
      config: see :class:`FeaturizeConfig`.
      episodes, rewards: the observations, as :class:`LabelledEpisodes` gives them.
      proposals: candidates of the same episodes.
      vlm: a Hugging Face image-text-to-text directory.
      out: the artefact.
      overwrite: start anew.

    Raises:
      DigiQError: a model without a processor, a layer or span that is not there, proposals of other episodes.
    """
    from digiq.vlm.backbone import load_backbone

    inputs = {"episodes": episodes, "rewards": rewards, "proposals": proposals, "vlm": vlm}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        backbone = load_backbone(vlm, device=config.device, dtype=config.dtype)
        backbone, full = open_truncated(backbone, config.layers)
        layers = wanted_layers(config.layers, full)
        table = _plan(LabelledEpisodes(episodes, rewards), load_proposals(proposals), config)
        model = artifacts.content_digest(vlm)
        rows = {}
        for kind, items, spans in (
            ("observation", table.observations, config.observation_spans),
            ("pair", table.pairs, config.pair_spans),
        ):
            store = _open_store(w.path, kind, layers, spans, backbone.hidden_size)
            stamp = f"{model} {layers} {spans} {config.pooling} {config.dtype}"
            keys = [row_key(item.digest, item.prompt_text, item.drawn, stamp) for item in items]
            _fill(store, keys, items, kind, backbone, layers, spans, config)
            rows[kind] = store.rows(keys)
        with artifacts.atomic_path(w.path / INDEX) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                observation_row=rows["observation"],
                pair_row=rows["pair"],
                candidate_row=table.candidate_row,
                layers=np.array(layers),
                dims=np.array(
                    [len(s) * backbone.hidden_size for s in (config.observation_spans, config.pair_spans)]
                ),
            )
        counts = {
            "observations": len(table.observations),
            "pairs": len(table.pairs),
            "candidates": int((table.candidate_row >= 0).sum()),
            "observation_rows": len(np.unique(rows["observation"])),
            "pair_rows": len(np.unique(rows["pair"])),
        }
        return w.complete(counts=counts)


def load_features(path: str | Path) -> Features:
    """Opens a ``featurize`` artefact in memory.

    Raises:
      ArtifactError: not finished, made by another stage, a missing shard, or a changed byte ("Digest mismatch").
    """
    path = artifacts.open(path, stage=STAGE).path
    with np.load(path / INDEX, allow_pickle=False) as index:
        names = [layer_name(int(layer)) for layer in index["layers"]]
        arrays: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for kind, dim in zip(("observation", "pair"), index["dims"], strict=True):
            store = RowStore(path / kind, names, int(dim))
            arrays[kind] = {name: store.read(name, index[f"{kind}_row"]) for name in names}
        return Features(arrays["observation"], arrays["pair"], index["candidate_row"])


@dataclasses.dataclass(frozen=True)
class _Item:
    """What one row is computed from."""

    screenshot: bytes
    digest: bytes
    goal: str
    action: Action | None
    prompt_text: str
    drawn: str
    """The action if it is drawn on the screenshot."""


@dataclasses.dataclass(frozen=True)
class _Table:
    observations: list[_Item]
    pairs: list[_Item]
    candidate_row: npt.NDArray[np.int32]


def _plan(episodes: LabelledEpisodes, proposals: Any, config: FeaturizeConfig) -> _Table:
    """Lists every row: distinct (observation, action) pairs, those of logged actions first."""
    loaded = list(episodes)
    index = observation_index(loaded)
    if len(index) != len(proposals.valid):
        raise ArtifactError(
            f"proposals hold {len(proposals.valid)} observations, the episodes {len(index)}; run 'propose' again."
        )
    steps = [loaded[e].steps[t] for e, t in index]
    digests = [hashlib.sha256(step.screenshot).digest() for step in steps]
    observations = [
        _item(step.screenshot, d, step.goal, None, config) for step, d in zip(steps, digests, strict=True)
    ]
    candidate_row = np.full(proposals.valid.shape, -1, np.int32)
    pairs: list[_Item] = []
    known: dict[tuple[int, Action], int] = {}
    for n in range(candidate_row.shape[1]):
        for s in np.flatnonzero(proposals.valid[:, n]):
            action = proposals.action(int(s), n)
            row = known.setdefault((int(s), action), len(pairs))
            if row == len(pairs):
                pairs.append(_item(steps[s].screenshot, digests[s], steps[s].goal, action, config))
            candidate_row[s, n] = row
    return _Table(observations, pairs, candidate_row)


def _item(
    screenshot: bytes, digest: bytes, goal: str, action: Action | None, config: FeaturizeConfig
) -> _Item:
    prompt = build_prompt(goal, action, grounding=config.grounding)
    drawn = config.grounding == "cursor" and action is not None and action.type is ActionType.DUAL_POINT
    return _Item(
        screenshot, digest, goal, action, prompt.text, format_action(action) if drawn and action else ""
    )


def _open_store(path: Path, kind: str, layers: Sequence[int], spans: Sequence[str], hidden: int) -> RowStore:
    return RowStore(path / kind, [layer_name(layer) for layer in layers], len(spans) * hidden)


def _fill(
    store: RowStore,
    keys: Sequence[bytes],
    items: Sequence[_Item],
    kind: str,
    backbone: Any,
    layers: Sequence[int],
    spans: Sequence[str],
    config: FeaturizeConfig,
) -> None:
    """Computes the missing rows shard by shard."""
    distinct = dict(zip(keys, items, strict=True))
    missing = [key for key in distinct if key not in store]
    # Similar lengths share a shard, so that the batches inside it carry little padding.
    missing.sort(key=lambda key: len(distinct[key].prompt_text))
    name = f"featurize {kind}s"
    with progress(name, len(distinct), unit="rows", done=len(distinct) - len(missing)) as bar:
        for shard in _chunks(missing, ROWS_PER_SHARD):
            requests = [
                Request.build(decode_png(item.screenshot), item.goal, item.action, config.grounding)
                for item in (distinct[key] for key in shard)
            ]
            features = np.empty((len(shard), len(layers), store.dim), np.float32)
            for positions, block in extract(
                backbone,
                requests,
                layers=layers,
                spans=spans,
                pooling=config.pooling,
                batch_size=config.batch_size,
            ):
                features[positions] = block
                bar.advance(len(positions))
            store.append(shard, features)


def _chunks(keys: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    return (keys[i : i + size] for i in range(0, len(keys), size))
