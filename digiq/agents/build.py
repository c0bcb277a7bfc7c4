"""Builds devices and agents from configuration."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from android_env.actions import Action
from android_env.devices.simulated.state import NoiseConfig
from android_env.errors import SetupError, TaskError
from android_env.tasks import TaskSet, load_tasks
from digiq.agents.agent import Actor, Agent, EachTurn, ScriptedAgent, TurnScorer
from digiq.config import configclass
from digiq.errors import ConfigError
from digiq.policies.base import Policy

_PLAYS = {"simulated": ("webshop", "general"), "chromium": ("miniwob",)}
"""Families of tasks by device."""


@configclass
class DeviceConfig:
    """The device that episodes run on."""

    name: Literal["simulated", "chromium", "android"] = "simulated"
    """``simulated``: the embedded phone. ``chromium``: a browser behind Appium, for the ``miniwob`` tasks. ``android``:
    emulators of ``digiq devices start`` behind Appium, for task files; they are judged by what is on the screen
    (``android_env.evaluators.rules``)."""
    noise: NoiseConfig = NoiseConfig()
    """The simulated phone's mishaps: each one's rate, and the scale of them all; scale 0 switches them off."""
    success: Literal["on_reach", "on_declare"] = "on_reach"
    """Whether reaching the goal ends the episode with success (AitW), or declaring it complete does (AndroidWorld);
    on the simulated phone. A MiniWoB++ page always ends its episode itself."""
    fleet: str = "runs/devices/fleet.json"
    """What ``digiq devices start`` has written. Of ``android``."""
    server: str = ""
    """Address of a running Appium server; empty starts one for the run. Of ``android``."""
    allow_insecure: tuple[str, ...] = ()
    """Appium's features that are off unless named here, for example ``uiautomator2:adb_shell``, a shell on the phone.
    DigiQ needs none. Of ``android``, for a server started for the run."""
    deny_packages: tuple[str, ...] = ()
    """Safety list: apps, by package name or glob, that no agent may open or use."""
    deny_urls: tuple[str, ...] = ()
    """Safety list: domains, or globs over ``host/path``, that no agent may type."""
    deny_texts: tuple[str, ...] = ()
    """Safety list: regular expressions that typed text may not contain."""


@configclass
class AgentConfig:
    """Who acts."""

    kind: Literal["policy", "collector", "oracle", "random", "idle", "quitter", "homesick", "mistyper"] = (
        "policy"
    )
    """``policy``: a policy artefact. The others are scripts that read the device's own state: the collector of
    demonstrations, the oracle, a uniform choice, and known failures. A browser has ``oracle`` and ``random``."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the policy's sampling."""
    scorer: Literal["none", "critic", "policy_values", "best_values", "random"] = "none"
    """Re-rank the policy's candidates by the learned Q (``critic``), by the simulator's Q of this very policy or of
    the best policy there is, or by chance."""
    num_candidates: Annotated[int, Field(ge=1)] = 8
    """Samples drawn a step when there is a scorer."""
    threshold: float | None = None
    """Least Q - V at which the scorer overrules the policy, in units of return; none: it always does."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that such an agent is built from."""
        policy = ("policy",) if self.kind == "policy" else ()
        return (*policy, "critic", "features", "vlm") if self.scorer == "critic" else policy


def device_tasks(name: str) -> TaskSet:
    """A built-in task set, or a task file.

    Raises:
      ConfigError: it does not load, is empty, or leaks test tasks into training.
    """
    try:
        return load_tasks(name)
    except TaskError as error:
        raise ConfigError(f"tasks: {error}") from None


def env_factory(config: DeviceConfig, tasks: TaskSet) -> Callable[[], Any]:
    """A function that makes one :class:`android_env.env.AndroidEnv` a call.

    Raises:
      ConfigError: the device does not play these tasks, something that it needs is not there, or the safety list
        cannot be read.
    """
    from android_env.env import AndroidEnv
    from android_env.safety import SafetyList

    try:
        safety = SafetyList(config.deny_packages, config.deny_urls, config.deny_texts)
    except ValueError as error:
        raise ConfigError(f"device.deny_texts: {error}") from None
    if config.name == "android":
        from android_env.evaluators.rules import Rules

        unruled = next((task for task in tasks if Rules().refusal(task)), None)
        if unruled is not None:
            raise ConfigError(
                f"tasks: task {unruled.task_id!r} cannot be judged on 'android'; {Rules().refusal(unruled)}."
            )
        make = _android(config)
        return lambda: AndroidEnv(make(), tasks, judge=Rules(), safety=safety)
    plays = _PLAYS[config.name]
    other = next((task for task in tasks if task.family not in plays), None)
    if other is not None:
        raise ConfigError(
            f"tasks: device '{config.name}' does not play task {other.task_id!r}; it plays: {', '.join(plays)}."
        )
    if config.name == "chromium":
        from android_env.devices.miniwob.host import MiniWoBHost

        try:
            host = MiniWoBHost()
        except SetupError as error:
            raise ConfigError(f"device.name: '{config.name}' cannot start: {error}") from None
        return lambda: AndroidEnv(host.open(), tasks, safety=safety)
    from android_env.devices.simulated.phone import SimulatedPhone

    return lambda: AndroidEnv(
        SimulatedPhone(noise=config.noise, success=config.success), tasks, safety=safety
    )


def _android(config: DeviceConfig) -> Callable[[], Any]:
    from android_env.appium.server import AppiumServer
    from android_env.emulators.avd import find_sdk
    from android_env.emulators.fleet import Fleet
    from android_env.faults import Rung

    try:
        fleet = Fleet.attach(Path(config.fleet), find_sdk())
        if config.server:
            return lambda: fleet.device(config.server)
        server = AppiumServer(allow_insecure=config.allow_insecure)
    except SetupError as error:
        raise ConfigError(f"device: {error}") from None

    def make() -> Any:
        server.start()
        return fleet.device(server.url, repairs={Rung.NEW_SESSION: server.start})

    return make


def build_agent(
    config: AgentConfig,
    *,
    policy: Path | None = None,
    critic: Path | None = None,
    features: Path | None = None,
    vlm: Path | None = None,
) -> Actor:
    """Opens what the agent needs.

    Args:
      config: who acts.
      policy: a policy artefact; needed by, and only by, ``kind="policy"``.
      critic: of ``train-q``; needed with ``scorer="critic"``, as are the next two.
      features: those the critic was trained on; only their configuration is read.
      vlm: the model they came from.

    Raises:
      ConfigError: an artefact is missing for this agent, or given to one that has no use for it.
      ArtifactError: an artefact does not open.
    """
    if config.kind != "policy":
        if policy is not None:
            raise ConfigError(
                f"agent.kind: '{config.kind}' has no use for a policy; take kind 'policy' or leave --policy out."
            )
        return _scripted(config.kind)
    if policy is None:
        raise ConfigError("agent.kind: 'policy' needs a policy artefact; name one with --policy.")
    from digiq.policies.base import load_policy

    opened = load_policy(policy)
    scorer = _scorer(config, opened, critic=critic, features=features, vlm=vlm)
    return Agent(
        opened,
        scorer,
        num_candidates=config.num_candidates,
        temperature=config.temperature,
        threshold=config.threshold,
        name=str(policy.name) if scorer is None else f"{policy.name}+{config.scorer}",
    )


def _scorer(
    config: AgentConfig, policy: Policy, *, critic: Path | None, features: Path | None, vlm: Path | None
) -> TurnScorer | None:
    if config.scorer == "none":
        return None
    if config.scorer == "random":
        from digiq.critics.scorer import RandomScorer

        return EachTurn(RandomScorer())
    if config.scorer == "critic":
        from digiq.agents.learned import LearnedScorer

        if critic is None or features is None or vlm is None:
            raise ConfigError(
                "agent.scorer: 'critic' needs --critic, the --features it was trained on and their --vlm."
            )
        return LearnedScorer.open(critic=critic, features=features, vlm=vlm)
    from digiq.agents.oracle import ExactScorer

    return ExactScorer(policy if config.scorer == "policy_values" else None)


def _scripted(kind: str) -> ScriptedAgent:
    from android_env.devices.simulated import collector
    from android_env.devices.simulated.phone import SimulatedPhone

    distribution = collector.SCRIPTED[kind]

    def choose(device: Any, rng: np.random.Generator) -> tuple[Action, float]:
        if isinstance(device, SimulatedPhone):
            return collector.draw(distribution(device.display), rng)
        from android_env.devices.miniwob.scripts import SCRIPTED

        able = ["random"] if device.name == "android" else list(SCRIPTED)
        if kind not in able:
            raise ConfigError(
                f"agent.kind: '{kind}' does not play {device.name!r}; take 'policy' or one of: {', '.join(able)}."
            )
        return SCRIPTED[kind](device, rng), math.nan

    return ScriptedAgent(choose, kind)
