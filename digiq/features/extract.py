"""The ``featurize`` stage: the chosen engine computes features of every observation and every distinct candidate."""

import contextlib
import dataclasses
import functools
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import ConfigError, DigiQError
from digiq.features import cluster
from digiq.features.engines import ENGINES, ByState, Deals, Engine, Request
from digiq.features.engines.base import Kind, Layer
from digiq.features.engines.pipeline import Meter, metered
from digiq.features.plan import Plan, check_sizes, cut, share_of
from digiq.features.store import RowStore, StoredLayer, distinct, row_key
from digiq.progress import progress
from digiq.proposals.propose import load_proposals
from digiq.tables import chosen_from, json_argument
from digiq.vlm.prompts import Grounding, Template, default_prompt, load_template, prompt_file

STAGE, VERSION = "featurize", 1
IMPORTED = "import-features"
"""The other stage that writes feature artefacts (:mod:`digiq.features.given`)."""
INDEX = "index.npz"
ROWS = "feature_rows"
"""Default directory of the rows, beside the artefact."""
_LONG = 60.0  # seconds from which the expected time is logged beforehand
_ENOUGH = 3.0  # seconds of work from which it is estimated
_LARGE = 10**9  # bytes from which the size is logged beforehand
KINDS: tuple[Kind, ...] = get_args(Kind)


@configclass
class History:
    """How much of the previous steps appears in the prompts of Q and V."""

    actions: Annotated[int, Field(ge=0)] = 0
    """Number of previous actions, in words; the prompt's file must have a place for them."""
    screenshot: bool = False
    """Whether the screenshot before the last action precedes the current one; the first step has none."""


@configclass
class FeaturizeConfig(chosen_from(ENGINES, default="plain")):
    """Which engine computes the features, which hidden states of the VLM it keeps, and how."""

    layers: Annotated[tuple[Layer, ...], Field(min_length=1)] = (-1,)
    """Language-model layers: numbers from 1, or negative ones from the end; a fraction of the depth (0.5); ``middle``
    or ``all``. One pass computes all of them."""
    prompt: str = "auto"
    """The VLM's prompt: general, paper or readout, or the path of a file like theirs (digiq/vlm/templates). auto:
    readout for the embedded model, general for others."""
    pair_spans: tuple[str, ...] = ()
    """Spans of the pair prompt; each is pooled, and the results are concatenated. None: those named in the prompt's
    file."""
    observation_spans: tuple[str, ...] = ()
    """Spans of the observation prompt, likewise."""
    pooling: Literal["auto", "last", "mean", "both"] = "auto"
    """last: the last token of a span; mean: the mean of its tokens; both: the two as separate layers; auto: as the
    prompt's file says."""
    history: Annotated[Annotated[int, Field(ge=0)] | History, json_argument] = 0
    """Number of previous actions of the episode in the prompt, in words; or {"actions": 3, "screenshot": true}, which
    also shows the screenshot before the last of them."""
    grounding: Grounding = "cursor"
    """How the VLM sees where a tap lands: drawn on the screenshot, as coordinates, or as coordinates plus a small crop
    of the screenshot with the cursor in it."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 32
    """Prompts per forward pass; auto: as many as should fit into free memory. A batch that does not fit is halved."""
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    """Type of the model's weights and activations; stored features are bfloat16."""
    device: str = "cpu"
    """Where torch runs: cpu, cuda, cuda:1, ..."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out candidates, except logged actions, whose probability under the proposer is below this fraction of the
    likeliest one's. A value of at most ``best_of_n.support`` leaves out only candidates that Best-of-N would not take,
    often a third of all. 0 leaves out none. Candidates left out have no Q."""

    def spans(self, kind: Kind) -> tuple[str, ...]:
        """The spans pooled in prompts of a kind; only for a :meth:`resolved` config."""
        return self.observation_spans if kind == "observation" else self.pair_spans

    @property
    def remembered(self) -> History:
        """``history``, spelled out."""
        return History(actions=self.history) if isinstance(self.history, int) else self.history

    @property
    def template(self) -> Template:
        """The prompt's file; only for a :meth:`resolved` config."""
        return load_template(self.prompt)

    def resolved(self, vlm: Path) -> "FeaturizeConfig":
        """The config with prompt, spans and pooling spelled out for a VLM.

        Raises:
          ConfigError: there is no such prompt, or it has no place for the requested history.
        """
        prompt = default_prompt(vlm) if self.prompt == "auto" else self.prompt
        template = load_template(prompt)
        if self.remembered.actions and not template.has_history:
            raise ConfigError(
                f"featurize.history is {self.remembered.actions} actions, but the prompt '{prompt}' has no line with {{history}}; choose another prompt."
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
    """[S, N] row numbers in ``pair``; -1: no such candidate, or left out; column 0 is the logged action."""


@dataclasses.dataclass(frozen=True)
class StoredFeatures:
    """:class:`Features` whose rows stay in the store until requested."""

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
    worker: str | None = None,
    executor: Literal["here", "ray"] = "here",
    overwrite: bool = False,
) -> Artifact:
    """Computes the rows that are not stored yet and writes an index of all rows.

    The index holds keys and ``candidate_row``; the rows live in a store that several indices share. Adding candidates
    or episodes therefore costs only the new rows.

    Args:
      config: see :class:`FeaturizeConfig`.
      episodes, rewards: the observations, as :class:`LabelledEpisodes` gives them.
      proposals: candidates of the same observations.
      vlm: a Hugging Face image-text-to-text directory.
      out: the artefact.
      rows: the row store, a directory or a ``gs://`` or ``s3://`` URL; None: ``feature_rows`` beside ``out``.
      worker: i/n computes the i-th of n fixed shares of the shards, for several devices or machines that share a
        directory. The worker that finds all rows stored writes the index; the others leave the artefact unfinished.
      executor: with ray, the nodes of a Ray cluster compute the shares (:mod:`digiq.features.cluster`).
      overwrite: write the index anew; stored rows are read back, and recomputed where damaged.

    Raises:
      DigiQError: the model has no processor, a layer or span does not exist, or the proposals belong to other episodes.
    """
    inputs = {"episodes": episodes, "rewards": rewards, "proposals": proposals, "vlm": vlm}
    inputs["prompt"] = prompt_file(config.prompt)
    root = out.parent / ROWS if rows is None else rows
    if executor == "ray":
        if worker is not None:
            raise ConfigError("featurize: --executor ray assigns the shares itself; leave out --worker.")
        _read_worker("1/1", root, overwrite)
        given: dict[str, Any] = {name: path for name, path in inputs.items() if name != "prompt"}
        cluster.on_ray(functools.partial(run, config, **given, out=out, rows=rows), config.device)
        return artifacts.open(out, stage=STAGE)
    share = None if worker is None else _read_worker(worker, root, overwrite)

    def opened() -> contextlib.AbstractContextManager[artifacts.Writer]:
        return artifacts.write(
            out,
            stage=STAGE,
            version=VERSION,
            config=config,
            inputs=inputs,
            overwrite=overwrite,
            wait=share is not None,
        )

    if share is None:
        with opened() as w:
            if w.done:
                return w.artifact
            work = _open(config.resolved(vlm), episodes, rewards, proposals, vlm, root, overwrite)
            for kind in KINDS:
                _fill(work, kind, None)
            return _finish(w, work, rows)
    with opened() as w:  # an existing artefact may have another config, or be finished
        if w.done:
            return w.artifact
    work = _open(config.resolved(vlm), episodes, rewards, proposals, vlm, root, False)
    for kind in KINDS:
        _fill(work, kind, share)
    if not work.is_done:
        return Artifact(out, dataclasses.replace(w.manifest, counts={"share": worker}))
    with opened() as w:
        return w.artifact if w.done else _finish(w, work, rows)


def _finish(w: artifacts.Writer, work: "_Work", rows: str | Path | None) -> Artifact:
    """Writes the index."""
    plan, engine = work.plan, work.engine
    index: dict[str, Any] = {"candidate_row": plan.candidate_row}
    for kind in KINDS:
        keys = plan.listed[kind].key
        # One of the laboratory's controls deals rows out to the wrong requests.
        index[f"{kind}_key"] = engine.deal(keys) if isinstance(engine, Deals) else keys
    with artifacts.atomic_path(w.path / INDEX) as temporary, temporary.open("wb") as file:
        np.savez(file, **index)
    counts = {
        "observations": len(plan.listed["observation"]),
        "distinct_observations": len(distinct(index["observation_key"])[0]),
        "candidates": int((plan.candidate_row >= 0).sum()),
        "pairs": len(plan.listed["pair"]),
    }
    # A default store moves with the artefact; a named one stays where it is.
    where = os.path.relpath(w.path.parent / ROWS, w.path) if rows is None else _absolute(rows)
    return w.complete(
        counts=counts, extra={"rows": where, "groups": work.groups, "layers": list(engine.layers)}
    )


def _read_worker(worker: str, root: str | Path, overwrite: bool) -> tuple[int, int]:
    """(i, n) of ``i/n``."""
    i, _, n = worker.partition("/")
    if not (i.isascii() and i.isdigit() and n.isascii() and n.isdigit() and 1 <= int(i) <= int(n)):
        raise ConfigError(f"featurize: --worker is '{worker}'; write 1/4, 2/4, 3/4 and 4/4 for four workers.")
    if overwrite:
        raise ConfigError("featurize: --overwrite is for one process; run it without --worker.")
    if "://" in str(root):
        raise ConfigError(
            f"featurize: workers cannot write to {root} at the same time, as it has no lock; set --rows to a shared directory."
        )
    return int(i), int(n)


def load_features(path: str | Path) -> Features:
    """Reads a ``featurize`` artefact into memory.

    Raises:
      ArtifactError: it is unfinished or made by another stage, rows or a shard are missing, or a byte has changed
        ("Digest mismatch").
    """
    stored = open_features(path)
    observation, pair = (
        {layer: rows.load() for layer, rows in arrays.items()} for arrays in (stored.observation, stored.pair)
    )
    return Features(observation, pair, stored.candidate_row)


def open_features(path: str | Path) -> StoredFeatures:
    """Opens a ``featurize`` artefact without reading its rows; raises as :func:`load_features` does, but for damaged
    rows only on reading."""
    given = artifacts.read_manifest(path).stage == IMPORTED
    artifact = artifacts.open(path, stage=IMPORTED if given else STAGE)
    extra = artifact.manifest.extra
    root = extra["rows"] if "://" in extra["rows"] else artifact.path / extra["rows"]
    arrays: dict[str, dict[str, StoredLayer]] = {}
    with np.load(artifact.path / INDEX, allow_pickle=False) as index:
        for kind in KINDS:
            group, dim = extra["groups"][kind]
            store = RowStore(root, group, extra["layers"], dim)
            keys = index[f"{kind}_key"]
            arrays[kind] = {layer: store.rows(layer, keys) for layer in extra["layers"]}
        return StoredFeatures(arrays["observation"], arrays["pair"], index["candidate_row"])


@dataclasses.dataclass(frozen=True)
class _Work:
    """An opened stage: the rows wanted, the engine that computes them, and the stores that take them."""

    plan: Plan
    engine: Engine
    stores: dict[Kind, RowStore]
    groups: dict[str, tuple[str, int]]
    """By kind, the store's group and the width of its rows."""

    @property
    def is_done(self) -> bool:
        """Whether every row is stored, by this or any other process."""
        for kind, store in self.stores.items():
            with store.lock():
                if not store.has(self.plan.listed[kind].key).all():
                    return False
        return True


def _open(
    config: FeaturizeConfig,
    episodes: Path,
    rewards: Path | None,
    proposals: Path,
    vlm: Path,
    root: str | Path,
    repair: bool,
) -> _Work:
    labelled, candidates = LabelledEpisodes(episodes, rewards), load_proposals(proposals)
    check_sizes(labelled, candidates)
    engine: Engine = config.chosen.open(config, vlm)
    about: dict[Kind, dict[str, Any]] = {kind: {"kind": kind, **engine.identity(kind)} for kind in KINDS}
    stamps: dict[Kind, str] = {kind: repr(about[kind]) for kind in KINDS}
    plan = Plan(labelled, candidates, config, stamps)
    groups = {kind: (f"{kind}-{row_key(stamps[kind]).hex()[:12]}", engine.dim(kind)) for kind in KINDS}
    stores: dict[Kind, RowStore] = {
        kind: RowStore(root, *_group(groups[kind], engine), about=about[kind], repair=repair)
        for kind in KINDS
    }
    return _Work(plan, engine, stores, dict(groups))


def _group(group: tuple[str, int], engine: Engine) -> tuple[str, tuple[str, ...], int]:
    return group[0], engine.layers, group[1]


def _fill(work: "_Work", kind: Kind, worker: tuple[int, int] | None) -> None:
    """Computes the rows missing from a store, shard by shard: all of them, or one worker's share.

    Shares are cut from all rows, stored or not, so that they do not depend on when a worker starts.
    """
    store, engine, listed = work.stores[kind], work.engine, work.plan.listed[kind]
    together = isinstance(engine, ByState)
    order = listed.order(together)
    with store.lock() if worker is None else contextlib.nullcontext():
        if worker is None:
            order = order[~store.has(listed.key[order])]
        states = listed.state[order] if together else None
        shards = share_of(cut(states, len(order), store.rows_per_shard), worker)
        wanted = sum(s.stop - s.start for s in shards)
        missing = [shard[~store.has(listed.key[shard])] for s in shards for shard in [order[s]]]
        missing = [shard for shard in missing if len(shard)]
        left = sum(map(len, missing))
        _check_space(store, left, kind)
        total = wanted if worker else wanted + len(listed.order(together)) - len(order)
        named = f"featurize {kind}s" + (f" {worker[0]}/{worker[1]}" if worker else "")
        said = _Words(kind, left, len(missing) > 1)
        with progress(named, total, unit="rows", done=total - left) as bar, metered() as meter:
            for shard, requests, blocks in _started(work, kind, missing):
                features = np.empty((len(shard), len(engine.layers), store.dim), np.float32)
                for positions, block in blocks:
                    said.hours(len(positions))
                    _check_finite(block, [requests[p] for p in positions], engine.layers)
                    features[positions] = block
                    bar.advance(len(positions))
                with contextlib.nullcontext() if worker is None else store.lock():
                    # Another process may have stored some of them in the meantime.
                    new = ~store.has(listed.key[shard])
                    if new.any():
                        store.append(listed.key[shard][new], features[new])
        said.waits(meter)


def _started(
    work: _Work, kind: Kind, shards: Sequence[npt.NDArray[np.int64]]
) -> Iterator[tuple[npt.NDArray[np.int64], list[Request], Iterator[Any]]]:
    """Shards with their requests and rows; while one is computed, the next is read and its first batch prepared."""

    def start(shard: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], list[Request], Iterator[Any]]:
        requests = work.plan.requests(kind, shard)
        return shard, requests, work.engine.rows(requests)

    with ThreadPoolExecutor(1) as reading:
        following = [reading.submit(start, shard) for shard in shards[:1]]
        for number in range(len(shards)):
            current = following.pop().result()
            following = [reading.submit(start, shard) for shard in shards[number + 1 : number + 2]]
            yield current


@dataclasses.dataclass
class _Words:
    """Logs how long the bulk of the work takes, if it is long enough to mention."""

    kind: Kind
    rows: int
    bulk: bool
    """Whether there is more than one shard of rows."""
    started: float = dataclasses.field(default_factory=time.perf_counter)
    begun: float = math.nan
    """When the first batch was done; the time before does not show the pace of the rest."""
    done: int = 0
    """Rows after the first batch."""
    told: bool = False

    def hours(self, count: int) -> None:
        """Called with the number of rows after each batch; the first few give the estimate."""
        now = time.perf_counter()
        if math.isnan(self.begun):
            self.begun = now
            return
        self.done += count
        seconds = now - self.begun
        if self.told or not self.bulk or seconds < _ENOUGH:
            return
        self.told = True
        expected = seconds / self.done * self.rows
        if expected >= _LONG:
            print(
                f"featurize: {self.rows:,} {self.kind} rows take about {_duration(expected)} "
                f"({self.done} took {seconds:.1f} s)",
                file=sys.stderr,
            )

    def waits(self, meter: Meter) -> None:
        """Called at the end."""
        if self.bulk and time.perf_counter() - self.started >= _LONG:
            print(
                f"featurize {self.kind}s: the model waited for its input {meter.share:.1%} of the time",
                file=sys.stderr,
            )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _check_space(store: RowStore, rows: int, kind: Kind) -> None:
    """Logs how much will be written, and refuses before work starts if the disk cannot hold it."""
    size = rows * len(store.layers) * store.dim * 2
    if size < _LARGE:
        return
    words = f"{rows:,} {kind} rows of {len(store.layers)} x {store.dim} numbers take {size / 1e9:.1f} GB"
    if "://" not in store.path:
        free = shutil.disk_usage(store.path).free
        if size > free:
            raise DigiQError(
                f"featurize: {words}, but {store.path} has {free / 1e9:.1f} GB free; keep fewer layers, spans or candidates, or "
                "name another --rows."
            )
        words += f" of {free / 1e9:.1f} GB free"
    print(f"featurize: {words}", file=sys.stderr)


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
