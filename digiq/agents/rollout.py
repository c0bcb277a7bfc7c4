"""Runs many episodes at once: one batch through the agent a step, finished episodes replaced from a queue.

An episode's result depends on its task, its seed and the agent only: the device's noise and the agent's sampling come
from generators made of (seed, task, index), so neither the batch size nor a kill and resume changes it.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from android_env.actions import Action, ParseError
from android_env.devices import StepReport
from android_env.errors import DeviceFault
from android_env.faults import JudgeError, Quarantined
from android_env.tasks import Task
from digiq.agents.agent import Actor, Decision, Past, Turn, screen_digest, turns_for
from digiq.data.schema import Episode, Step, encode_png
from digiq.policies.base import PolicyInput


@dataclasses.dataclass(frozen=True)
class EpisodeSpec:
    """An episode to run: a task, the how-manieth time, and the seed of its device."""

    task: Task
    index: int
    seed: int

    @property
    def episode_id(self) -> str:
        return f"{self.task.task_id}#{self.index}"


@dataclasses.dataclass(frozen=True)
class EpisodeRun:
    """What became of one :class:`EpisodeSpec`."""

    spec: EpisodeSpec
    outcome: str
    """``success``, ``failure``, ``truncated``, ``infra_error`` or ``judge_error``."""
    decisions: tuple[Decision, ...]
    """Of the executed actions, and of the unparsable one if that ended the episode."""
    steps: int
    """Executed actions."""
    episode: Episode | None
    """The recording, where one was asked for and the device held out."""
    error: str = ""
    reports: tuple[StepReport | None, ...] = ()
    """How each executed action went; None on devices that do not tell."""


def plan_episodes(tasks: Iterable[Task], episodes: int, seed: int) -> list[EpisodeSpec]:
    """Spreads ``episodes`` evenly over the splits of the tasks, and within a split over its tasks.

    Tasks come in an order drawn from ``seed``; a task comes again, with the next index, only after all others of
    its split. The plan is a prefix of every longer plan of the same seed.

    Raises:
      ValueError: there are no tasks.
    """
    by_split: dict[str, list[Task]] = {}
    for task in tasks:
        by_split.setdefault(task.split, []).append(task)
    if not by_split:
        raise ValueError("the task set is empty, so no episode can be planned.")
    rng = np.random.default_rng(seed)
    shuffled = [[group[i] for i in rng.permutation(len(group))] for group in by_split.values()]
    specs = []
    for number in range(episodes):
        turn, split = divmod(number, len(shuffled))
        index, position = divmod(turn, len(shuffled[split]))
        task = shuffled[split][position]
        specs.append(EpisodeSpec(task, index, _derive(seed, task.task_id, index, "device")))
    return specs


def rollout(
    agent: Actor,
    specs: Sequence[EpisodeSpec],
    make_env: Callable[[], Any],
    *,
    batch_size: int = 32,
    record: Callable[[EpisodeSpec], bool] = lambda spec: True,
    infra_retries: int = 2,
    threads: bool = False,
) -> Iterator[EpisodeRun]:
    """Runs the episodes, up to ``batch_size`` at a time, and yields their results in the order of ``specs``.

    Args:
      agent: decides for all running episodes at once.
      specs: the episodes to run.
      make_env: makes an :class:`android_env.env.AndroidEnv`; called at most ``batch_size`` times. It may raise
        ``Quarantined`` where there is no further device.
      batch_size: episodes that run side by side.
      record: says which episodes are recorded (screenshots kept as PNG).
      infra_retries: how often an episode whose device, or judge, failed is run again, under the same seed, before its
        outcome is ``infra_error`` or ``judge_error``. A device that is given up (``Quarantined``) costs its episode
        no retry: another device takes it; only when none is left do the rest end as ``infra_error``.
      threads: moves every running episode in a thread of its own, for devices that keep one waiting; the results are
        the same.

    Raises:
      Exception: whatever the agent raises: a bug in an agent is no episode's failure. An answer that cannot be
        parsed is a value (:class:`~android_env.actions.ParseError`) and ends its own episode as a failure.
    """
    waiting = collections.deque((position, spec, infra_retries) for position, spec in enumerate(specs))
    running: list[_Running] = []
    finished: dict[int, EpisodeRun] = {}
    idle: list[Any] = []
    next_position = 0
    devices, reason = batch_size, "there was none"
    pool = ThreadPoolExecutor(batch_size) if threads else None
    each: Callable[..., Iterable[Any]] = map if pool is None else pool.map
    try:
        while True:
            while len(running) < devices and waiting:
                try:
                    env = idle.pop() if idle else make_env()
                except Quarantined as error:
                    devices, reason = len(running), str(error)
                    break
                position, spec, retries = waiting.popleft()
                remembers = getattr(agent, "reads_past", False)
                running.append(_Running(env, position, spec, record(spec), retries, remembers))
            list(each(_Running.start_if_needed, running))
            active = [episode for episode in running if episode.result is None and not episode.lost]
            if active:
                decisions = agent.act(turns_for(agent, [episode.turn() for episode in active]))
                pairs = zip(active, decisions, strict=True)
                list(each(lambda pair: pair[0].advance(pair[1], agent.name), pairs))
            still = []
            for episode in running:
                if episode.lost:
                    devices, reason = devices - 1, episode.lost
                    episode.env.close()
                    waiting.appendleft((episode.position, episode.spec, episode.retries))
                elif episode.result is None:
                    still.append(episode)
                else:
                    finished[episode.position] = episode.result
                    idle.append(episode.env)
            running = still
            if not devices:
                for position, spec, _ in waiting:
                    text = f"no device is left: {reason}"
                    finished[position] = EpisodeRun(spec, "infra_error", (), 0, None, text)
                waiting.clear()
            while next_position in finished:
                yield finished.pop(next_position)
                next_position += 1
            if next_position == len(specs):
                return
    finally:
        if pool is not None:
            pool.shutdown()
        for env in [*idle, *(episode.env for episode in running)]:
            env.close()


class _Running:
    """One episode on one env."""

    def __init__(
        self,
        env: Any,
        position: int,
        spec: EpisodeSpec,
        recorded: bool,
        retries: int,
        remembers: bool = False,
    ):
        self.env, self.position, self.spec, self._remembers = env, position, spec, remembers
        self.result: EpisodeRun | None = None
        self.lost = ""
        """Why the device is given up; the episode is then for another."""
        self._recorded, self.retries = recorded, retries
        self._observation: dict[str, Any] | None = None

    def start_if_needed(self) -> None:
        while self.result is None and self._observation is None and not self.lost:
            self._rng = np.random.default_rng(
                _derive(self.spec.seed, self.spec.task.task_id, self.spec.index, "agent")
            )
            self._decisions: list[Decision] = []
            self._steps: list[Step] = []
            self._past: tuple[Past, ...] = ()
            self._reports: list[StepReport | None] = []
            self._executed = 0
            try:
                self._observation, _ = self.env.reset(seed=self.spec.seed, options={"task": self.spec.task})
            except DeviceFault as error:
                self._fault(error)

    def turn(self) -> Turn:
        assert self._observation is not None
        policy_input = PolicyInput(self._observation["screenshot"], self._observation["goal"])
        device = self.env.unwrapped.device
        limit = self.spec.task.max_steps
        return Turn(policy_input, self._rng, device, self._executed, limit, self._past)

    def advance(self, decision: Decision, policy_name: str) -> None:
        self._decisions.append(decision)
        if isinstance(decision.action, ParseError):
            # The observation it answered is the last one, and no action follows it.
            self._finish("failure", policy_name, terminal=True, error=decision.action.reason)
            return
        try:
            observation, reward, terminated, truncated, info = self.env.step(decision.action)
        except DeviceFault as error:
            self._fault(error)
            return
        if info.get("refused"):
            # As with an answer that cannot be parsed: the agent's error, and nothing was executed.
            self._finish("failure", policy_name, terminal=True, error=info["refused"])
            return
        self._executed += 1
        self._reports.append(info.get("report"))
        self._keep(decision, float(reward), 0.0 if terminated else 1.0)
        if self._remembers:
            assert self._observation is not None
            done = Past(screen_digest(self._observation["screenshot"]), decision.action)
            self._past = (*self._past, done)
        self._observation = observation
        if terminated or truncated:
            outcome = "truncated" if not terminated else str(info["outcome"])
            self._finish(outcome, policy_name, terminal=bool(terminated))

    def _keep(self, decision: Decision, reward: float, discount: float) -> None:
        if self._recorded:
            assert isinstance(decision.action, Action)
            self._steps.append(self._step(decision.action, decision.log_prob, reward, discount))

    def _step(
        self, action: Action | None, log_prob: float, reward: float, discount: float, terminal: bool = False
    ) -> Step:
        assert self._observation is not None
        seen = self._observation
        return Step(
            screenshot=encode_png(seen["screenshot"]),
            goal=seen["goal"],
            activity=seen["activity"],
            ui_elements=seen["ui_elements"],
            action=action,
            behavior_log_prob=log_prob,
            reward=reward,
            discount=discount,
            is_first=not self._steps,
            is_last=action is None,
            is_terminal=terminal,
        )

    def _finish(self, outcome: str, policy_name: str, *, terminal: bool, error: str = "") -> None:
        episode = None
        if self._recorded:
            last = self._step(None, math.nan, 0.0, 0.0, terminal)
            device = self.env.unwrapped.device
            episode = Episode(
                episode_id=self.spec.episode_id,
                task_id=self.spec.task.task_id,
                split=self.spec.task.split,
                outcome=outcome,
                policy=policy_name,
                device=device.name,
                screen_hw=tuple(device.screen_hw),
                seed=self.spec.seed,
                steps=(*self._steps, last),
            )
        self.result = EpisodeRun(
            self.spec, outcome, tuple(self._decisions), self._executed, episode, error, tuple(self._reports)
        )

    def _fault(self, error: DeviceFault) -> None:
        """The device failed: run again under the same seed, or give up and say so."""
        self._observation = None
        if isinstance(error, Quarantined):
            self.lost = str(error)
            return
        if self.retries:
            self.retries -= 1
            return
        text = f"{type(error).__name__}: {error}"
        outcome = "judge_error" if isinstance(error, JudgeError) else "infra_error"
        self.result = EpisodeRun(self.spec, outcome, tuple(self._decisions), self._executed, None, text)


def _derive(seed: int, task_id: str, index: int, purpose: str) -> int:
    """A 63-bit seed of its own for each (seed, task, index, purpose); the same on every machine."""
    text = f"{seed}|{task_id}|{index}|{purpose}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
