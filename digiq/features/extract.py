"""The ``featurize`` stage: hidden states of the frozen VLM for every observation and every distinct candidate."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from android_env.actions import Action, ActionType, format_action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.errors import ArtifactError
from digiq.features.elements import Source, observation_features, pair_features
from digiq.features.engine import check_spans, extract, open_truncated, wanted_layers
from digiq.features.store import KEY_BYTES, RowStore, StoredLayer, row_key
from digiq.progress import progress
from digiq.proposals.propose import Proposals, load_proposals, supported
from digiq.vlm.prompts import Grounding, Prompt, build_prompt, draw_cursor

if TYPE_CHECKING:
    from digiq.vlm.backbone import Backbone

STAGE, VERSION = "featurize", 1
INDEX = "index.npz"
ROWS = "feature_rows"
"""Directory of the rows, beside the artefact, unless another is given."""
KINDS = ("observation", "pair")


@configclass
class FeaturizeConfig:
    """Which hidden states to keep, and how."""

    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Language-model layers, from 1, or from the end with negative numbers; all come from one pass."""
    pair_spans: Annotated[tuple[str, ...], Field(min_length=1)] = ("kind", "part", "fits", "changes")
    """Spans of the pair prompt; each is pooled, and they are concatenated."""
    observation_spans: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "screen",
        "overlay",
        "field",
        "query",
        "address",
    )
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
    source: Literal["vlm", "random_vlm", "text", "elements"] = "vlm"
    """The VLM; the same network with random weights; or no VLM (see ``digiq.features.elements``): goal, action and its
    coordinates as ``text``, or the device's own ``elements``, an oracle. All but the first are for comparison."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out candidates less likely under the proposer than this share of the likeliest, but for logged actions: with no
    more than ``best_of_n.support`` they are candidates that Best-of-N would not take, and often a third of all. 0 leaves
    out none; what is left out has no Q."""
    permute: bool = False
    """Deal the rows out to the wrong observations and actions: a control, whose features say nothing."""
    seed: int = 0
    """Of random weights and of ``permute``."""


@dataclasses.dataclass(frozen=True)
class Features:
    """An opened ``featurize`` artefact; S observations, N candidates each, M distinct (observation, action) pairs."""

    observation: dict[str, npt.NDArray[Any]]
    """By layer name, bfloat16 [S, D]."""
    pair: dict[str, npt.NDArray[Any]]
    """By layer name, bfloat16 [M, D]."""
    candidate_row: npt.NDArray[np.int32]
    """[S, N] rows of ``pair``; -1: no such candidate, or left out; column 0 is the logged action."""


@dataclasses.dataclass(frozen=True)
class StoredFeatures:
    """:class:`Features` whose rows stay in the store until they are asked for."""

    observation: dict[str, StoredLayer]
    """By layer name, bfloat16 [S, D]."""
    pair: dict[str, StoredLayer]
    """By layer name, bfloat16 [M, D]."""
    candidate_row: npt.NDArray[np.int32]
    """[S, N], as in :class:`Features`."""


def layer_name(layer: int) -> str:
    """Name of a layer's arrays."""
    return f"layer_{layer:02d}"


def run(
    config: FeaturizeConfig,
    *,
    episodes: Path,
    proposals: Path,
    vlm: Path,
    out: Path,
    rewards: Path | None = None,
    rows: str | Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Computes the rows that are not stored yet and writes an index over them.

    The index holds keys and ``candidate_row``; the rows live in a store that several indices share, so the same
    episodes with more candidates, or more episodes, cost only what is new.

    Args:
      config: see :class:`FeaturizeConfig`.
      episodes, rewards: the observations, as :class:`LabelledEpisodes` gives them.
      proposals: candidates of the same observations.
      vlm: a Hugging Face image-text-to-text directory.
      out: the artefact.
      rows: the row store, a directory or a ``gs://`` or ``s3://`` URL; None: ``feature_rows`` beside ``out``.
      overwrite: write the index anew; stored rows are read back, and computed again where they are damaged.

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
        plan = _plan(LabelledEpisodes(episodes, rewards), load_proposals(proposals), config)
        backbone, layers = None, (1,)
        if config.source in ("vlm", "random_vlm"):
            for field, items in (("observation_spans", plan.observations), ("pair_spans", plan.pairs)):
                for item in items[:1]:  # they all have the same spans
                    check_spans(getattr(config, field), item.prompt, field)
            backbone = load_backbone(vlm, device=config.device, dtype=config.dtype)
            if config.source == "random_vlm":
                randomise(backbone.model, config.seed)
            backbone, full = open_truncated(backbone, config.layers)
            layers = wanted_layers(config.layers, full)
        root = out.parent / ROWS if rows is None else rows
        model = artifacts.content_digest(vlm)
        index: dict[str, Any] = {"candidate_row": plan.candidate_row}
        groups: dict[str, Any] = {}
        for kind, items, spans in (
            ("observation", plan.observations, config.observation_spans),
            ("pair", plan.pairs, config.pair_spans),
        ):
            about = {
                "kind": kind,
                "model": model,
                "layers": layers,
                "spans": spans,
                "pooling": config.pooling,
                "grounding": config.grounding,
                "dtype": config.dtype,
                "version": VERSION,
            }
            if config.source != "vlm":
                about |= {"source": config.source, "seed": config.seed}
            stamp = repr(about)
            keys = [row_key(stamp, item.digest, item.prompt.text, item.drawn) for item in items]
            dim = _plain(items[0], config).size if backbone is None else len(spans) * backbone.hidden_size
            groups[kind] = f"{kind}-{row_key(stamp).hex()[:12]}", dim
            store = RowStore(
                root, groups[kind][0], _names(layers), groups[kind][1], about=about, repair=overwrite
            )
            _fill(store, dict(zip(keys, items, strict=True)), kind, backbone, layers, spans, config)
            listed = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
            if config.permute:
                listed = listed[np.random.default_rng([config.seed, len(keys)]).permutation(len(keys))]
            index[f"{kind}_key"] = listed
        with artifacts.atomic_path(w.path / INDEX) as temporary, temporary.open("wb") as file:
            np.savez(file, **index)
        counts = {
            "observations": len(plan.observations),
            "distinct_observations": len(np.unique(index["observation_key"], axis=0)),
            "candidates": int((plan.candidate_row >= 0).sum()),
            "pairs": len(plan.pairs),
        }
        # A default store moves with the artefact; one that was named stays where it is.
        where = os.path.relpath(root, w.path) if rows is None else _absolute(rows)
        return w.complete(counts=counts, extra={"rows": where, "groups": groups, "layers": _names(layers)})


def load_features(path: str | Path) -> Features:
    """Opens a ``featurize`` artefact in memory.

    Raises:
      ArtifactError: not finished, made by another stage, rows or a shard missing, or a changed byte
        ("Digest mismatch").
    """
    stored = open_features(path)
    observation, pair = (
        {layer: rows.load() for layer, rows in arrays.items()} for arrays in (stored.observation, stored.pair)
    )
    return Features(observation, pair, stored.candidate_row)


def open_features(path: str | Path) -> StoredFeatures:
    """Opens a ``featurize`` artefact without reading its rows; raises as :func:`load_features`, damage when it is read."""
    artifact = artifacts.open(path, stage=STAGE)
    artifact.verify()
    extra = artifact.manifest.extra
    root = extra["rows"] if "://" in extra["rows"] else artifact.path / extra["rows"]
    arrays: dict[str, dict[str, StoredLayer]] = {}
    with np.load(artifact.path / INDEX, allow_pickle=False) as index:
        for kind in KINDS:
            group, dim = extra["groups"][kind]
            store = RowStore(root, group, extra["layers"], dim)
            keys = [key.tobytes() for key in index[f"{kind}_key"]]
            arrays[kind] = {layer: store.rows(layer, keys) for layer in extra["layers"]}
        return StoredFeatures(arrays["observation"], arrays["pair"], index["candidate_row"])


@dataclasses.dataclass(frozen=True)
class _Item:
    """A request of the engine whose screenshot is decoded and drawn on only when it is its turn."""

    png: bytes
    digest: bytes
    action: Action | None
    prompt: Prompt
    grounding: Grounding
    goal: str
    activity: str
    ui_elements: str

    @property
    def screenshot(self) -> npt.NDArray[np.uint8]:
        screenshot = _decode(self.png)
        return draw_cursor(screenshot, self.action) if self.grounding == "cursor" else screenshot

    @property
    def drawn(self) -> str:
        """The action, if it is drawn on the screenshot."""
        if self.grounding == "text" or self.action is None or self.action.type is not ActionType.DUAL_POINT:
            return ""
        return format_action(self.action)


# A screen's candidates follow one another, so a few decoded screens are enough.
_decode = functools.lru_cache(maxsize=16)(decode_png)


@dataclasses.dataclass(frozen=True)
class _Plan:
    observations: list[_Item]
    """S."""
    pairs: list[_Item]
    """M distinct ones, those of logged actions first."""
    candidate_row: npt.NDArray[np.int32]


def _plan(episodes: LabelledEpisodes, proposals: Proposals, config: FeaturizeConfig) -> _Plan:
    """Lists the rows. Screens and pairs that occur again, in whatever episode, are one row."""
    png: dict[bytes, bytes] = {}
    observations: list[_Item] = []
    goals: list[str] = []
    for episode in episodes:
        for step in episode.steps:
            if not step.is_terminal:
                digest = hashlib.sha256(step.screenshot).digest()
                screenshot = png.setdefault(digest, step.screenshot)
                prompt = build_prompt(step.goal, None, grounding=config.grounding)
                item = _Item(
                    screenshot,
                    digest,
                    None,
                    prompt,
                    config.grounding,
                    step.goal,
                    step.activity,
                    step.ui_elements,
                )
                observations.append(item)
                goals.append(step.goal)
    if len(observations) != len(proposals):
        raise ArtifactError(
            f"proposals: made for {len(proposals)} observations, but the episodes have {len(observations)}; "
            "run 'propose' on these episodes and rewards."
        )
    read = proposals.valid.copy()
    if config.support > 0:
        read[:, 1:] &= supported(proposals.log_prob, proposals.valid, config.support, any_n=True)[:, 1:]
    candidate_row = np.full(read.shape, -1, np.int32)
    pairs: list[_Item] = []
    known: dict[tuple[bytes, str, Action], int] = {}
    for n in range(read.shape[1]):
        for s in np.flatnonzero(read[:, n]):
            action, seen = proposals.action(int(s), n), observations[s]
            row = known.setdefault((seen.digest, goals[s], action), len(pairs))
            if row == len(pairs):
                prompt = build_prompt(goals[s], action, grounding=config.grounding)
                pairs.append(dataclasses.replace(seen, action=action, prompt=prompt))
            candidate_row[s, n] = row
    return _Plan(observations, pairs, candidate_row)


def _fill(
    store: RowStore,
    items: dict[bytes, _Item],
    kind: str,
    backbone: "Backbone | None",
    layers: Sequence[int],
    spans: Sequence[str],
    config: FeaturizeConfig,
) -> None:
    """Computes the rows that ``store`` lacks, shard by shard."""
    with store.lock():
        missing = [key for key in items if key not in store]
        # Similar lengths share a shard, so that the batches inside it carry little padding.
        missing.sort(key=lambda key: (len(items[key].prompt.text), items[key].digest))
        stored = len(items) - len(missing)
        with progress(f"featurize {kind}s", len(items), unit="rows", done=stored) as bar:
            for start in range(0, len(missing), store.rows_per_shard):
                shard = missing[start : start + store.rows_per_shard]
                features = np.empty((len(shard), len(layers), store.dim), np.float32)
                if backbone is None:
                    for position, key in enumerate(shard):
                        features[position] = _plain(items[key], config)
                    store.append(shard, features)
                    bar.advance(len(shard))
                    continue
                for positions, block in extract(
                    backbone,
                    [items[key] for key in shard],
                    layers=layers,
                    spans=spans,
                    pooling=config.pooling,
                    batch_size=config.batch_size,
                ):
                    features[positions] = block
                    bar.advance(len(positions))
                store.append(shard, features)


def _plain(item: _Item, config: FeaturizeConfig) -> npt.NDArray[np.float32]:
    """The item's features without a VLM, float32[D]."""
    source: Source = "elements" if config.source == "elements" else "text"
    if item.action is None:
        return observation_features(source, item.goal, item.activity, item.ui_elements)
    return pair_features(source, item.goal, item.action, item.activity, item.ui_elements)


def randomise(model: Any, seed: int) -> None:
    """Draws every weight of a network anew, in place: matrices with deviation 1/√fan-in, gains 1, biases 0."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                fan_in = parameter[0].numel()
                drawn = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
                parameter.copy_(drawn.to(parameter.dtype))
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def _names(layers: Sequence[int]) -> list[str]:
    return [layer_name(layer) for layer in layers]


def _absolute(rows: str | Path) -> str:
    return str(rows) if "://" in str(rows) else str(Path(rows).resolve())
