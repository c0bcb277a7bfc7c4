"""Where arrays live: one device, or every device of every process with the batch split over them.

Data parallelism is two shardings: of the drawn positions, so that each device differentiates its share of the batch, and
of the features' rows, which are held once by all devices together. XLA inserts what crosses devices: positions, the rows
drawn, and the reduction of the gradients. Parameters are replicated. It is the same program on one device, on eight, and
on several hosts after ``jax.distributed.initialize``.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
AXIS = "data"


def mesh_of_all_devices() -> Mesh:
    """One axis over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def replicate(tree: T, mesh: Mesh | None) -> T:
    """Moves arrays to the device, or a copy to every device of the mesh; every process passes equal values."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec()))


def split_rows(array: np.ndarray, mesh: Mesh | None) -> jax.Array:
    """Moves an array [rows, D] to the device, or a share of its rows to each device of the mesh.

    Rows of zeros, which no index points to, fill the shares up; every process passes equal values.
    """
    if mesh is None:
        return jax.device_put(array)
    share = -(-len(array) // mesh.size)

    def part(index: tuple[slice, ...]) -> np.ndarray:
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


def place_batch(batch: T, mesh: Mesh | None) -> T:
    """Moves a batch from the host, its first axis split over the mesh; without one it is left to ``jit``."""
    return batch if mesh is None else jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))
