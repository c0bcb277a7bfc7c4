"""The ``featurize`` stage: features of every observation and every distinct candidate, by the chosen engine."""

import dataclasses
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from android_env.actions import Action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import ArtifactError, ConfigError, DigiQError
from digiq.features.engines import ENGINES, ByState, Deals, Engine, Request
from digiq.features.engines.base import Kind, Layer
from digiq.features.store import KEY_BYTES, RowStore, StoredLayer, row_key
from digiq.progress import progress
from digiq.proposals.propose import Proposals, load_proposals, supported
from digiq.tables import chosen_from
from digiq.vlm.prompts import Template, default_prompt, describe_history, load_template, prompt_file

STAGE, VERSION = "featurize", 1
IMPORTED = "import-features"
"""The other stage that writes such artefacts (:mod:`digiq.features.given`)."""
INDEX = "index.npz"
ROWS = "feature_rows"
"""Directory of the rows, beside the artefact, unless another is given."""
_LARGE = 10**9  # bytes from which on the size is said beforehand
KINDS: tuple[Kind, ...] = get_args(Kind)


@configclass
class FeaturizeConfig(chosen_from(ENGINES, default="plain")):
    """What computes features, which hidden states of the VLM it keeps, and how."""

    layers: Annotated[tuple[Layer, ...], Field(min_length=1)] = (-1,)
    """Language-model layers: from 1, or from the end with negative numbers; a share of the depth (0.5), ``middle`` or
    ``all``. All come from one pass."""
    prompt: str = "auto"
    """What the VLM is asked: general, paper or readout, or the path of a file like theirs (digiq/vlm/templates). auto:
    readout for the embedded model, general for others."""
    pair_spans: tuple[str, ...] = ()
    """Spans of the pair prompt; each is pooled, and they are concatenated. None: those that the prompt's file names."""
    observation_spans: tuple[str, ...] = ()
    """Spans of the observation prompt."""
    pooling: Literal["auto", "last", "mean", "both"] = "auto"
    """The last token of a span, or the mean of its tokens; both: one and the other, as layers of their own; auto: as the
    prompt's file says."""
    history: Annotated[int, Field(ge=0)] = 0
    """So many previous actions of the episode stand in the prompt, in words; the prompt's file must have a place for them."""
    grounding: Literal["cursor", "text"] = "cursor"
    """How the VLM sees where a tap lands: drawn on the screenshot, or as coordinates."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Prompts a forward pass."""
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    """Of the model's weights and activations; stored features are bfloat16."""
    device: str = "cpu"
    """Where torch runs: cpu, cuda, cuda:1, ..."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out candidates less likely under the proposer than this share of the likeliest, but for logged actions: with no
    more than ``best_of_n.support`` they are candidates that Best-of-N would not take, and often a third of all. 0 leaves
    out none; what is left out has no Q."""

    def spans(self, kind: Kind) -> tuple[str, ...]:
        """What is pooled of the prompts of a kind; of a config that is :meth:`resolved`."""
        return self.observation_spans if kind == "observation" else self.pair_spans

    @property
    def template(self) -> Template:
        """The prompt's file; of a config that is :meth:`resolved`."""
        return load_template(self.prompt)

    def resolved(self, vlm: Path) -> "FeaturizeConfig":
        """With a prompt, spans and pooling said outright, for a VLM.

        Raises:
          ConfigError: no such prompt, or it has no place for the history that is wanted.
        """
        prompt = default_prompt(vlm) if self.prompt == "auto" else self.prompt
        template = load_template(prompt)
        if self.history and not template.has_history:
            raise ConfigError(
                f"featurize.history is {self.history}, but the prompt '{prompt}' has no line with {{history}}; choose another."
            )
        return dataclasses.replace(
            self,
            prompt=prompt,
            pair_spans=self.pair_spans or template.pair,
            observation_spans=self.observation_spans or template.observation,
            pooling=template.pooling if self.pooling == "auto" else self.pooling,
        )


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
    inputs = {"episodes": episodes, "rewards": rewards, "proposals": proposals, "vlm": vlm}
    inputs["prompt"] = prompt_file(config.prompt)
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        config = config.resolved(vlm)
        plan = _plan(LabelledEpisodes(episodes, rewards), load_proposals(proposals), config)
        engine: Engine = config.chosen.open(config, vlm)
        root = out.parent / ROWS if rows is None else rows
        index: dict[str, Any] = {"candidate_row": plan.candidate_row}
        groups: dict[str, Any] = {}
        wanted: dict[Kind, list[Request]] = {"observation": plan.observations, "pair": plan.pairs}
        for kind, requests in wanted.items():
            about = {"kind": kind, **engine.identity(kind)}
            stamp = repr(about)
            keys = [row_key(stamp, r.digest, r.prompt.text, r.drawn) for r in requests]
            groups[kind] = f"{kind}-{row_key(stamp).hex()[:12]}", engine.dim(kind)
            store = RowStore(
                root, groups[kind][0], engine.layers, groups[kind][1], about=about, repair=overwrite
            )
            _fill(store, dict(zip(keys, requests, strict=True)), kind, engine)
            listed = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
            # A control of the laboratory deals rows out to the wrong requests.
            index[f"{kind}_key"] = engine.deal(listed) if isinstance(engine, Deals) else listed
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
        return w.complete(
            counts=counts, extra={"rows": where, "groups": groups, "layers": list(engine.layers)}
        )


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
    given = artifacts.read_manifest(path).stage == IMPORTED
    artifact = artifacts.open(path, stage=IMPORTED if given else STAGE)
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
class _Plan:
    observations: list[Request]
    """S."""
    pairs: list[Request]
    """M distinct ones, those of logged actions first."""
    candidate_row: npt.NDArray[np.int32]


def _plan(episodes: LabelledEpisodes, proposals: Proposals, config: FeaturizeConfig) -> _Plan:
    """Lists the rows. Screens and pairs that occur again, in whatever episode, are one row."""
    png: dict[bytes, bytes] = {}
    observations: list[Request] = []
    template = config.template
    for episode in episodes:
        done: list[Action] = []
        for t, step in enumerate(episode.steps):
            if not step.is_terminal:
                digest = hashlib.sha256(step.screenshot).digest()
                request = Request.build(
                    png.setdefault(digest, step.screenshot),
                    step.goal,
                    None,
                    config.grounding,
                    template=template,
                    history=describe_history(done, config.history),
                    digest=digest,
                    where=f"episode {episode.episode_id}, step {t}",
                    activity=step.activity,
                    ui_elements=step.ui_elements,
                )
                observations.append(request)
            if step.action is not None:
                done.append(step.action)
    if len(observations) != len(proposals):
        raise ArtifactError(
            f"proposals: made for {len(proposals)} observations, but the episodes have {len(observations)}; "
            "run 'propose' on these episodes and rewards."
        )
    read = proposals.valid.copy()
    if config.support > 0:
        read[:, 1:] &= supported(proposals.log_prob, proposals.valid, config.support, any_n=True)[:, 1:]
    candidate_row = np.full(read.shape, -1, np.int32)
    pairs: list[Request] = []
    if not read.any(axis=1).all() and len(read):
        raise ArtifactError(
            f"proposals: {observations[int(np.argmin(read.any(axis=1)))].where} has no candidate at all; run 'propose' again."
        )
    known: dict[tuple[bytes, str, str, Action], int] = {}
    for n in range(read.shape[1]):
        for s in np.flatnonzero(read[:, n]):
            action, seen = proposals.action(int(s), n), observations[s]
            row = known.setdefault((seen.digest, seen.goal, seen.history, action), len(pairs))
            if row == len(pairs):
                pairs.append(seen.of(action, template))
            candidate_row[s, n] = row
    return _Plan(observations, pairs, candidate_row)


def _fill(store: RowStore, requests: dict[bytes, Request], kind: Kind, engine: Engine) -> None:
    """Computes the rows that ``store`` lacks, shard by shard."""
    with store.lock():
        missing = [key for key in requests if key not in store]
        _check_space(store, len(missing), kind)
        together = isinstance(engine, ByState)
        # Similar lengths share a shard, so that the batches inside it carry little padding; candidates of a state do,
        # where an engine reads the state once for all of them.
        missing.sort(
            key=lambda key: (
                (requests[key].state, len(requests[key].prompt.text))
                if together
                else (len(requests[key].prompt.text), requests[key].digest)
            )
        )
        stored = len(requests) - len(missing)
        with progress(f"featurize {kind}s", len(requests), unit="rows", done=stored) as bar:
            start = 0
            while start < len(missing):
                shard = missing[start : start + store.rows_per_shard]
                if together and start + len(shard) < len(missing):
                    shard = _whole_states(shard, requests, missing[start + len(shard)])
                start += len(shard)
                features = np.empty((len(shard), len(engine.layers), store.dim), np.float32)
                for positions, block in engine.rows([requests[key] for key in shard]):
                    _check_finite(block, [requests[shard[p]] for p in positions], engine.layers)
                    features[positions] = block
                    bar.advance(len(positions))
                store.append(shard, features)


def _check_space(store: RowStore, rows: int, kind: Kind) -> None:
    """Says how much will be written, and refuses it before work starts where the disk cannot hold it."""
    size = rows * len(store.layers) * store.dim * 2
    if size < _LARGE:
        return
    words = f"{rows:,} {kind} rows of {len(store.layers)} x {store.dim} numbers are {size / 1e9:.1f} GB"
    if "://" not in store.path:
        free = shutil.disk_usage(store.path).free
        if size > free:
            raise DigiQError(
                f"featurize: {words}, and {store.path} has {free / 1e9:.1f} GB free; keep fewer layers, spans or candidates, or "
                "name another --rows."
            )
        words += f" of {free / 1e9:.1f} GB free"
    print(f"featurize: {words}", file=sys.stderr)


def _whole_states(shard: list[bytes], requests: dict[bytes, Request], following: bytes) -> list[bytes]:
    """A shard without the state that goes on after it, unless it is all of one state."""
    state = requests[following].state
    kept = [key for key in shard if requests[key].state != state]
    return kept or shard


def _check_finite(block: npt.NDArray[np.float32], requests: Sequence[Request], layers: Sequence[str]) -> None:
    if np.isfinite(block).all():
        return
    row, layer = np.argwhere(~np.isfinite(block).all(axis=-1))[0]
    raise DigiQError(
        f"featurize: {requests[row].where or 'a request'}: {layers[layer]} of the model holds NaN or Inf there; try "
        "featurize.dtype float32. Finished shards are kept."
    )


def _absolute(rows: str | Path) -> str:
    return str(rows) if "://" in str(rows) else str(Path(rows).resolve())
