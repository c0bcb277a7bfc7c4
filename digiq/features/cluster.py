"""``featurize`` on the nodes of a Ray cluster: each takes a share of the shards, as ``--worker i/n`` does.

A node offers its capacity as a custom resource: ``ray start --address ... --resources '{"digiq_featurize": 1}'``, one
for each of its devices. All nodes must see the directories of the run under the same paths. Ray restarts a lost worker
on any node with room, and the worker resumes from the stored shards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from digiq.errors import ConfigError, DigiQError
from digiq.extras import require
from digiq.tables import named, trust

RESOURCE = "digiq_featurize"
"""The resource that says how many workers a node can run."""
_AGAIN = 3  # restarts of a lost worker


class Worker:
    """The actor: computes one share after another, on the node of its model."""

    def __init__(self, own: list[str], folder: str) -> None:
        os.chdir(folder)
        if folder not in sys.path:
            sys.path.append(folder)
        trust(own)

    def share(self, work: Callable[..., Any], worker: str) -> str:
        """Computes the share i/n, and returns what went wrong, if anything did."""
        try:
            work(worker=worker)
        except DigiQError as error:
            return str(error)
        return ""


def on_ray(work: Callable[..., Any], device: str) -> None:
    """Runs ``work(worker="i/n")`` for every i, where n is the number of workers that the cluster can run at once.

    Ray's own ``RAY_ADDRESS`` names the cluster. Without it, a cluster is started on this machine, with one worker per
    GPU, or one worker if there is no GPU.

    Args:
      work: a function that Ray can pickle and that may be called again after a kill.
      device: the config's; with ``cuda`` each worker sees a GPU of its own.

    Raises:
      DigiQError: Ray is not installed, the cluster does not respond or offers no workers, or a share failed.
    """
    require(("ray",), "featurize --executor ray")
    import ray
    from ray.exceptions import RayError

    if not ray.is_initialized():
        gpus = device.startswith("cuda")
        here = {} if os.environ.get("RAY_ADDRESS") else {"resources": {RESOURCE: _gpus() if gpus else 1}}
        try:
            ray.init(log_to_driver=False, include_dashboard=False, **here)  # type: ignore[arg-type]
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"featurize --executor ray: the cluster cannot be reached: {error}.") from None
    count = int(ray.cluster_resources().get(RESOURCE, 0))
    if not count:
        raise ConfigError(
            f"featurize --executor ray: no node of the cluster takes part; start one with --resources '{{\"{RESOURCE}\": 1}}'."
        )
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": int(device.startswith("cuda"))}
    options |= {"resources": {RESOURCE: 1}, "max_restarts": _AGAIN, "max_task_retries": _AGAIN}
    actors: list[Any] = [ray.remote(**options)(Worker).remote(named(), os.getcwd()) for _ in range(count)]  # type: ignore[attr-defined]
    try:
        asked = [actor.share.remote(work, f"{i + 1}/{count}") for i, actor in enumerate(actors)]
        failed = [said for said in ray.get(asked) if said]
    except RayError as error:
        said = " ".join(str(error).split())[:200]
        raise DigiQError(
            f"featurize --executor ray: a worker was lost {_AGAIN + 1} times ({said}); finished shards are kept. Run it again."
        ) from None
    finally:
        for actor in actors:
            ray.kill(actor)
    if failed:
        raise DigiQError(failed[0])


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())
