"""Where arrays live: on one device, or on every device of every process with the batch split over them.

Data parallelism is two shardings. The drawn positions are split, so that each device differentiates its share of the
batch. The rows of features are split too, so that all devices together hold them once. XLA inserts the communication:
positions, drawn rows, and the reduction of the gradients. Parameters are replicated. The program is the same on one
device, on eight, and on several hosts that :func:`connect` has joined.

All devices must run joint operations in the same order, or they wait for one another for ever. So only an epoch and the
check after it touch split rows. Whatever else the first process computes, it computes on one device (:func:`local`).
"""

import os
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from digiq.errors import DigiQError

T = TypeVar("T")
AXIS = "data"
ADDRESS, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def connect() -> None:
    """Joins this process to those of the other hosts, if the environment names their coordinator; does so only once.

    ``JAX_COORDINATOR_ADDRESS`` is ``host:port`` of the first process. Slurm, Open MPI and TPU pods announce the number
    of processes and the number of this one; elsewhere set ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` (from 0).

    Raises:
      DigiQError: the variables cannot be read.
    """
    if ADDRESS not in os.environ or jax.distributed.is_initialized():
        return
    number = {}
    for argument, name in (("num_processes", PROCESSES), ("process_id", PROCESS)):
        if name in os.environ:
            try:
                number[argument] = int(os.environ[name])
            except ValueError:
                raise DigiQError(f"{name} is '{os.environ[name]}'; set it to a whole number.") from None
    jax.distributed.initialize(**number)


def leads() -> bool:
    """Whether this is the process that reads and writes checkpoints and logs: the first, or the only one."""
    return jax.process_index() == 0


def agree(tree: T) -> T:
    """The first process's numbers, on the host of every process; shapes must be the same everywhere."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def local(tree: T) -> T:
    """One device's copy of a replicated tree, to compute with on that device alone."""

    def own(x: Any) -> Any:
        shared = isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
        return x.addressable_data(0) if shared else x

    return jax.tree.map(own, tree)


def mesh_of_all_devices() -> Mesh:
    """One axis over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def replicate(tree: T, mesh: Mesh | None) -> T:
    """Moves arrays to the device, or a copy to every device of the mesh; every process passes equal values."""
    if mesh is None:
        return jax.device_put(tree)
    everywhere = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, everywhere)

    def spread(x: Any) -> jax.Array:
        host = np.asarray(x)  # device_put would make all processes compare their arrays
        return jax.make_array_from_callback(host.shape, everywhere, lambda index: host[index])

    return jax.tree.map(spread, tree)


def split_rows(array: np.ndarray, mesh: Mesh | None) -> jax.Array:
    """Moves an array [rows, D] to the device, or a share of its rows to each device of the mesh.

    Shares are padded with rows of zeros, which no index points to; every process passes equal values.
    """
    if mesh is None:
        return jax.device_put(array)
    share = -(-len(array) // mesh.size)

    def part(index: Any) -> np.ndarray:
        start = index[0].start or 0
        block = array[start : start + share]
        return np.pad(block, ((0, share - len(block)), (0, 0)))

    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.make_array_from_callback((share * mesh.size, array.shape[1]), sharding, part)


def split_batches(positions: Any, mesh: Mesh | None) -> Any:
    """Splits the last axis of ``positions`` [..., B] over the mesh; for use under ``jit``."""
    if mesh is None:
        return positions
    spec = PartitionSpec(*[None] * (positions.ndim - 1), AXIS)
    return jax.lax.with_sharding_constraint(positions, NamedSharding(mesh, spec))


def own_rows(size: int, mesh: Mesh | None) -> np.ndarray:
    """int[n]: the rows of a batch of ``size`` that go to devices of this process, in order."""
    if mesh is None:
        return np.arange(size)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    parts: list[Any] = list(sharding.addressable_devices_indices_map((size,)).values())
    return np.sort(np.concatenate([np.arange(size)[part] for part in parts]))


def place_batch(batch: T, mesh: Mesh | None, size: int) -> T:
    """Moves a batch from the host, its first axis split over the mesh; without a mesh it is left to ``jit``.

    Args:
      batch: arrays [n, ...], the rows that :func:`own_rows` names.
      mesh: the devices.
      size: rows of the whole batch.
    """
    if mesh is None:
        return batch
    rows, sharding = own_rows(size, mesh), NamedSharding(mesh, PartitionSpec(AXIS))

    def split(x: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            wanted = np.arange(size)[index[0]]
            return x[np.searchsorted(rows, wanted)]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

    return jax.tree.map(lambda x: split(np.asarray(x)), batch)
