"""Devices on other machines: an :class:`~android_env.env.AndroidEnv` in a Ray actor, and its local proxy.

A node offers devices as a custom resource: ``ray start --address ... --resources '{"digiq_device": 4}'``. Each device is
an actor that takes one unit of that resource. The queue of episodes, the agent and the results stay in the process
that runs :func:`digiq.agents.rollout.rollout`, which treats a remote device like any other. If a node is lost, its
device is given up and tried again later, and its episode goes to another device.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from android_env.actions import ActionType
from android_env.devices import actions_of
from android_env.errors import AndroidEnvError
from android_env.faults import KINDS, Fault, Quarantined
from android_env.tasks import Task, TaskSet
from digiq.agents.build import DeviceConfig, env_factory
from digiq.errors import ConfigError
from digiq.extras import require
from digiq.switches import RAY
from digiq.tables import named, trust

RESOURCE = "digiq_device"
"""The resource of a node that counts the devices that it can run."""
START_CAP_S = 120.0
"""Time limit for placing a device on a node and making it there, seconds; after it, no device is available."""
FREE_CAP_S = 10.0
"""Time limit for the cluster to report a free device, seconds."""
CALL_CAP_S = 3600.0
"""Time limit of a reset, repairs included, seconds."""


def asked_for() -> bool:
    """Whether ``--ray`` was given."""
    return os.environ.get(RAY) == "1"


class Home:
    """The actor: one environment, on the machine of its device."""

    def __init__(self, config: DeviceConfig, tasks: TaskSet, own: list[str], folder: str) -> None:
        if folder not in sys.path:
            sys.path.append(folder)
        trust(own)
        self._config, self._tasks = config, tasks
        self._env: Any = None

    def about(self) -> dict[str, Any]:
        """Makes the environment, and describes its device."""

        def made() -> dict[str, Any]:
            if self._env is None:
                self._env = env_factory(self._config, self._tasks)()
            device = self._env.unwrapped.device
            return {"name": device.name, "screen_hw": tuple(device.screen_hw), "actions": actions_of(device)}

        return _told(made)

    def reset(self, seed: int, task: Task) -> Any:
        return _told(lambda: self._env.reset(seed=seed, options={"task": task}))

    def step(self, action: Any) -> Any:
        return _told(lambda: self._env.step(action))

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


class RemoteDevice(SimpleNamespace):
    """The locally known properties of a remote device."""

    name: str
    screen_hw: tuple[int, int]
    actions: frozenset[ActionType]


class RemoteEnv:
    """Proxy of an environment in an actor, with the methods that rollouts use.

    Args:
      make: makes the actor.

    Raises:
      Quarantined: no node has a device left.
      DeviceFault: the device could not be made.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._actor: Any = None
        self.device = RemoteDevice()
        self._settle()

    @property
    def unwrapped(self) -> RemoteEnv:
        return self

    def reset(self, *, seed: int, options: Mapping[str, Any]) -> tuple[Any, Any]:
        """See ``AndroidEnv``; if the actor's node was lost, the environment moves to a new one.

        Raises:
          Quarantined: the node is lost, or no other has a device left.
        """
        if self._actor is None:
            self._settle()
        return self._ask("reset", seed, options["task"])

    def step(self, action: Any) -> Any:
        """See ``AndroidEnv``.

        Raises:
          Quarantined: the node is lost.
        """
        return self._ask("step", action)

    def close(self) -> None:
        """Ends the actor."""
        import ray
        from ray.exceptions import RayError

        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(RayError):  # the actor may be gone, and its device with it
                ray.get(actor.close.remote(), timeout=30)
            ray.kill(actor)

    def _settle(self) -> None:
        import ray

        # Ray itself waits for ever for a node with the resources that an actor needs.
        end = time.monotonic() + FREE_CAP_S
        while ray.available_resources().get(RESOURCE, 0) < 1:
            if time.monotonic() > end:
                raise Quarantined("no node of the cluster has a device left")
            time.sleep(0.5)
        self._actor = self._make()
        about = self._ask("about", cap_s=START_CAP_S)
        self.device = RemoteDevice(**about)

    def _ask(self, name: str, *arguments: Any, cap_s: float = CALL_CAP_S) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        assert self._actor is not None
        try:
            said: Any = ray.get(getattr(self._actor, name).remote(*arguments), timeout=cap_s)
        except GetTimeoutError:
            self._drop()
            raise Quarantined(f"no device of the cluster has answered {name} in {cap_s:g} s") from None
        except RayError as error:
            self._drop()
            raise Quarantined(f"the node of a device is lost ({type(error).__name__})") from None
        if "fault" in said:
            raise _fault(said["fault"])
        return said["value"]

    def _drop(self) -> None:
        import ray

        actor, self._actor = self._actor, None
        ray.kill(actor)


def remotely(config: DeviceConfig, tasks: TaskSet) -> Callable[[], RemoteEnv]:
    """A function that makes remote environments on the nodes of a cluster.

    Ray's own ``RAY_ADDRESS`` names the cluster. Without it, a cluster is started on this machine, with as many devices
    as the machine has processors.

    Raises:
      DigiQError: Ray is not installed, or the cluster does not answer.
    """
    require(("ray",), "--ray")
    import ray

    if not ray.is_initialized():
        here = {} if os.environ.get("RAY_ADDRESS") else {"resources": {RESOURCE: os.cpu_count() or 1}}
        try:
            ray.init(log_to_driver=False, include_dashboard=False, **here)  # type: ignore[arg-type]
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--ray: the cluster cannot be reached: {error}.") from None
    if not ray.cluster_resources().get(RESOURCE):
        raise ConfigError(
            f"--ray: no node of the cluster has a device; start one with --resources '{{\"{RESOURCE}\": 1}}'."
        )
    home = ray.remote(num_cpus=0, resources={RESOURCE: 1}, max_restarts=0)(Home)
    given = (config, tasks, named(), os.getcwd())
    return lambda: RemoteEnv(lambda: home.remote(*given))


def _told(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call returns or raises; faults are values, as exceptions with arguments of their own cannot be pickled."""
    try:
        return {"value": call()}
    except AndroidEnvError as error:
        kind = error.kind if isinstance(error, Fault) else type(error).__name__
        return {"fault": (kind, type(error), str(error), getattr(error, "begun", True))}


def _fault(told: tuple[str, type[AndroidEnvError], str, bool]) -> AndroidEnvError:
    kind, cls, message, begun = told
    made = KINDS.get(kind, cls).__new__(KINDS.get(kind, cls))
    Exception.__init__(made, message)
    if isinstance(made, Fault):
        made.begun = begun
    return made
