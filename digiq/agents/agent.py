"""An agent proposes actions with a policy and, given a scorer, takes the best of several at test time."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from android_env.actions import Action, ActionType, ParseError
from android_env.errors import DeviceFault
from digiq.policies.base import Candidate, Policy, PolicyInput

if TYPE_CHECKING:
    from digiq.critics.scorer import Scorer


@dataclasses.dataclass(frozen=True)
class Past:
    """An action that was executed, and the screen it answered."""

    screen: bytes
    """Digest of the screenshot (:func:`screen_digest`)."""
    action: Action
    screenshot: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    """The screen itself, uint8 [H, W, 3], of the last action alone: some critics see it."""


def screen_digest(screenshot: np.ndarray) -> bytes:
    """Equal for equal screenshots."""
    return hashlib.blake2b(np.ascontiguousarray(screenshot).tobytes(), digest_size=8).digest()


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one running episode asks an actor."""

    observation: PolicyInput
    rng: np.random.Generator
    """The episode's own generator, so that a choice never depends on which other episodes run beside it."""
    device: Any = None
    """The episode's device, which knows the truth; None for actors that do not declare to read it (:func:`turns_for`)."""
    step: int = 0
    """Actions executed so far."""
    max_steps: int = 0
    """Budget of actions of the episode."""
    actions: frozenset[ActionType] = frozenset(ActionType)
    """What the device can do; a policy's other candidates are left out where any remain."""
    elements: str | None = None
    """The screen's accessibility tree (``Observation.ui_elements``), for actors that declare ``reads_elements = True``."""
    past: tuple[Past, ...] = ()
    """What was done before in this episode, oldest first; kept for actors that say ``reads_past`` alone."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What an actor answers, with the candidates it weighed."""

    action: Action | ParseError | DeviceFault
    """A ParseError is the agent's own error: it ends the episode as a failure and is not re-run. A DeviceFault is what a
    script met while it looked at the device; the episode is treated as if an action had met it."""
    log_prob: float = math.nan
    """Log-probability of the action under the policy that drew it; NaN where unknown (a re-ranked action)."""
    candidates: tuple[Action, ...] = ()
    q: tuple[float, ...] = ()
    """The scorer's Q of each candidate; empty without a scorer."""
    v: float = math.nan


class Actor(Protocol):
    """Anything a roll-out can run. One that looks at the device itself says so with ``reads_device = True``, one that reads
    the screen's elements with ``reads_elements = True``; one that gains
    nothing from several turns at once, and may be called from several threads, with ``alone = True``."""

    @property
    def name(self) -> str:
        """Who acts, as episodes record it."""
        ...

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        """One decision a turn, in order; each depends on its own turn alone."""
        ...


def turns_for(actor: Actor, turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns as this actor may see them: without the device and the elements, unless it declares to read them."""
    hidden = {
        name: None
        for name, declared in (("device", "reads_device"), ("elements", "reads_elements"))
        if not getattr(actor, declared, False)
    }
    return [dataclasses.replace(turn, **hidden) for turn in turns] if hidden else turns


class TurnScorer(Protocol):
    """Scores the candidates of a whole batch of turns (one VLM batch, or one look at the simulator's state)."""

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        """For each turn Q of its candidates, float32[N], and V of its observation."""
        ...


@dataclasses.dataclass(frozen=True)
class EachTurn:
    """Lets a plain :class:`~digiq.critics.scorer.Scorer` score a batch, one turn at a time."""

    scorer: Scorer

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        pairs = zip(turns, candidates, strict=True)
        return [self.scorer.score(turn.observation, actions) for turn, actions in pairs]


@dataclasses.dataclass(frozen=True)
class Agent:
    """A policy, and optionally a scorer that re-ranks its candidates.

    Without a scorer the agent plays one sample of the policy. With one it draws ``num_candidates`` samples and plays
    the distinct candidate of highest Q; given a ``threshold`` it does so only where that Q exceeds V by more than
    the threshold, and plays its first sample elsewhere.
    """

    policy: Policy
    scorer: TurnScorer | None = None
    num_candidates: int = 8
    """Samples to draw a turn; used with a scorer only."""
    temperature: float = 1.0
    """Of the policy's sampling."""
    threshold: float | None = None
    """Least advantage Q - V at which the scorer overrules the policy, in units of return."""
    name: str = "policy"

    @property
    def reads_device(self) -> bool:
        """Only for its scorer; the policy is given observations."""
        return getattr(self.scorer, "reads_device", False)

    @property
    def reads_past(self) -> bool:
        """Likewise."""
        return getattr(self.scorer, "reads_past", False)

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        """One decision a turn; the policy sees all turns as one batch."""
        count = self.num_candidates if self.scorer else 1
        drawn = self.policy.sample(
            [turn.observation for turn in turns], count, [turn.rng for turn in turns], self.temperature
        )
        drawn = [_doable(row, turn.actions) for row, turn in zip(drawn, turns, strict=True)]
        if self.scorer is None:
            return [Decision(row[0].action, row[0].log_prob, (row[0].action,)) for row in drawn]
        distinct = [_distinct(row) for row in drawn]
        scores = self.scorer.score_turns(turns, [[c.action for c in row] for row in distinct])
        return [self._choose(row, q, v) for row, (q, v) in zip(distinct, scores, strict=True)]

    def _choose(self, row: list[Candidate], q: np.ndarray, v: float) -> Decision:
        best = int(np.argmax(q))
        overruled = self.threshold is None or q[best] - v > self.threshold
        chosen = best if overruled else 0
        # Best-of-N's own probability is not the policy's, so it is left unknown.
        log_prob = math.nan if overruled else row[chosen].log_prob
        actions = tuple(c.action for c in row)
        return Decision(actions[chosen], log_prob, actions, tuple(map(float, q)), float(v))


def _doable(row: Sequence[Candidate], actions: frozenset[ActionType]) -> Sequence[Candidate]:
    """The candidates that the device can do; all of them where it can do none."""
    return [c for c in row if c.action.type in actions] or row


def _distinct(row: Sequence[Candidate]) -> list[Candidate]:
    """The first sample of each action, in the order drawn."""
    first: dict[Action, Candidate] = {}
    for candidate in row:
        first.setdefault(candidate.action, candidate)
    return list(first.values())


@dataclasses.dataclass(frozen=True)
class ScriptedAgent:
    """An actor that reads the device's own state: the collector, the oracle, known-fail policies.

    ``choose(device, rng)`` returns the action and its log-probability.
    """

    choose: Callable[[Any, np.random.Generator], tuple[Action, float]]
    name: str
    reads_device: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        """One decision a turn."""
        return [self._decide(turn) for turn in turns]

    def _decide(self, turn: Turn) -> Decision:
        try:
            return Decision(*self.choose(turn.device, turn.rng))
        except DeviceFault as fault:
            return Decision(fault)
