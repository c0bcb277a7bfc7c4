"""The ``value`` stage: the simulator's own Q of every stored candidate, with which learned values are compared.

Three policies are valued: the optimal policy in every logged state (milliseconds per episode); if asked for, the
scripted collector, which the behaviour policy imitates, in every state too; and the behaviour policy, whose values the
critic regresses on, in the states of a few episodes (seconds each, as the policy is asked in every state that it can
reach).
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from android_env.devices.simulated.collector import SCRIPTED
from android_env.devices.simulated.exact import reading
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.transitions import observation_index
from digiq.errors import DigiQError
from digiq.laboratory.truth import Truth, is_simulated, replay
from digiq.policies.base import load_policy
from digiq.progress import progress
from digiq.proposals.propose import load_proposals
from digiq.proposals.values import EXACT, STAGE

VERSION = 1


@configclass
class ExactValuesConfig:
    """What is valued, and how thoroughly."""

    discount: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Discount γ; use the critic's, so that values are comparable."""
    policy_episodes: Annotated[int, Field(ge=0)] = 12
    """Number of episodes whose states are also valued under the behaviour policy."""
    support: Annotated[int, Field(ge=1)] = 32
    """Number of the behaviour policy's likeliest actions that are followed from each state."""
    collector: bool = False
    """Also value the scripted collector. Its values stand in for those of the behaviour policy, which are too expensive to
    compute in every state."""


def run(
    config: ExactValuesConfig,
    *,
    episodes: Path,
    proposals: Path,
    policy: Path,
    out: Path,
    rewards: Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Replays the logged episodes and values their candidates.

    Writes the arrays that :func:`digiq.proposals.values.load_exact` reads.

    Args:
      config: see :class:`ExactValuesConfig`.
      episodes, rewards: the logged states.
      proposals: the candidates in those states.
      policy: the behaviour policy.
      out: the artefact.
      overwrite: start afresh.

    Raises:
      DigiQError: the episodes were not collected on the simulated phone.
    """
    inputs = {"episodes": episodes, "rewards": rewards, "proposals": proposals, "policy": policy}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        if not is_simulated(episodes):
            raise DigiQError(f"{episodes}: exact values need episodes collected on the simulated phone.")
        store = LabelledEpisodes(episodes, rewards)
        index = observation_index(store)
        stored = load_proposals(proposals)
        shape = stored.valid.shape

        def candidates(row: int) -> list:
            return [stored.action(row, n) if stored.valid[row, n] else None for n in range(shape[1])]

        def valued(what: str, count: int, **whose: Any) -> Truth:
            with progress(f"value {what}", count, unit="episodes") as bar:
                return replay(
                    episodes,
                    store,
                    index,
                    candidates,
                    discount=config.discount,
                    on_episode=bar.advance,
                    **whose,
                )

        played = sum(not episode.copy_of for episode in store.outlines)
        best = valued("best", played)
        screens = np.full(shape[0], "", dtype="U32")
        screens[best.rows] = best.screens
        arrays = {"screen": screens, **_spread(best, "best", shape)}
        count = min(config.policy_episodes, played)
        truth = Truth(np.zeros(0, np.int64), (), np.zeros((0, shape[1])), np.zeros(0))
        if count:
            loaded = load_policy(policy)
            truth = valued("behaviour", count, policy=loaded, support=config.support, max_episodes=count)
        arrays |= _spread(truth, "policy", shape)
        if config.collector:
            collected = valued("collector", played, acting=reading(SCRIPTED["collector"]))
            arrays |= _spread(collected, "collector", shape)
        with artifacts.atomic_path(writer.path / EXACT) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        return writer.complete(counts={"states": len(best.rows), "policy_states": len(truth.rows)})


def _spread(truth: Truth, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    q, v = np.full(shape, np.nan), np.full(shape[0], np.nan)
    q[truth.rows], v[truth.rows] = truth.q, truth.v
    return {f"{name}_q": q, f"{name}_v": v}
