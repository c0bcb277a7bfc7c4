"""The ``q-metrics`` stage: the quality of a learned Q, by the simulator's own Q, where the extracted policy goes.

*Regret* is the value lost by taking the top-ranked candidate instead of the best one, by Q* (the optimal policy acts
afterwards, so a state's regret is due to its own choice only). The mean over kinds of screens is weighted by how often
the extracted policy visits them, and the kind with the largest share of the regret is the bottleneck. *Calibration* is
against the behaviour policy's Q, on which the critic regresses.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from digiq import artifacts
from digiq.agents.agent import Actor, Decision, Turn, turns_for
from digiq.agents.build import AgentConfig, DeviceConfig, build_agent, device_tasks, env_factory
from digiq.agents.rollout import plan_episodes, rollout
from digiq.artifacts import Artifact
from digiq.config import configclass, load
from digiq.critics.measures import calibration
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import ConfigError, DigiQError
from digiq.extraction.base import Ranks, read_states
from digiq.extraction.critic_values import CriticValues
from digiq.extraction.distill import DistillConfig, fill
from digiq.laboratory.truth import best_actions, pairwise_accuracy
from digiq.progress import progress
from digiq.proposals.propose import first_of_action
from digiq.proposals.values import load_exact

STAGE, VERSION = "q-metrics", 2
METRICS = "q_metrics.json"


@configclass
class QMetricsConfig:
    """Where the extracted policy's visits are counted, and the resolution of calibration."""

    tasks: str = "webshop/test"
    """Tasks that the extracted policy plays."""
    rollouts: Annotated[int, Field(ge=1)] = 90
    """Number of rollouts of the extracted policy."""
    device: DeviceConfig = DeviceConfig()
    agent: AgentConfig = AgentConfig()
    """How the extracted policy acts; in a recipe always as in its evaluation."""
    bins: Annotated[int, Field(ge=2)] = 10
    """Number of bins, of equal count, in the reliability plot."""
    seed: int = 0
    """Seed of the rollouts."""


@dataclasses.dataclass(frozen=True)
class Regret:
    """The value that the top-ranked candidates lose, in units of Q*."""

    weighted: float
    """Mean over kinds of screens, weighted by the policy's visits; NaN if it visits no kind with logged states."""
    covered: float
    """Share of the visits to kinds of screens with logged states."""
    plain: float
    """Mean over logged states."""
    worst: str
    """The kind of screen with the largest visits × regret; empty if nothing is known."""
    kinds: dict[str, dict[str, float]]
    """``states``, ``visits`` (share) and ``regret`` (mean) by kind of screen."""


def regret_by_visits(
    truth: np.ndarray, choice: np.ndarray, screens: Sequence[str], visits: Mapping[str, float]
) -> Regret:
    """Regret of one choice per state.

    Args:
      truth: float[R, N], exact Q of the candidates, NaN where there is none.
      choice: int[R], the chosen column; -1 leaves the state out.
      screens: kinds of the R screens.
      visits: number of the policy's visits by kind of screen.
    """
    known = (choice >= 0) & ~np.isnan(truth).all(axis=1)
    known[known] &= ~np.isnan(truth[known, choice[known]])
    rows = np.flatnonzero(known)
    lost = np.nanmax(truth[rows], axis=1) - truth[rows, choice[rows]] if len(rows) else np.zeros(0)
    of_kind: dict[str, list[float]] = {}
    for row, value in zip(rows, lost, strict=True):
        of_kind.setdefault(screens[int(row)], []).append(float(value))
    total = sum(visits.values())
    kinds = {
        kind: {
            "states": len(values),
            "visits": visits.get(kind, 0) / total if total else 0.0,
            "regret": float(np.mean(values)),
        }
        for kind, values in sorted(of_kind.items())
    }
    covered = sum(kind["visits"] for kind in kinds.values())
    weighted = sum(kind["visits"] * kind["regret"] for kind in kinds.values())
    worst = max(kinds, key=lambda kind: kinds[kind]["visits"] * kinds[kind]["regret"], default="")
    return Regret(
        weighted / covered if covered else float("nan"),
        covered,
        float(lost.mean()) if len(lost) else float("nan"),
        worst,
        kinds,
    )


def run(
    config: QMetricsConfig,
    *,
    episodes: Path,
    proposals: Path,
    features: Path,
    critic: Path,
    exact: Path,
    policy: Path,
    out: Path,
    rewards: Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Writes ``q_metrics.json``.

    Args:
      config: see :class:`QMetricsConfig`.
      episodes, rewards, proposals, features, critic: the artefacts of the run.
      exact: the ``value`` artefact of the same proposals.
      policy: the policy extracted by ranking candidates; its objective decides which it takes.
      out: the artefact.
      overwrite: start afresh.

      Raises:
        DigiQError: the artefacts are of different runs, or the policy's objective takes no candidate per state.
    """
    inputs = {
        "episodes": episodes,
        "rewards": rewards,
        "proposals": proposals,
        "features": features,
        "critic": critic,
        "exact": exact,
        "policy": policy,
    }
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        how = load(
            DistillConfig,
            artifacts.read_manifest(policy, stage="distill").config,
            where=str(policy),
            recorded=True,
        )
        objective = how.chosen
        if not isinstance(objective, Ranks):
            raise DigiQError(
                f"{policy}: the objective '{how.choice}' does not pick one candidate per state, so there is no regret to measure."
            )
        states, split = read_states(LabelledEpisodes(episodes, rewards))
        read = {"proposals": proposals, "features": features, "critic": critic}
        states = fill(states, frozenset({"q", "v"}), CriticValues(), read, config.seed)
        assert states.proposals is not None and states.values is not None and states.values.q is not None
        stored, learned, truth = states.proposals, states.values.q, load_exact(exact)
        trained = split == "train"
        chosen = objective.choose(states)
        choice = np.where(trained, chosen.choice, -1)
        visits = count_visits(config, policy)
        best = regret_by_visits(truth["best_q"], choice, truth["screen"].tolist(), visits)
        first = first_of_action(
            [
                [stored.action(s, n) if stored.valid[s, n] else None for n in range(stored.valid.shape[1])]
                for s in range(len(stored))
            ]
        )
        first &= ~np.isnan(learned)  # the critic has no Q for candidates without features
        known = ~np.isnan(truth["policy_q"]) & first
        metrics: dict[str, Any] = {
            "regret": dataclasses.asdict(best),
            "pairwise_best": pairwise_accuracy(truth["best_q"], learned, first),
            "pairwise_policy": pairwise_accuracy(truth["policy_q"], learned, first),
            "reliability": dataclasses.asdict(
                calibration(learned[known].astype(np.float64), truth["policy_q"][known], config.bins)
            )
            if known.any()
            else None,
            "support": support_of(stored.log_prob, stored.valid, choice, chosen.keep & trained),
            "right": rightness(truth["best_q"], truth["best_v"], choice, chosen.keep & trained),
        }
        artifacts.atomic_write_json(writer.path / METRICS, _rounded(metrics))
        return writer.complete(counts={"states": int((choice >= 0).sum()), "visits": sum(visits.values())})


def rightness(best_q: np.ndarray, best_v: np.ndarray, choice: np.ndarray, keep: np.ndarray) -> float:
    """The share of imitated candidates that are a best action; NaN if none is imitated.

    Args:
      best_q: float[S, N], Q* of the candidates.
      best_v: float[S], Q* of the best action.
      choice: int[S], the chosen column.
      keep: bool[S], the states that are imitated.
    """
    rows = np.flatnonzero(keep & (choice >= 0) & np.isfinite(best_v))
    right = best_actions(best_q, best_v)[rows, choice[rows]]
    return float(right.mean()) if len(rows) else float("nan")


def support_of(
    log_prob: np.ndarray, valid: np.ndarray, choice: np.ndarray, keep: np.ndarray
) -> dict[str, Any]:
    """The likelihood of the imitated candidates under the proposer.

    Args:
      log_prob: float[S, N], log-probabilities of the candidates.
      valid: bool[S, N], candidates that exist.
      choice: int[S], the chosen column.
      keep: bool[S], the states that are imitated.

      Returns:
        ``kept``, the share of states kept; ``logged``, the share of kept states whose choice is the logged action; and
        ``likelihood``, quantiles (10, 50, 90 %) of the choice's probability relative to the likeliest candidate's, None
        if the proposer gives no probabilities.
    """
    rows = np.flatnonzero(keep & (choice >= 0))
    if not len(rows):
        return {"kept": 0.0, "logged": None, "likelihood": None}
    known = np.where(valid, log_prob, -np.inf)[rows]
    relative = np.exp(known[np.arange(len(rows)), choice[rows]] - known.max(axis=1))
    return {
        "kept": float(len(rows) / max((choice >= 0).sum(), 1)),
        "logged": float((choice[rows] == 0).mean()),
        "likelihood": None if np.isnan(relative).any() else np.quantile(relative, [0.1, 0.5, 0.9]).tolist(),
    }


def count_visits(config: QMetricsConfig, policy: Path) -> dict[str, int]:
    """How often a policy acts on each kind of screen, over its rollouts.

    Raises:
      ConfigError: the device does not report what kind of screen it shows.
    """
    if not config.device.chosen.exact:
        raise ConfigError(
            f"device.name: '{config.device.name}' does not report kinds of screens; use 'simulated'."
        )
    tasks = device_tasks(config.tasks)
    agent = CountingActor(build_agent(config.agent, device=config.device, policy=policy))
    specs = plan_episodes(tasks, config.rollouts, config.seed)
    with progress("q-metrics", len(specs), unit="episodes") as bar:
        for _ in rollout(agent, specs, env_factory(config.device, tasks), record=lambda spec: False):
            bar.advance()
    return dict(sorted(agent.visits.items()))


@dataclasses.dataclass(frozen=True)
class CountingActor:
    """Counts the screens on which the wrapped agent is asked to act."""

    reads_device: ClassVar[bool] = True
    actor: Actor
    visits: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    @property
    def name(self) -> str:
        return self.actor.name

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        self.visits.update(turn.device.display.screen.template for turn in turns)
        return self.actor.act(turns_for(self.actor, turns))


def _rounded(value: Any) -> Any:
    """A JSON-able value with floats at six digits, so that records stay compact, and NaN as null."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value
