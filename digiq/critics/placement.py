"""Where arrays live: one device, or every device of every process with the batch split over them.

Data parallelism is a sharding of the drawn positions: parameters and features are replicated, each device gathers and
differentiates its share of the batch, and XLA inserts the reduction of the gradients. It is the same program on one
device, on eight, and on several hosts after ``jax.distributed.initialize``.
"""

from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
AXIS = "data"


def mesh_of_all_devices() -> Mesh:
    """One axis over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The default device, or a copy on every device of the mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(tree: T, mesh: Mesh | None) -> T:
    """Moves arrays to the device, or a copy to every device of the mesh; every process passes equal values."""
    return jax.device_put(tree, everywhere(mesh))


def split_batches(positions: Any, mesh: Mesh | None) -> Any:
    """Splits the last axis of ``positions`` [..., B] over the mesh; for use under ``jit``."""
    if mesh is None:
        return positions
    spec = PartitionSpec(*[None] * (positions.ndim - 1), AXIS)
    return jax.lax.with_sharding_constraint(positions, NamedSharding(mesh, spec))


def place_batch(batch: T, mesh: Mesh | None) -> T:
    """Moves a batch from the host, its first axis split over the mesh; without one it is left to ``jit``."""
    return batch if mesh is None else jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))
