"""Collects episodes with a scripted collector or a policy; if killed, the same call continues where it stopped."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from digiq import artifacts
from digiq.agents.agent import Actor
from digiq.agents.build import (
    AgentConfig,
    DeviceConfig,
    build_agent,
    check_agent,
    device_tasks,
    env_factory,
)
from digiq.agents.rollout import EpisodeRun, EpisodeSpec, plan_episodes, rollout
from digiq.artifacts import Artifact
from digiq.config import configclass, load, to_dict
from digiq.data.store import EpisodeStore, EpisodeWriter
from digiq.errors import DigiQError
from digiq.processes import end_with_parent, usable_cores
from digiq.progress import progress

STAGE, VERSION = "collect", 1
_CHUNK = 64
"""Episodes that a process plays at a time, if there are several processes."""


@configclass
class CollectConfig:
    """What to collect, with which agent, on which device."""

    agent: AgentConfig = AgentConfig()
    tasks: str = "webshop/train"
    """A built-in task set, or a task file."""
    num_episodes: Annotated[int, Field(ge=1)] = 256
    """Episodes, spread evenly over the tasks."""
    device: DeviceConfig = DeviceConfig()
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Episodes that run at the same time; their content does not depend on it."""
    infra_retries: Annotated[int, Field(ge=0)] = 2
    """How often an episode whose device failed is run again, with the same seed."""
    seed: int = 0
    """Seed of tasks, layouts, noise and the agent's sampling."""

    def __post_init__(self) -> None:
        check_agent(self.agent, self.device)

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the agent is built from."""
        return self.agent.reads


def run(
    config: CollectConfig,
    *,
    policy: Path | None = None,
    critic: Path | None = None,
    features: Path | None = None,
    vlm: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Collects the episodes that ``out`` lacks, with the behaviour policy's log-probability of each action.

    Args:
      config: see :class:`CollectConfig`.
      policy: a policy artefact; None for a scripted agent.
      critic: the critic of an agent that re-ranks with the learned Q.
      features: the features that the critic was trained on; only their configuration is read.
      vlm: the model that the features came from.
      out: the ``episodes`` artefact.
      overwrite: start afresh, whatever ``out`` holds.

    Raises:
      DigiQError: an input is missing, ``out`` holds other episodes, or an episode's device kept failing.
    """
    inputs = {"policy": policy, "critic": critic, "features": features, "vlm": vlm}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        tasks = device_tasks(config.tasks)
        specs = plan_episodes(tasks, config.num_episodes, config.seed)
        with EpisodeWriter(w.path) as writer:
            done = frozenset(writer.written)
            missing = [spec for spec in specs if spec.episode_id not in done]
            if missing:
                # A script that never waits keeps its core busy, mostly with drawing screens.
                busy = config.agent.kind != "policy" and policy is None and not config.device.chosen.waits
                cores = len(usable_cores())
                if busy and cores > 1 and len(missing) > 2 * _CHUNK:
                    episodes = _play_in_processes(config, missing, cores)
                else:
                    agent = build_agent(
                        config.agent,
                        device=config.device,
                        policy=policy,
                        critic=critic,
                        features=features,
                        vlm=vlm,
                    )
                    episodes = _play(config, agent, missing)
                won = 0
                with progress("collect", len(specs), unit="episodes", done=len(done)) as bar:
                    for number, episode in enumerate(episodes, 1):
                        if episode.episode is None:
                            raise DigiQError(
                                f"{out}: the device failed in episode {episode.spec.episode_id} "
                                f"({episode.error}); fix the device and run 'collect' again: finished episodes are kept."
                            )
                        writer.write(episode.episode)
                        won += episode.outcome == "success"
                        bar.advance(1, success=won / number)
        store = EpisodeStore(w.path)
        outcomes, actions = Counter(), 0
        for episode in store.outlines:
            outcomes[episode.outcome] += 1
            actions += episode.num_actions
        return w.complete(counts={"episodes": len(store), "actions": actions, **outcomes})


def _play(config: CollectConfig, agent: Actor, specs: Sequence[EpisodeSpec]) -> Iterator[EpisodeRun]:
    return rollout(
        agent,
        specs,
        env_factory(config.device, device_tasks(config.tasks)),
        batch_size=config.batch_size,
        infra_retries=config.infra_retries,
        threads=config.device.chosen.waits,
    )


def _play_in_processes(
    config: CollectConfig, specs: Sequence[EpisodeSpec], processes: int
) -> Iterator[EpisodeRun]:
    """Plays the same episodes in the same order, in several processes.

    Each process is given the config as plain values, as every process is; loading it registers the user's own devices.
    """
    chunks = [specs[start : start + _CHUNK] for start in range(0, len(specs), _CHUNK)]
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=end_with_parent
    ) as pool:
        for runs in pool.map(_play_chunk, [to_dict(config)] * len(chunks), chunks):
            yield from runs


def _play_chunk(mapping: dict[str, Any], specs: Sequence[EpisodeSpec]) -> list[EpisodeRun]:
    config = load(CollectConfig, mapping)
    return list(_play(config, build_agent(config.agent, device=config.device), specs))
