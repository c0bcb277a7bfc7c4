"""Runs many episodes at once: a queue of episodes, devices that never wait for one another, one agent for all.

An episode's result depends only on its task, its seed and the agent: the device's noise and the agent's sampling come
from generators seeded by (seed, task, index), so neither the batch size nor a kill and resume changes it.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import logging
import math
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from android_env.actions import Action, ParseError
from android_env.devices import StepReport, actions_of
from android_env.errors import DeviceFault, TaskError
from android_env.faults import JudgeError, Quarantined, kind_of
from android_env.recording import Recorder
from android_env.tasks import Task
from digiq.agents.agent import Actor, Decision, Past, Turn, screen_digest, turns_for
from digiq.data.schema import Episode, Step, encode_png
from digiq.policies.base import PolicyInput

logger = logging.getLogger("digiq.agents")


@dataclasses.dataclass(frozen=True)
class EpisodeSpec:
    """An episode to run: a task, the index of the repetition, and the seed of its device."""

    task: Task
    index: int
    seed: int

    @property
    def episode_id(self) -> str:
        return f"{self.task.task_id}#{self.index}"


@dataclasses.dataclass(frozen=True)
class EpisodeRun:
    """The result of one :class:`EpisodeSpec`."""

    spec: EpisodeSpec
    outcome: str
    """``success``, ``failure``, ``truncated``, ``infra_error``, ``judge_error`` or ``task_error``."""
    decisions: tuple[Decision, ...]
    """Decisions of the executed actions, and of the unparsable answer if one ended the episode."""
    steps: int
    """Number of executed actions."""
    episode: Episode | None
    """The recording, if one was requested and the device did not fail."""
    error: str = ""
    reports: tuple[StepReport | None, ...] = ()
    """How each executed action went; None on devices that do not report it."""
    fault: str = ""
    """Kind of the fault that ended it; empty if none did."""
    faults: tuple[str, ...] = ()
    """The faults that ended the earlier tries, and that of the last try if a fault ended it."""
    tries: int = 1
    """How often it was started."""


def plan_episodes(tasks: Iterable[Task], episodes: int, seed: int) -> list[EpisodeSpec]:
    """Spreads ``episodes`` evenly over the splits of the tasks, and within each split over its tasks.

    Tasks come in an order drawn from ``seed``; a task is repeated, with the next index, only after all others of its
    split. The plan is a prefix of every longer plan with the same seed.

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


def plan_repeats(tasks: Iterable[Task], repeats: int, seed: int) -> list[EpisodeSpec]:
    """Every task ``repeats`` times, with the seeds that :func:`plan_episodes` gives the same task and index."""
    listed = list(tasks)
    return [
        EpisodeSpec(task, index, _derive(seed, task.task_id, index, "device"))
        for index in range(repeats)
        for task in listed
    ]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on the cost of one episode."""

    infra_retries: int = 2
    """How often an episode whose device or judge failed is run again, with the same seed."""
    devices: int = 2
    """Number of devices that may refuse a task before the task is blamed; also the number of devices, working until
    then, that may be given up on one episode."""
    seconds: float = 3600.0
    """An episode that ends in a fault is not run again once its tries have taken this long in total."""


def rollout(
    agent: Actor,
    specs: Sequence[EpisodeSpec],
    make_env: Callable[[], Any],
    *,
    batch_size: int = 32,
    record: Callable[[EpisodeSpec], bool] = lambda spec: True,
    infra_retries: int = 2,
    limits: Limits | None = None,
    threads: bool = False,
    max_wait_s: float = 0.02,
    retry_lost_s: float = 300.0,
    patience_s: float = 0.0,
    recordings: Path | None = None,
) -> Iterator[EpisodeRun]:
    """Runs the episodes, up to ``batch_size`` at a time, and yields their results in the order of ``specs``.

    A queue of episodes feeds the devices. With ``threads`` no device waits for another: each runs in a thread of its
    own, and the agent is asked about the observations that are ready. Each episode has its own random streams, so
    neither the order in which devices answer nor the batch changes an action.

    Args:
      agent: decides for running episodes. One with ``alone = True`` (scripts) is asked by each episode's own thread.
      specs: the episodes to run.
      make_env: makes an :class:`android_env.env.AndroidEnv`; called at most ``batch_size`` times, and again later if it
        raised ``Quarantined``, which says that no further device is available. With ``threads``, several threads may
        call it at once.
      batch_size: episodes that run at the same time, and the most observations that the agent is asked about at once.
      record: says which episodes are recorded (screenshots kept as PNG).
      infra_retries: see :class:`Limits`; the outcome is then ``infra_error`` or ``judge_error``.
      limits: all limits on the cost of one episode; None: the defaults, with ``infra_retries``.
      threads: for devices whose actions take real time; the results are the same.
      max_wait_s: how long observations wait for more before the agent is asked, seconds; with ``threads``.
      retry_lost_s: when a device that was given up (``Quarantined``) is tried again, seconds; with ``threads``.
      recordings: folder in which every try is recorded as it happens (:mod:`android_env.recording`); None: none is.
      patience_s: how long to wait for a device that was given up if no other is left, seconds, before the remaining
        episodes end as ``infra_error``; with ``threads``.

    After a fault, an episode is run again, on another device if one is free, until its limits are used up. A task that
    a device refuses (``TaskError``, or a fault whose ``blame`` is the task) is tried on a second device and then ends
    as ``task_error``. A device that refuses three tasks that others play is given up. A device that is given up costs
    its episode no retry. If every try of an episode ended in the same fault, after the same action at the same step,
    and on at least two devices if there are two, the episode is a ``failure``: the agent's action causes the fault, and
    leaving such episodes out would flatter the agent.

    Raises:
      Exception: any exception of the agent, as a bug in an agent is not the failure of an episode. An answer that
        cannot be parsed is a value (:class:`~android_env.actions.ParseError`) and ends only its own episode, as a
        failure. A device fault that a script meets counts as a fault of its episode.
    """
    scheduler = _Scheduler(
        agent,
        specs,
        make_env,
        record,
        limits or Limits(infra_retries=infra_retries),
        batch_size,
        threads,
        max_wait_s,
        retry_lost_s if threads else math.inf,
        patience_s if threads else 0.0,
        recordings,
    )
    try:
        yield from scheduler.results()
    finally:
        scheduler.close()


_REFUSALS = 3
"""Number of tasks, played by another device, that a device may refuse before it is given up."""


@dataclasses.dataclass(eq=False)
class _Place:
    """The place of one device, which may not be made yet."""

    env: Any = None
    lost: str = ""
    """Why the device was given up; empty while it works."""
    back_at: float = math.inf
    """Time at which it is tried again."""
    wrongs: int = 0
    """Tasks that it refused and another device played."""
    refusals: int = 0
    """Tasks that it has refused since it last played one, and that no other device has decided yet."""
    proved: bool = False
    """Whether an episode has ended normally on it."""
    busy: bool = False


@dataclasses.dataclass(eq=False)
class _Waiting:
    """An episode to run, with its cost so far."""

    position: int
    spec: EpisodeSpec
    retries: int
    refused: list[_Place] = dataclasses.field(default_factory=list)
    tried: list[_Place] = dataclasses.field(default_factory=list)
    lost: int = 0
    seconds: float = 0.0
    faults: list[str] = dataclasses.field(default_factory=list)
    marks: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    """For each try that a fault has ended: the kind of the fault, and the action and step that it followed."""


class _Scheduler:
    """Manages the queue and the places, and decides when the agent is asked."""

    def __init__(
        self,
        agent: Actor,
        specs: Sequence[EpisodeSpec],
        make_env: Callable[[], Any],
        record: Callable[[EpisodeSpec], bool],
        limits: Limits,
        batch_size: int,
        threads: bool,
        max_wait_s: float,
        retry_lost_s: float,
        patience_s: float,
        recordings: Path | None,
    ) -> None:
        self.agent, self.make_env, self.record, self.limits = agent, make_env, record, limits
        self.recordings = recordings
        self.count, self.batch_size = len(specs), batch_size
        self.max_wait_s, self.retry_lost_s, self.patience_s = max_wait_s, retry_lost_s, patience_s
        self.alone = threads and getattr(agent, "alone", False)
        self.waiting = collections.deque(
            _Waiting(position, spec, limits.infra_retries) for position, spec in enumerate(specs)
        )
        self.places = [_Place() for _ in range(min(batch_size, max(self.count, 1)))]
        self.finished: dict[int, EpisodeRun] = {}
        self.moved: queue.SimpleQueue[_Running] = queue.SimpleQueue()
        self.moving = 0
        self.ready: list[_Running] = []
        self.ready_since = 0.0
        self.reason = "there was none"
        self.alone_since: float | None = None
        self.closed = False
        self.pool = ThreadPoolExecutor(batch_size) if threads else None

    def results(self) -> Iterator[EpisodeRun]:
        position = 0
        while position < self.count:
            self._assign()
            self._collect()
            self._ask()
            while position in self.finished:
                yield self.finished.pop(position)
                position += 1

    def close(self) -> None:
        self.closed = True
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        for place in self.places:
            if place.env is not None:
                place.env.close()

    def _assign(self) -> None:
        """Assigns waiting episodes to free places, and ends those that no place is left for."""
        now = time.monotonic()
        # Existing devices are used before another is made.
        free = sorted((p for p in self.places if not p.busy), key=lambda place: place.env is None)
        for place in free:
            if place.lost and now < place.back_at:
                continue
            if place.refusals >= _REFUSALS and any(
                p.env is not None and not p.lost and p.refusals < _REFUSALS for p in self.places
            ):
                continue  # other devices first decide whether the device or the tasks are at fault
            if (episode := self._next_for(place)) is not None:
                place.busy, place.back_at = True, math.inf
                running = _Running(
                    place,
                    episode,
                    self.record(episode.spec),
                    self.recordings,
                    getattr(self.agent, "reads_past", False),
                )
                self._move(running, None)
        if any(p.busy for p in self.places) or not self.waiting:
            self.alone_since = None
            return
        if all(place.lost for place in self.places):
            # If there never was a device, none can come back.
            patience_s = self.patience_s if any(p.env is not None for p in self.places) else 0.0
            if self.alone_since is None:
                self.alone_since = now
                if patience_s:
                    logger.warning(
                        "no device is left (%s); waiting up to %g s for one to come back, %d episodes to go",
                        self.reason,
                        patience_s,
                        len(self.waiting),
                    )
            if now - self.alone_since >= patience_s:
                for episode in self.waiting:
                    self._end(episode, "infra_error", f"no device is left: {self.reason}")
                self.waiting.clear()

    def _next_for(self, place: _Place) -> _Waiting | None:
        """The next episode for this place; one that it refused, or that failed on it, is left to others if any."""
        others = [p for p in self.places if p is not place and (not p.lost or p.busy)]
        idle = any(not p.busy for p in others)
        for episode in self.waiting:
            refused = place in episode.refused and any(p not in episode.refused for p in others)
            last = not episode.retries and others and not any(p is not place for p in episode.tried)
            if not refused and not (place in episode.tried and (idle or last)):
                self.waiting.remove(episode)
                return episode
        return None

    def _move(self, running: _Running, decision: Decision | None) -> None:
        self.moving += 1
        if self.pool is None:
            self._work(running, decision)
        else:
            self.pool.submit(self._work, running, decision)

    def _work(self, running: _Running, decision: Decision | None) -> None:
        """Runs in the episode's own thread: one move, or all moves for an actor that decides alone."""
        start = time.monotonic()
        try:
            if running.place.env is None:
                running.place.env = self.make_env()
            running.move(decision, self.agent.name)
            while self.alone and running.goes_on and not self.closed:
                (decision,) = self.agent.act(turns_for(self.agent, [running.turn()]))
                running.move(decision, self.agent.name)
        except Quarantined as error:  # no further device
            running.fault = error
        except BaseException as error:
            running.bug = error
        running.episode.seconds += time.monotonic() - start
        self.moved.put(running)

    def _collect(self) -> None:
        """Takes in finished moves; waits for one, unless observations have been ready long enough."""
        block = self.pool is not None
        while True:
            wait = self._patience() if block else None
            if wait is not None and wait <= 0:
                return
            try:
                running = self.moved.get(timeout=wait) if block else self.moved.get_nowait()
            except queue.Empty:
                return
            block = False  # from then on, only moves that are already finished
            self.moving -= 1
            if running.bug is not None:
                raise running.bug
            if running.goes_on:
                if not self.ready:
                    self.ready_since = time.monotonic()
                self.ready.append(running)
            else:
                self._release(running)

    def _patience(self) -> float:
        """How long to wait for the next move, seconds."""
        now = time.monotonic()
        if self.ready:
            full = len(self.ready) >= self.batch_size or not self.moving
            return 0.0 if full else self.ready_since + self.max_wait_s - now
        back = min((p.back_at for p in self.places if p.lost and not p.busy), default=math.inf)
        if not self.moving and math.isinf(back):
            return 0.0
        return max(0.001, min(back - now, 1.0))

    def _ask(self) -> None:
        if not self.ready or (self.pool is not None and self._patience() > 0):
            return
        asked, self.ready = self.ready[: self.batch_size], self.ready[self.batch_size :]
        asked.sort(key=lambda running: running.episode.position)
        decisions = self.agent.act(turns_for(self.agent, [running.turn() for running in asked]))
        for running, decision in zip(asked, decisions, strict=True):
            self._move(running, decision)

    def _release(self, running: _Running) -> None:
        """Frees the place of an episode that has ended, in whatever way, and accounts for a fault."""
        place, episode = running.place, running.episode
        place.busy = False
        if running.result is not None:
            place.lost, place.proved, place.refusals = "", True, 0
            self.finished[episode.position] = dataclasses.replace(
                running.result, faults=tuple(episode.faults), tries=len(episode.faults) + 1
            )
            for other in episode.refused:  # the task that they refused can be played
                other.wrongs += 1
                if other.wrongs >= _REFUSALS:
                    self._lose(other, f"it refused {_REFUSALS} tasks that other devices play")
            return
        error = running.fault
        assert error is not None
        if isinstance(error, Quarantined):
            self._lose(place, str(error))
            episode.lost += place.proved  # a device that never worked tells nothing about the episode
            place.proved = False
            if episode.lost >= self.limits.devices:
                self._end(
                    episode, "infra_error", f"{episode.lost} devices were given up on it: {error}", error
                )
            else:
                self.waiting.appendleft(episode)
            return
        place.lost = ""
        episode.faults.append(f"{type(error).__name__}: {error}")
        if isinstance(error, TaskError) or getattr(error, "blame", "device") == "task":
            episode.refused.append(place)
            place.refusals += 1
            certain = isinstance(error, TaskError) or len(episode.refused) >= self.limits.devices
            if certain:
                for refuser in set(episode.refused):
                    refuser.refusals -= 1
                self._end(episode, "task_error", episode.faults[-1], error)
            else:
                self.waiting.appendleft(episode)
            return
        episode.tried.append(place)
        episode.marks.append(running.mark())
        if episode.retries and episode.seconds < self.limits.seconds:
            episode.retries -= 1
            self.waiting.appendleft(episode)
            return
        if isinstance(error, JudgeError):
            self._end(episode, "judge_error", episode.faults[-1], error, running)
        elif self._by_the_agent(episode):
            text = f"on every try its action at step {running.executed + 1} ended in {episode.faults[-1]}"
            self._end(episode, "failure", text, error, running)
        else:
            self._end(episode, "infra_error", episode.faults[-1], error, running)

    def _by_the_agent(self, episode: _Waiting) -> bool:
        kind, action, _ = mark = episode.marks[0]
        devices = min(2, sum(1 for place in self.places if place.env is not None))
        same = len(episode.marks) > 1 and all(other == mark for other in episode.marks)
        return same and action is not None and kind != "fault" and len(set(map(id, episode.tried))) >= devices

    def _lose(self, place: _Place, reason: str) -> None:
        place.lost = self.reason = reason
        place.back_at = time.monotonic() + self.retry_lost_s
        place.wrongs = 0

    def _end(
        self,
        episode: _Waiting,
        outcome: str,
        text: str,
        error: Exception | None = None,
        running: _Running | None = None,
    ) -> None:
        decisions = () if running is None else tuple(running.decisions)
        steps = 0 if running is None else running.executed
        self.finished[episode.position] = EpisodeRun(
            episode.spec,
            outcome,
            decisions,
            steps,
            None,
            text,
            fault="" if error is None else kind_of(error),
            faults=tuple(episode.faults),
            tries=max(1, len(episode.faults)),
        )


class _Running:
    """One try of an episode on one device."""

    def __init__(
        self,
        place: _Place,
        episode: _Waiting,
        recorded: bool,
        recordings: Path | None,
        remembers: bool = False,
    ):
        self._remembers = remembers
        self._past: tuple[Past, ...] = ()
        self.place, self.episode, self.spec = place, episode, episode.spec
        self.result: EpisodeRun | None = None
        self.fault: DeviceFault | TaskError | None = None
        self.bug: BaseException | None = None
        self._recorded, self._recordings = recorded, recordings
        self._recorder: Recorder | None = None
        self._observation: dict[str, Any] | None = None
        self._rng = np.random.default_rng(
            _derive(self.spec.seed, self.spec.task.task_id, self.spec.index, "agent")
        )
        self.decisions: list[Decision] = []
        self._steps: list[Step] = []
        self._reports: list[StepReport | None] = []
        self.executed = 0

    @property
    def env(self) -> Any:
        return self.place.env

    @property
    def goes_on(self) -> bool:
        return self.result is None and self.fault is None

    def move(self, decision: Decision | None, policy_name: str) -> None:
        """Begins the episode, or executes a decision."""
        try:
            if decision is None:
                self._observation, _ = self.env.reset(seed=self.spec.seed, options={"task": self.spec.task})
                self._begin_recording(policy_name)
            elif isinstance(decision.action, DeviceFault):  # a script met it while reading the device
                raise decision.action
            else:
                self._advance(decision, policy_name)
        except (DeviceFault, TaskError) as error:
            self.fault = error

    def mark(self) -> tuple[Any, ...]:
        """The action and step that the fault followed."""
        acted = self.decisions[-1].action if self.decisions else None
        return (kind_of(self.fault) if self.fault else "", acted, self.executed)

    def turn(self) -> Turn:
        assert self._observation is not None
        policy_input = PolicyInput(self._observation["screenshot"], self._observation["goal"])
        device = self.env.unwrapped.device
        return Turn(
            policy_input,
            self._rng,
            device,
            self.executed,
            self.spec.task.max_steps,
            actions_of(device),
            self._observation["ui_elements"],
            self._past,
        )

    def _begin_recording(self, policy_name: str) -> None:
        if self._recordings is not None and self._observation is not None:
            device = self.env.unwrapped.device
            self._recorder = Recorder(
                self._recordings,
                episode_id=self.spec.episode_id,
                task=dataclasses.replace(self.spec.task, goal=self._observation["goal"]),
                seed=self.spec.seed,
                device=device.name,
                policy=policy_name,
                screen_hw=tuple(device.screen_hw),
            )
            self._recorder.seen(self._observation)

    def _advance(self, decision: Decision, policy_name: str) -> None:
        self.decisions.append(decision)
        assert not isinstance(decision.action, DeviceFault)
        if isinstance(decision.action, ParseError):
            # It answered the last observation, and no action follows.
            if self._recorder is not None:
                self._recorder.acted(None, executed=False, verdict="failure", error=decision.action.reason)
            self._finish("failure", policy_name, terminal=True, error=decision.action.reason)
            return
        observation, reward, terminated, truncated, info = self.env.step(decision.action)
        if info.get("refused"):
            # As with an answer that cannot be parsed, the error is the agent's, and nothing was executed.
            if self._recorder is not None:
                self._recorder.acted(
                    decision.action, executed=False, verdict="failure", error=info["refused"]
                )
            self._finish("failure", policy_name, terminal=True, error=info["refused"])
            return
        self.executed += 1
        self._reports.append(info.get("report"))
        self._keep(decision, float(reward), 0.0 if terminated else 1.0)
        if self._remembers:
            assert self._observation is not None
            screenshot = self._observation["screenshot"]
            done = Past(screen_digest(screenshot), decision.action, screenshot)
            # The others have lost theirs already.
            before = (dataclasses.replace(one, screenshot=None) for one in self._past[-1:])
            self._past = (*self._past[:-1], *before, done)
        self._observation = observation
        if self._recorder is not None:
            self._recorder.acted(
                decision.action,
                executed=True,
                reward=float(reward),
                verdict=str(info["outcome"]) if terminated else "",
                log_prob=decision.log_prob,
                report=info.get("report"),
            )
            self._recorder.seen(observation)
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
        if self._recorder is not None:
            self._recorder.end(outcome, error)
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
            self.spec, outcome, tuple(self.decisions), self.executed, episode, error, tuple(self._reports)
        )


def _derive(seed: int, task_id: str, index: int, purpose: str) -> int:
    """A distinct 63-bit seed for each (seed, task, index, purpose), the same on every machine."""
    text = f"{seed}|{task_id}|{index}|{purpose}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
