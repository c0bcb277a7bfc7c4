"""Training on features that do not fit into memory: Grain reads each batch's rows ahead; the device sees only batches.

The sampler is the in-memory one. An epoch's positions come from the same key, so both paths learn from the same
transitions in the same order.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from digiq.critics.heads import Params
from digiq.critics.learner import CriticConfig, Hyper, Learner, LearnerState, join_checks
from digiq.critics.placement import own_rows, place_batch
from digiq.critics.training_data import Array, Batch, CriticData, Needs, gather


class StoredRows:
    """Rows [n, D] of layers on disk (of the feature store, memory maps, tensorstore), side by side, read on demand.

    It supports what :func:`digiq.critics.training_data.gather` needs of an array: ``shape``, ``len`` and indexing by an
    integer array of any shape. Each distinct row of a request is read once.
    """

    def __init__(self, layers: Sequence[Any]):
        self._layers = tuple(layers)
        self.shape = (self._layers[0].shape[0], sum(layer.shape[1] for layer in self._layers))
        kind = self._layers[0].dtype
        self.dtype = np.dtype(getattr(kind, "numpy_dtype", kind))

    @property
    def order(self) -> np.ndarray | None:
        """int64[n]: the fastest order for a pass over all rows; None if any order will do."""
        return getattr(self._layers[0], "order", None)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        distinct, where = np.unique(np.asarray(rows), return_inverse=True)
        parts = [_read(layer[distinct]) for layer in self._layers]
        block = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return block[where.reshape(np.shape(rows))]

    def load(self) -> np.ndarray:
        """All rows in memory, without a second copy: each layer is read into its place."""
        if len(self._layers) == 1:
            return _load(self._layers[0])
        out, start = np.empty(self.shape, self.dtype), 0
        for layer in self._layers:
            out[:, start : start + layer.shape[1]] = _load(layer)
            start += layer.shape[1]
        return out


@dataclasses.dataclass(frozen=True)
class Streaming:
    """A learner's epochs with the features on the host or on disk; takes a :class:`Learner`'s place in ``train``."""

    learner: Learner
    threads: int = 2
    """Background readers."""
    prefetch: int = 4
    """Batches read ahead; one batch with all its candidates can take a hundred megabytes."""

    @property
    def config(self) -> CriticConfig:
        return self.learner.config

    def epoch(
        self, state: LearnerState, hyper: Hyper, data: CriticData
    ) -> tuple[LearnerState, dict[str, Array]]:
        """:meth:`Learner.epoch`; ``state`` is donated, ``data`` may hold :class:`StoredRows`."""
        mesh, infos = self.learner.mesh, []
        # Drawn on the host, so that each process reads only the rows of its own devices.
        drawing = dataclasses.replace(self.learner, mesh=None)
        positions, keys, next_key = drawing.draw(state.key, len(data.train_rows))
        positions = np.asarray(positions)
        size = positions.shape[1]
        own = positions[:, own_rows(size, mesh)]
        loaded = batches(self.learner, data, own, self.threads, self.prefetch)
        for batch, key in zip(loaded, keys, strict=True):
            batch = place_batch(batch, mesh, size)
            state, info = _update(self.learner, state, hyper, batch, key)
            # One update runs while one waits. Calls return at once, so if updates are slower than reading, all of an
            # epoch's batches would otherwise pile up in the device's queue.
            jax.block_until_ready(infos[-1:])
            infos.append(info)
        means = jax.tree.map(lambda *x: sum(x) / len(x), *infos)
        return state._replace(key=next_key), means

    def evaluate(self, params: Params, target: Params, data: CriticData, rows: Array) -> dict[str, Array]:
        """:meth:`Learner.evaluate`, part by part, because all rows with their candidates would take too much memory."""
        needs, parts, sizes, first = self.learner.objective.needs, [], [], []
        for part in np.array_split(np.asarray(rows), -(-len(rows) // self.config.batch_size)):
            batch, single = gather(data, part, needs), gather(data, part, Needs())
            parts.append(_check(self.learner, params, target, batch, single))
            sizes.append(len(part))
            first.append(single.first.sum())
        return join_checks(parts, sizes, first)


def batches(
    learner: Learner, data: CriticData, positions: np.ndarray, threads: int = 2, prefetch: int = 4
) -> Iterator[Batch]:
    """The batches at ``positions`` int[steps, B] (in ``train_rows``), in order, read by background threads."""
    rows = np.asarray(data.train_rows)
    read = functools.partial(gather, data, needs=learner.objective.needs)
    dataset = grain.MapDataset.source(list(positions)).map(lambda p: read(rows[p]))
    return iter(
        dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch))
    )


def fits_in_memory(arrays: Sequence[Any], share: float = 0.5, devices: int = 1) -> bool:
    """Whether ``arrays`` take at most ``share`` of the free memory of the host and of ``devices`` default devices."""
    needed = sum(math.prod(a.shape) * np.dtype(getattr(a, "dtype", np.float32)).itemsize for a in arrays)
    free = _host_memory()
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        free = min(free, devices * (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)))
    return needed <= share * free


def _host_memory() -> int:
    """Bytes that this process may still use: the system's available memory, within the limit of its control group."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        # Unlike the count of free pages, this includes the page cache, which a newly written store fills.
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ("max")
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        free = min(free, limit - int((group / "memory.current").read_text(encoding="utf-8")))
    return free


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _update(learner: Learner, state: LearnerState, hyper: Hyper, batch: Batch, key: jax.Array) -> Any:
    return learner.update(state, hyper, batch, key)


@functools.partial(jax.jit, static_argnums=0)
def _check(learner: Learner, params: Params, target: Params, batch: Batch, single: Batch) -> Any:
    return learner.check(params, target, batch, single)


def _load(layer: Any) -> np.ndarray:
    return layer.load() if hasattr(layer, "load") else _read(layer[:])


def _read(block: Any) -> np.ndarray:
    """A NumPy array unchanged, or the content of a tensorstore view."""
    return np.asarray(block.read().result() if hasattr(block, "read") else block)
