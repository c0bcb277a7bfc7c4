"""Builds devices and agents from configuration."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from android_env.actions import Action
from android_env.errors import SetupError, TaskError
from android_env.evaluators import JUDGES, Judge
from android_env.tasks import TaskSet, load_tasks
from digiq.agents.agent import Actor, Agent, EachTurn, ScriptedAgent, TurnScorer
from digiq.agents.devices import DEVICES, Script
from digiq.config import configclass
from digiq.errors import ConfigError
from digiq.policies.base import Policy
from digiq.tables import Table, chosen_from, is_own, own_code, own_name

_JUDGES = Table("judge", "android_env.evaluators", **JUDGES, vlm="digiq.agents.vlm_judge:VlmJudge")


@configclass
class JudgeConfig(chosen_from(_JUDGES, default=None, field="name")):
    """Decides whether an episode has ended, and how; without a name, the device's usual judge."""


@configclass
class DeviceConfig(chosen_from(DEVICES, default="simulated", field="name")):
    """The device that episodes run on.

    ``simulated``: the embedded phone. ``chromium``: a browser behind Appium, for the ``miniwob`` tasks. ``android``:
    emulators of ``digiq devices start`` behind Appium, for task files. ``android_world``: AndroidWorld's servers, for
    their own tasks. ``mobilegym``: a checkout of MobileGym, for its own tasks. ``replay``: recordings, for tasks of
    reaching a screen.
    """

    judge: JudgeConfig = JudgeConfig()
    deny_packages: tuple[str, ...] = ()
    """Safety list: apps, by package name or glob, that no agent may open or use."""
    deny_urls: tuple[str, ...] = ()
    """Safety list: domains, or globs over ``host/path``, that no agent may type."""
    deny_texts: tuple[str, ...] = ()
    """Safety list: regular expressions that typed text may not contain."""

    @property
    def chosen_judge(self) -> Judge:
        """The named judge, or else the usual judge of this kind of device."""
        return self.judge.chosen or _JUDGES[self.chosen.judge]()


EMBEDDED = DeviceConfig()
"""The embedded phone, which is available on every machine."""


@configclass
class AgentConfig:
    """The agent that acts."""

    kind: Annotated[str, AfterValidator(own_name)] = "policy"
    """``policy``: a policy artefact. ``package.module:function``: a script of your own. The others are scripts that
    read the device's own state: ``oracle`` and ``random``, and on the simulated phone also the ``collector`` of
    demonstrations and the known failures ``idle``, ``quitter``, ``homesick`` and ``mistyper``; emulators have only
    ``random``."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature of the policy."""
    scorer: Literal["none", "critic", "policy_values", "best_values", "random"] = "none"
    """What re-ranks the policy's candidates: the learned Q (``critic``), the simulator's exact Q of this same policy
    (``policy_values``) or of the optimal policy (``best_values``), or chance (``random``)."""
    num_candidates: Annotated[int, Field(ge=1)] = 8
    """Samples per step when there is a scorer."""
    threshold: float | None = None
    """The scorer overrules the policy only if Q - V exceeds this, in units of return; none: it always does."""

    @property
    def code(self) -> tuple[tuple[str, str], ...]:
        """The user's own code that it names."""
        return (("agent.kind", self.kind),) if is_own(self.kind) else ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that this agent is built from."""
        policy = ("policy",) if self.kind == "policy" else ()
        return (*policy, "critic", "features", "vlm") if self.scorer == "critic" else policy


def check_agent(agent: AgentConfig, device: DeviceConfig) -> None:
    """Checks that an agent can play on a device.

    Raises:
      ValueError: the device has no such script, or no exact values.
    """
    scripted = agent.kind in device.chosen.scripts or is_own(agent.kind)
    if agent.kind != "policy" and not scripted:
        able = ", ".join(device.chosen.scripts)
        raise ValueError(
            f"agent.kind: '{agent.kind}' cannot act on device '{device.name}'; use 'policy' or one of: {able}"
        )
    if agent.scorer in ("policy_values", "best_values") and not device.chosen.exact:
        raise ValueError("agent.scorer: exact values need the simulated phone; use 'critic' on other devices")


def device_tasks(name: str) -> TaskSet:
    """A built-in task set, or a task file.

    Raises:
      ConfigError: the set does not load, is empty, or leaks test tasks into training.
    """
    try:
        return load_tasks(name)
    except TaskError as error:
        raise ConfigError(f"tasks: {error}") from None


def env_factory(config: DeviceConfig, tasks: TaskSet) -> Callable[[], Any]:
    """A function that makes one :class:`android_env.env.AndroidEnv` per call.

    Raises:
      ConfigError: the device does not play these tasks, something that it needs is missing, or the safety list
        cannot be read.
    """
    from android_env.env import AndroidEnv
    from android_env.safety import SafetyList

    try:
        safety = SafetyList(config.deny_packages, config.deny_urls, config.deny_texts)
    except ValueError as error:
        raise ConfigError(f"device.deny_texts: {error}") from None
    kind, judge = config.chosen, config.chosen_judge
    other = next((task for task in tasks if kind.plays and task.family not in kind.plays), None)
    if other is not None:
        raise ConfigError(
            f"tasks: device '{config.name}' does not play task {other.task_id!r}; it plays: {', '.join(kind.plays)}."
        )
    unjudged = next((task for task in tasks if judge.refusal(task)), None)
    if unjudged is not None:
        raise ConfigError(
            f"tasks: task {unjudged.task_id!r} cannot be judged on '{config.name}'; {judge.refusal(unjudged)}."
        )
    try:
        make = kind.maker()
    except SetupError as error:
        raise ConfigError(f"device.name: '{config.name}' cannot start: {error}") from None

    refusal = getattr(kind, "refusal", None)
    if refusal is not None and (why := refusal(tasks)):
        raise ConfigError(f"tasks: {why}.")

    def make_env() -> AndroidEnv:
        device = make()
        if not judge.answers(device):
            device.close()
            raise ConfigError(f"device.judge: '{config.judge.name}' cannot judge on device '{config.name}'.")
        return AndroidEnv(device, tasks, judge=judge, safety=safety)

    return make_env


def build_agent(
    config: AgentConfig,
    *,
    device: DeviceConfig = EMBEDDED,
    policy: Path | None = None,
    critic: Path | None = None,
    features: Path | None = None,
    vlm: Path | None = None,
) -> Actor:
    """Opens an agent and the artefacts that it needs.

    Args:
      config: the agent that acts.
      device: the device that it acts on.
      policy: a policy artefact; needed with ``kind="policy"``, and only then.
      critic: the artefact of ``train-q``; needed with ``scorer="critic"``, as are the next two.
      features: the features that the critic was trained on; only their configuration is read.
      vlm: the model that the features came from.

    Raises:
      ConfigError: the agent cannot play on that device, an artefact is missing, or a policy is given to an agent that
        does not use one.
      ArtifactError: an artefact does not open.
    """
    try:
        check_agent(config, device)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
    if config.kind != "policy":
        if policy is not None:
            raise ConfigError(
                f"agent.kind: '{config.kind}' does not use a policy; set it to 'policy' or leave out --policy."
            )
        return ScriptedAgent(_script(config, device), config.kind)
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


def _script(config: AgentConfig, device: DeviceConfig) -> Script:
    if not is_own(config.kind):
        return device.chosen.scripts[config.kind]
    choose: Callable[[Any, np.random.Generator], Any] = own_code("agent.kind", config.kind)

    def script(device: Any, rng: np.random.Generator) -> tuple[Action, float]:
        chosen = choose(device, rng)
        return chosen if isinstance(chosen, tuple) else (chosen, math.nan)

    return script


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
