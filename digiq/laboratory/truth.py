"""The simulated phone's own Q as a measure: how much value the candidates lose, and how much the critic.

Logged episodes are replayed (an episode is determined by its task, seed and actions), so every logged state is known to
the simulator, and the optimal policy's Q* of every stored candidate is exact. One of each state's candidates is picked,
by the critic, at random, or by Q* itself; the mean Q* of the picks over states shows where value is lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digiq import artifacts
from digiq.agents.build import DeviceConfig, device_tasks
from digiq.agents.devices import DEVICES
from digiq.agents.oracle import SUPPORT, policy_fn
from digiq.config import load
from digiq.data.schema import Episode
from digiq.data.transitions import outlines_of
from digiq.errors import ArtifactError
from digiq.policies.base import Policy

TIE = 1e-3
"""Two actions whose Q* differ by less than this are equally good."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """Exact values in R logged states."""

    rows: np.ndarray
    """int[R], rows of the observation index."""
    screens: tuple[str, ...]
    """Kind of screen of each state, e.g. ``results``."""
    q: np.ndarray
    """float[R, N], exact Q of each candidate (Q*, unless for another policy); NaN where there is no candidate."""
    v: np.ndarray
    """float[R], exact V; for the optimal policy, the Q* of the best of all actions."""


@dataclasses.dataclass(frozen=True)
class Picks:
    """Mean values of picking one candidate per state, over a set of states."""

    states: int
    best_action: float
    """V*, with any action allowed."""
    best_candidate: float
    """Value of the picks of Q*: the upper bound for any critic with these candidates."""
    critic: float
    """Value of the picks of the critic's highest Q."""
    random: float
    """Value of uniform picks among the distinct candidates."""
    logged: float
    """Value of the logged actions."""
    coverage: float
    """Share of states with a candidate as good as the best action."""
    pairwise: float
    """Share of candidate pairs of different Q* that the critic orders correctly, ties count half; NaN without pairs."""


def best_actions(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """bool[S, N]: the candidates whose Q*, float[S, N], no action exceeds: none is better than V*, float[S]."""
    return np.nan_to_num(q, nan=-np.inf) >= v[:, None] - TIE


def is_simulated(episodes: Path) -> bool:
    """Whether the episodes were collected on the simulated phone, so that they can be replayed."""
    manifest = artifacts.read_manifest(episodes)
    name = manifest.config["device"]["name"] if manifest.stage == "collect" else ""
    return name in DEVICES and DEVICES[name].exact


def replay(
    episodes_path: Path,
    episodes: Sequence[Episode],
    index: np.ndarray,
    candidates: Any,
    *,
    discount: float,
    policy: Policy | None = None,
    acting: Any = None,
    support: int = SUPPORT,
    max_episodes: int | None = None,
    on_episode: Callable[[], None] = lambda: None,
) -> Truth:
    """Replays the recorded episodes and values their candidates.

    Args:
      episodes_path: the ``collect`` artefact, whose configuration names tasks, noise and success rule.
      episodes: the labelled episodes; copies under other goals are left out, since they were never played.
      index: int[S, 2], (episode, step) of each row.
      candidates: maps a row to its N actions, None where there is none.
      discount: discount γ.
      policy: the policy to value; None for the optimal policy (milliseconds per episode; a learned policy is asked in
        every state that it can reach, which takes seconds).
      acting: a script to value instead, as a :data:`android_env.devices.simulated.exact.StatePolicy`.
      support: number of the policy's likeliest actions that are followed from each state, with rescaled probabilities.
      max_episodes: replay at most this many episodes, from the first.
      on_episode: called after each episode.

    Raises:
      ArtifactError: an episode's task is not in the task set, or a replay shows a different screen from the recording.
    """
    from android_env.devices.simulated.exact import ExactValues, seeing

    config = artifacts.read_manifest(episodes_path, stage="collect").config
    device = load(DeviceConfig, config["device"], where=str(episodes_path), recorded=True).chosen
    tasks = {task.task_id: task for task in device_tasks(config["tasks"])}
    phone = device.phone(render=False)
    by_episode: dict[int, list[int]] = {}
    for row, (episode, _) in enumerate(index):
        by_episode.setdefault(int(episode), []).append(row)
    asked = acting if policy is None else seeing(policy_fn(policy, support))
    rows, screens, q, v = [], [], [], []
    outlines = outlines_of(episodes)
    played = [n for n in by_episode if not outlines[n].copy_of]
    for number in played[:max_episodes]:
        episode, members = episodes[number], by_episode[number]
        if episode.task_id not in tasks:
            raise ArtifactError(
                f"{episodes_path}: task {episode.task_id} of episode {episode.episode_id} is not in {config['tasks']}."
            )
        task = tasks[episode.task_id]
        phone.reset(task, seed=episode.seed)
        values = ExactValues(
            asked, task, phone.layout_seed, noise=phone.noise, success=phone.success, discount=discount
        )
        for row in members:
            step = int(index[row, 1])
            recorded = episode.steps[step]
            if recorded.activity != phone.observe().activity:
                raise ArtifactError(
                    f"{episodes_path}: replaying {episode.episode_id} shows {phone.observe().activity} at step {step}, "
                    f"but the recording shows {recorded.activity}; it was made by another version of the simulated phone."
                )
            actions = candidates(row)
            known = dict.fromkeys(a for a in actions if a is not None)
            exact = {a: values.q(phone.state, a, step) for a in known}
            rows.append(row)
            screens.append(phone.display.screen.template)
            q.append([np.nan if a is None else exact[a] for a in actions])
            v.append(values.v(phone.state, step))
            if recorded.action is not None:
                phone.execute(recorded.action)
        on_episode()
    return Truth(np.array(rows), tuple(screens), np.array(q, np.float64), np.array(v, np.float64))


def displays(episodes_path: Path, episodes: Sequence[Episode]) -> Iterator[Any]:
    """The simulator's display of every logged state, in the order of ``observation_index``; copies are skipped.

    Raises:
      ArtifactError: see :func:`replay`, but screens are not compared.
    """
    config = artifacts.read_manifest(episodes_path, stage="collect").config
    device = load(DeviceConfig, config["device"], where=str(episodes_path), recorded=True).chosen
    tasks = {task.task_id: task for task in device_tasks(config["tasks"])}
    phone = device.phone(render=False)
    for number, outline in enumerate(outlines_of(episodes)):
        if outline.copy_of:
            continue
        episode = episodes[number]
        phone.reset(tasks[episode.task_id], seed=episode.seed)
        for step in episode.steps:
            if step.is_terminal:
                continue
            yield phone.display
            if step.action is not None:
                phone.execute(step.action)


def picks(truth: Truth, critic_q: np.ndarray, distinct: np.ndarray, where: np.ndarray) -> Picks:
    """The values of picking by the critic, at random and by Q*.

    Args:
      truth: exact values of R states.
      critic_q: float[R, N], the learned Q of the same candidates; NaN where there is none.
      distinct: bool[R, N], the first column of each distinct action.
      where: bool[R], the states to include; those without a logged action are left out.
    """
    keep = np.flatnonzero(where & ~np.isnan(truth.q[:, 0]))
    q, learned, first = truth.q[keep], critic_q[keep], distinct[keep]
    at = np.arange(len(keep))
    best = np.nanmax(q, axis=1)
    shares = np.where(first, q, 0).sum(axis=1) / first.sum(axis=1)
    return Picks(
        states=len(keep),
        best_action=float(truth.v[keep].mean()),
        best_candidate=float(best.mean()),
        critic=float(q[at, np.nanargmax(learned, axis=1)].mean()),
        random=float(shares.mean()),
        logged=float(q[:, 0].mean()),
        coverage=float((best >= truth.v[keep] - TIE).mean()),
        pairwise=pairwise_accuracy(q, learned, first),
    )


def pairwise_accuracy(truth: np.ndarray, learned: np.ndarray, first: np.ndarray) -> float:
    """Share of candidate pairs of different true value that are ordered correctly, ties count half; NaN without pairs.

    Args:
      truth: float[R, N], true values; NaN where unknown.
      learned: float[R, N], learned values.
      first: bool[R, N], the first column of each distinct action (:func:`first_of_action`).
    """
    right = total = 0.0
    for a in range(truth.shape[1]):
        for b in range(a):
            both = first[:, a] & first[:, b] & (np.abs(truth[:, a] - truth[:, b]) > TIE)
            gap = np.where(both, (learned[:, a] - learned[:, b]) * np.sign(truth[:, a] - truth[:, b]), 0)
            right += (gap > 0).sum() + 0.5 * (both & (gap == 0)).sum()
            total += both.sum()
    return float(right / total) if total else float("nan")
