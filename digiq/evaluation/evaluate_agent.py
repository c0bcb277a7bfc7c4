"""The ``evaluate-agent`` stage: plays :class:`digiq.Agent`, a proposer with critic and guards, on a device's tasks."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from android_env.actions import Action
from digiq import artifacts
from digiq.agents.build import DeviceConfig, device_tasks
from digiq.agents.proposers import EndpointProposer, PolicyProposer, Proposer, Seen, VlmProposer
from digiq.agents.reranked import Agent, Guards
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.errors import ConfigError
from digiq.evaluation.evaluate import finish, play
from digiq.evaluation.leakage import warn_of_leakage
from digiq.policies.base import Candidate
from digiq.proposals import CANDIDATES
from digiq.proposals import endpoint as endpoints
from digiq.proposals import policy as policies
from digiq.proposals import vlm as vlms
from digiq.proposals.base import StepInput, files_of
from digiq.tables import chosen_from

STAGE, VERSION = "evaluate-agent", 1
AGENT = "agent.json"


@configclass
class GuardsConfig:
    """Settings of guards (:class:`digiq.agents.reranked.Guards`); those that take a function are set in Python."""

    loops: Annotated[int, Field(ge=1)] | None = 2
    """An action that was taken this many times on the same screen is not taken again; none: off."""
    deny_texts: tuple[str, ...] = ()
    """Regular expressions that no typed text may contain."""
    finish_margin: float | None = 0.0
    """A declared end needs a Q that exceeds every other candidate's by this margin; none: off."""
    first: Annotated[int, Field(ge=1)] | None = None
    """Adaptive N: candidates are drawn in batches of this size until the leader is safe; none: all at once."""
    lead: float = 0.1
    """The leader is safe if its Q exceeds the runner-up's by this margin."""
    distance: Annotated[float, Field(gt=0)] | None = 3.0
    """If the best candidate is further than this from the critic's training data, the agent's own choice stands; none:
    off."""


@configclass
class EvaluateAgentConfig(chosen_from(CANDIDATES, default="policy", field="proposer")):
    """Which agent, what re-ranks its candidates, and what it plays."""

    rerank: bool = True
    """Whether the critic chooses among the candidates; otherwise only the guards do."""
    num_candidates: Annotated[int, Field(ge=1)] = 8
    """Candidates per step."""
    threshold: float | None = None
    """The critic overrules the agent only if Q - V exceeds this, in units of return; none: it always does."""
    guards: GuardsConfig = GuardsConfig()
    arm: str = "agent"
    """Name of the arm in tables and figures."""
    tasks: str = "webshop/test"
    """A built-in task set, or a task file."""
    episodes: Annotated[int, Field(ge=1)] = 288
    """Total number of episodes, as for ``evaluate``."""
    repeats: Annotated[int, Field(ge=0)] = 0
    """Tries per task, as for ``evaluate``."""
    device: DeviceConfig = DeviceConfig()
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Episodes that run at the same time."""
    infra_retries: Annotated[int, Field(ge=0)] = 2
    """How often an episode whose device failed is run again."""
    records: Annotated[int, Field(ge=0)] = 6
    """How many episodes, from the first, are kept with their screenshots."""
    record_all: bool = False
    """Record every try of every episode, as for ``evaluate``."""
    seed: int = 0
    """Seed of tasks, layouts, noise and the agent's sampling; ``evaluate`` runs the same episodes with this seed."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the agent is built from."""
        return (*self.chosen.reads, *(("critic", "features", "vlm") if self.rerank else ()))


def run(
    config: EvaluateAgentConfig,
    *,
    policy: Path | None = None,
    critic: Path | None = None,
    features: Path | None = None,
    vlm: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Plays the episodes that ``out`` lacks, and writes the files of ``evaluate`` and ``agent.json``.

    ``agent.json`` holds the parts of the agent, how often its guards acted, and milliseconds per step by part, over the
    episodes that this call played. These are also printed.

    Args:
      config: see :class:`EvaluateAgentConfig`.
      policy: the policy of the proposer ``policy``.
      critic: the critic of ``rerank``, which also needs the next two.
      features: the features that the critic was trained on; only their configuration is read.
      vlm: the model that the features came from.
      out: the artefact.
      overwrite: start afresh.

    Raises:
      DigiQError: an input is missing, or ``out`` holds another evaluation.
    """
    given = {"policy": policy, "critic": critic, "features": features, "vlm": vlm}
    missing = next((name for name in config.reads if given[name] is None), None)
    if missing is not None:
        raise ConfigError(
            f"evaluate-agent: the proposer '{config.choice}'{' with rerank' if config.rerank else ''} needs --{missing}."
        )
    inputs = {name: given[name] for name in config.reads} | dict(files_of(config.chosen))
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        tasks = device_tasks(config.tasks)
        for learned in filter(None, (policy, critic)):
            warn_of_leakage(learned, tasks)
        made: list[Agent] = []

        def make_agent() -> Agent:
            made.append(build(config, policy=policy, critic=critic, features=features, vlm=vlm))
            return made[0]

        _, results = play(config, tasks, make_agent, w.path)
        for agent in made:
            about = agent.describe() | {"counts": dict(agent.counts), "latency_ms": agent.latency()}
            artifacts.atomic_write_json(w.path / AGENT, about)
            parts = ", ".join(f"{part} {took:.1f}" for part, took in agent.latency().items())
            print(f"evaluate-agent: milliseconds per step: {parts}", file=sys.stderr)
            print(
                f"evaluate-agent: {', '.join(f'{k} {n}' for k, n in agent.counts.items() if n)}",
                file=sys.stderr,
            )
        return finish(w, config.arm, results)


def build(
    config: EvaluateAgentConfig,
    *,
    policy: Path | None = None,
    critic: Path | None = None,
    features: Path | None = None,
    vlm: Path | None = None,
) -> Agent:
    """Builds the agent; arguments as for :func:`run`."""
    scorer = None
    if config.rerank:
        from digiq.agents.learned import LearnedScorer

        assert critic is not None and features is not None and vlm is not None, "checked in run"
        scorer = LearnedScorer.open(critic=critic, features=features, vlm=vlm)
    guards = Guards(**{f.name: getattr(config.guards, f.name) for f in dataclasses.fields(config.guards)})
    return Agent(
        proposer_of(config.chosen, {} if policy is None else {"policy": policy}, config.choice),
        scorer,
        config.num_candidates,
        guards,
        config.threshold,
        config.arm,
    )


def proposer_of(source: Any, paths: dict[str, Path], name: str) -> Proposer:
    """A member of :data:`digiq.proposals.CANDIDATES` as an agent's proposer."""
    opened = source.open(paths)
    if isinstance(opened, policies.Sampler):
        return PolicyProposer(opened.policy, opened.temperature)
    if isinstance(opened, endpoints.Sampler):
        return EndpointProposer(opened.asking)
    if isinstance(opened, vlms.Sampler):
        return VlmProposer(opened.speaker, str(source.model))
    return SourceProposer(opened, name)


@dataclasses.dataclass(frozen=True)
class SourceProposer:
    """Any other source of candidates; here it gets neither the screen's elements nor a logged action."""

    source: Any
    name: str

    def propose(self, observation: Seen, n: int) -> Sequence[Candidate]:
        """See :class:`digiq.agents.proposers.Proposer`."""
        return self.propose_all([observation], n)[0]

    def propose_all(self, observations: Sequence[Seen], n: int) -> list[list[Candidate]]:
        """Asks about all observations in one call."""
        seen = [
            StepInput(o.screenshot, o.goal, past=tuple(past.action for past in o.past)) for o in observations
        ]
        nothing: list[Action | None] = [None] * len(seen)
        rngs: list[np.random.Generator] = [o.rng for o in observations]
        rows = self.source.propose(seen, nothing, n + 1, rngs)
        return [[c for c in row if c is not None][:n] for row in rows]

    def describe(self) -> dict[str, Any]:
        """See :class:`digiq.agents.proposers.Proposer`."""
        return {"proposer": "source", "source": self.name}
