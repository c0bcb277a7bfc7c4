"""Training on features that do not fit: Grain reads each batch's rows ahead of time, the device sees batches alone.

The sampler is the in-memory one: an epoch's positions come from the same key, so both paths learn from the same
transitions in the same order.
"""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from digiq.critics.arrays import Batch, CriticData, gather
from digiq.critics.learner import Hyper, Learner, LearnerState


class StoredRows:
    """Rows [n, D] of arrays on disk (memory maps, or tensorstore arrays), read when asked for; layers side by side.

    Supports what :func:`digiq.critics.arrays.gather` asks of an array: ``shape``, ``len`` and rows by an integer
    array of any shape. Each distinct row of a request is read once.
    """

    def __init__(self, layers: Sequence[Any]):
        self._layers = tuple(layers)
        self.shape = (self._layers[0].shape[0], sum(layer.shape[1] for layer in self._layers))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        distinct, where = np.unique(np.asarray(rows), return_inverse=True)
        parts = [_read(layer[distinct]) for layer in self._layers]
        block = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return block[where.reshape(np.shape(rows))]


def stream_epoch(
    learner: Learner,
    state: LearnerState,
    hyper: Hyper,
    data: CriticData,
    *,
    threads: int = 2,
    prefetch: int = 8,
) -> tuple[LearnerState, dict[str, jax.Array]]:
    """:meth:`Learner.epoch` with ``data`` on the host.

    Args:
      learner: the computation.
      state: consumed.
      hyper: see :meth:`Learner.hyper`.
      data: features may be :class:`StoredRows`.
      threads: readers.
      prefetch: batches read ahead.
    """
    positions, keys, next_key = learner.draw(state.key, len(data.train_rows))
    positions = np.asarray(positions)
    infos = []
    for batch, key in zip(batches(learner, data, positions, threads, prefetch), keys, strict=True):
        state, info = _update(learner, state, hyper, batch, key)
        infos.append(info)
    means = jax.tree.map(lambda *x: sum(x) / len(x), *infos)
    return state._replace(key=next_key), means


def batches(
    learner: Learner, data: CriticData, positions: np.ndarray, threads: int = 2, prefetch: int = 8
) -> Iterator[Batch]:
    """Batches of ``positions`` int[steps, B] (into ``train_rows``), in order, read by background threads."""
    rows = np.asarray(data.train_rows)
    read = functools.partial(gather, data, needs=learner.objective.needs)
    dataset = grain.MapDataset.source(positions).map(lambda p: read(rows[p]))
    return iter(
        dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch))
    )


def fits_in_memory(data: CriticData, share: float = 0.5) -> bool:
    """Whether the features take at most ``share`` of the memory that the default device has left."""
    needed = sum(np.prod(a.shape) * np.dtype(getattr(a, "dtype", np.float32)).itemsize for a in data[:2])
    statistics = jax.devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        free = statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return bool(needed <= share * free)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _update(learner: Learner, state: LearnerState, hyper: Hyper, batch: Batch, key: jax.Array) -> Any:
    return learner.update(state, hyper, batch, key)


def _read(block: Any) -> np.ndarray:
    """A NumPy array as it is; a tensorstore view is read."""
    return np.asarray(block.read().result() if hasattr(block, "read") else block)
