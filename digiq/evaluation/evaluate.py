"""Evaluates an agent on the tasks of a device: one line per episode, resumable, then a table with intervals."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from android_env.tasks import TaskSet
from digiq import artifacts
from digiq.agents import remote
from digiq.agents.agent import Actor
from digiq.agents.build import (
    AgentConfig,
    DeviceConfig,
    build_agent,
    check_agent,
    device_tasks,
    env_factory,
)
from digiq.agents.oracle import policy_fn
from digiq.agents.rollout import EpisodeRun, EpisodeSpec, plan_episodes, plan_repeats, rollout
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.drawing.page import render
from digiq.errors import ArtifactError, ConfigError
from digiq.evaluation.arm_page import arm_page
from digiq.evaluation.leakage import warn_of_leakage
from digiq.evaluation.outcomes import EpisodeResult, Outcome, tally
from digiq.evaluation.records import RECORDS, recorded_strips, remove_torn, write_record
from digiq.evaluation.repeats import table_rows
from digiq.policies.base import load_policy
from digiq.progress import progress
from digiq.statistics import Estimate, cluster_bootstrap

STAGE, VERSION = "evaluate", 2
_RESAMPLES = 4000
_PATIENCE_S = 900.0
"""How long an evaluation waits for a device to come back if none is left, seconds."""
RECORDINGS = "recordings"
EPISODES, EXACT, TABLE, REPORT = "episodes.jsonl", "exact.jsonl", "table.json", "report.html"


@configclass
class EvaluateConfig:
    """What to run, on which device, and how often."""

    arm: str = "digiq"
    """Name of the arm in tables and figures."""
    tasks: str = "webshop/test"
    """A built-in task set, or a task file."""
    episodes: Annotated[int, Field(ge=1)] = 288
    """Total number of episodes, spread evenly over the splits of the task set and then over their tasks."""
    repeats: Annotated[int, Field(ge=0)] = 0
    """Tries per task, each with its own seed, for Pass@k and Pass^k; replaces ``episodes``. 0: ``episodes`` decides."""
    agent: AgentConfig = AgentConfig()
    device: DeviceConfig = DeviceConfig()
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Episodes that run at the same time; the results do not depend on it."""
    infra_retries: Annotated[int, Field(ge=0)] = 2
    """How often an episode whose device failed is run again, with the same seed."""
    records: Annotated[int, Field(ge=0)] = 6
    """How many episodes, from the first, are kept with their screenshots, for the report."""
    record_all: bool = False
    """Record every try of every episode as it happens, in ``recordings``: ``digiq rejudge`` judges them again, and
    ``digiq import --format recordings`` turns them into offline episodes."""
    exact: bool = False
    """Also compute each episode's probability of success without sampling: the rate of the rollouts without their
    noise. Needs the simulated phone, and a script, or a memoryless policy at temperature 1 without a scorer. Takes a
    tenth of a second per episode for a script, and seconds for a learned policy, in which hundreds of rollouts run."""
    seed: int = 0
    """Seed of tasks, layouts, noise and the agent's sampling; arms with the same seed run the same episodes."""

    def __post_init__(self) -> None:
        check_agent(self.agent, self.device)

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the agent is built from."""
        return self.agent.reads


def run(
    config: EvaluateConfig,
    *,
    policy: Path | None = None,
    critic: Path | None = None,
    features: Path | None = None,
    vlm: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Runs the episodes that ``out`` lacks and writes the table.

    Args:
      config: see :class:`EvaluateConfig`.
      policy: a policy artefact; None for a scripted agent.
      critic: the critic of an agent that re-ranks with the learned Q.
      features: the features that the critic was trained on; only their configuration is read.
      vlm: the model that the features came from.
      out: ``episodes.jsonl`` (append-only, one line per episode), ``table.json``, ``records/`` and ``report.html``.
      overwrite: start afresh, whatever ``out`` holds.

    Raises:
      DigiQError: an input is missing, or ``out`` holds another evaluation.
    """
    _check_exact(config)
    inputs = {"policy": policy, "critic": critic, "features": features, "vlm": vlm}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        tasks = device_tasks(config.tasks)
        for learned in filter(None, (policy, critic)):
            warn_of_leakage(learned, tasks)

        def make_agent() -> Actor:
            return build_agent(
                config.agent, device=config.device, policy=policy, critic=critic, features=features, vlm=vlm
            )

        specs, results = play(config, tasks, make_agent, w.path)
        exact = _exact_rates(config, specs, policy, w.path / EXACT) if config.exact else None
        return finish(w, config.arm, results, exact)


def play(
    config: Any, tasks: TaskSet, make_agent: Callable[[], Actor], path: Path
) -> tuple[list[EpisodeSpec], list[EpisodeResult]]:
    """Plays the episodes that ``path`` lacks, and returns the planned episodes and all results.

    Args:
      config: an :class:`EvaluateConfig`, or another config with its fields from ``arm`` to ``seed``; fields of the
        agent are not read.
      tasks: the loaded ``config.tasks``.
      make_agent: opens the agent; called only if there is something to play.
      path: the artefact, to which the lines of ``episodes.jsonl`` and the records are written.
    """
    if config.repeats:
        specs = plan_repeats(tasks, config.repeats, config.seed)
    else:
        specs = plan_episodes(tasks, config.episodes, config.seed)
    log = path / EPISODES
    results = read_results(log)
    remove_torn(path / RECORDS)
    done = {r.episode_id for r in results}
    missing = [spec for spec in specs if spec.episode_id not in done]
    recorded = {spec.episode_id for spec in specs[: config.records]}
    if missing:
        agent = make_agent()
        far = remote.asked_for()
        if far and getattr(agent, "reads_device", False):
            raise ConfigError(
                f"--ray: agent.kind '{config.agent.kind}' reads its device's state; leave out --ray."
            )
        runs = rollout(
            agent,
            missing,
            remote.remotely(config.device, tasks) if far else env_factory(config.device, tasks),
            batch_size=config.batch_size,
            record=lambda spec: spec.episode_id in recorded,
            infra_retries=config.infra_retries,
            threads=far or config.device.chosen.waits,
            patience_s=_PATIENCE_S,
            recordings=path / RECORDINGS if config.record_all else None,
        )
        with (
            log.open("a", encoding="utf-8") as file,
            progress(f"evaluate {config.arm}", len(specs), unit="episodes", done=len(done)) as bar,
        ):
            for episode in runs:
                if episode.episode is not None:
                    write_record(path / RECORDS, episode)
                results.append(result_of(episode))
                file.write(json.dumps(results[-1].to_json()) + "\n")
                file.flush()
                bar.advance(1, success=tally(results).strict.value)
    return specs, results


def finish(
    w: artifacts.Writer,
    arm: str,
    results: Sequence[EpisodeResult],
    exact: Mapping[str, float] | None = None,
) -> Artifact:
    """Writes the table and the page of the results, and completes the artefact; arguments as for :func:`make_table`."""
    table = make_table(arm, results, exact)
    artifacts.atomic_write_json(w.path / TABLE, table)
    page = arm_page(table, results, recorded_strips(w.path))
    artifacts.atomic_write_text(w.path / REPORT, render(page))
    return w.complete(counts={"episodes": len(results), **table["pooled"]["outcomes"]})


def result_of(run: EpisodeRun) -> EpisodeResult:
    """The line of ``episodes.jsonl`` for an episode."""
    spec: EpisodeSpec = run.spec
    return EpisodeResult(
        episode_id=spec.episode_id,
        task_id=spec.task.task_id,
        split=spec.task.split,
        index=spec.index,
        seed=spec.seed,
        outcome=Outcome(run.outcome),
        steps=run.steps,
        error=run.error,
        fault=run.fault,
        tries=run.tries,
        notes=dict(Counter(note for report in run.reports if report is not None for note in report.notes)),
    )


def read_results(path: Path) -> list[EpisodeResult]:
    """Reads ``episodes.jsonl``; a missing file holds no results.

    Raises:
      ArtifactError: a line is not the result of an episode.
    """
    try:
        return [EpisodeResult.from_json(row) for row in _whole_lines(path)]
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{path}: a line is not an episode's result ({error}); run 'evaluate' again with --overwrite."
        ) from None


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Reads JSON lines, and cuts off a last line that a kill left unfinished, so that more can be appended."""
    if not path.is_file():
        return []
    whole, newline, rest = path.read_text(encoding="utf-8").rpartition("\n")
    if rest:
        artifacts.atomic_write_text(path, whole + newline)
    return [json.loads(line) for line in whole.splitlines()]


def make_table(
    arm: str, results: Iterable[EpisodeResult], exact: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The arm's rates, pooled and per split, as JSON-able dicts (see ``summary.json``).

    Args:
      arm: name of the arm.
      results: results of all episodes.
      exact: exact probability of success by episode id, if it was computed.
    """
    results = list(results)
    splits = dict.fromkeys(r.split for r in results)
    return {
        "arm": arm,
        "pooled": _row(results, exact),
        "splits": {split: _row([r for r in results if r.split == split], exact) for split in splits},
    }


def _row(results: list[EpisodeResult], exact: Mapping[str, float] | None) -> dict[str, Any]:
    found = tally(results)
    tasks = [r.task_id for r in results]
    successes = [float(r.outcome is Outcome.SUCCESS) for r in results]
    by_task = cluster_bootstrap(successes, tasks, resamples=_RESAMPLES)
    extra = {}
    if exact is not None:
        rates = [exact[r.episode_id] for r in results]
        extra["exact"] = _estimate(cluster_bootstrap(rates, tasks, resamples=_RESAMPLES))
    return {
        "success": found.strict.value,
        "low": found.strict.low,
        "high": found.strict.high,
        "episodes": found.episodes,
        "mean_steps": _or_none(found.mean_steps),
        "outcomes": found.counts,
        "faults": sum(found.counts[o] for o in Outcome if o.is_fault),
        "infra_excluded": _estimate(found.infra_excluded),
        "task_clustered": _estimate(by_task),
        "tasks": len(set(tasks)),
        **table_rows(results),
        **extra,
    }


def _check_exact(config: EvaluateConfig) -> None:
    agent = config.agent
    if config.exact and not config.device.chosen.exact:
        raise ConfigError(f"exact: device '{config.device.name}' has no exact success; set exact to false.")
    if config.exact and agent.code:
        raise ConfigError(
            f"exact: agent.kind '{agent.kind}' is your own code, whose exact success is unknown; set exact to false."
        )
    if config.exact and agent.kind == "policy" and (agent.scorer != "none" or agent.temperature != 1.0):
        raise ConfigError(
            "exact: success is exact only for scripts and for a policy without a scorer at temperature 1; "
            "set exact to false, or agent.scorer to none and agent.temperature to 1."
        )


def _exact_rates(
    config: EvaluateConfig, specs: list[EpisodeSpec], policy: Path | None, log: Path
) -> dict[str, float]:
    """Exact success of every episode's task under its layout, written line by line as it is computed."""
    from android_env.devices.simulated import collector
    from android_env.devices.simulated.exact import ExactValues, reading, seeing
    from android_env.devices.simulated.phone import layout_seed_of

    rates = {row["episode_id"]: row["exact"] for row in _whole_lines(log)}
    missing = [spec for spec in specs if spec.episode_id not in rates]
    if missing:
        if policy is None:
            acting = reading(collector.SCRIPTED[config.agent.kind])
        else:
            acting = seeing(policy_fn(load_policy(policy)))
        device = config.device.chosen
        with (
            log.open("a", encoding="utf-8") as file,
            progress(f"exact success {config.arm}", len(specs), unit="episodes", done=len(rates)) as bar,
        ):
            for spec in missing:
                rates[spec.episode_id] = ExactValues(
                    acting, spec.task, layout_seed_of(spec.seed), noise=device.noise, success=device.success
                ).success
                file.write(
                    json.dumps({"episode_id": spec.episode_id, "exact": rates[spec.episode_id]}) + "\n"
                )
                file.flush()
                bar.advance(1)
    return rates


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {name: _or_none(value) for name, value in estimate._asdict().items()}


def _or_none(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
