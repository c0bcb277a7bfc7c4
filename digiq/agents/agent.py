"""An agent that proposes actions with a policy and, given a scorer, takes the best of several at test time."""

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
    """An executed action, and the screen that it was chosen on."""

    screen: bytes
    """Digest of the screenshot (:func:`screen_digest`)."""
    action: Action
    screenshot: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    """The screen itself, uint8 [H, W, 3]; kept for the last action only, for critics that see it."""


def screen_digest(screenshot: np.ndarray) -> bytes:
    """A digest of the pixels, equal for equal screenshots."""
    return hashlib.blake2b(np.ascontiguousarray(screenshot).tobytes(), digest_size=8).digest()


@dataclasses.dataclass(frozen=True)
class Turn:
    """One running episode's request for an action."""

    observation: PolicyInput
    rng: np.random.Generator
    """The episode's own generator, so that a choice never depends on the other episodes that run at the same time."""
    device: Any = None
    """The episode's device, which knows the true state; None for actors that do not declare that they read it
    (:func:`turns_for`)."""
    step: int = 0
    """Actions executed so far."""
    max_steps: int = 0
    """The episode's budget of actions."""
    actions: frozenset[ActionType] = frozenset(ActionType)
    """Action types that the device can execute; a policy's other candidates are dropped, unless none would remain."""
    elements: str | None = None
    """The screen's accessibility tree (``Observation.ui_elements``), for actors that declare ``reads_elements = True``."""
    past: tuple[Past, ...] = ()
    """Earlier actions of this episode, oldest first; kept only for actors that declare ``reads_past = True``."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """An actor's answer, with the candidates that it considered."""

    action: Action | ParseError | DeviceFault
    """A ParseError is the agent's own error: it ends the episode as a failure, which is not re-run. A DeviceFault was
    met by a script while it read the device; the episode is treated as if an action had met it."""
    log_prob: float = math.nan
    """Log-probability of the action under the policy that drew it; NaN if unknown (a re-ranked action)."""
    candidates: tuple[Action, ...] = ()
    q: tuple[float, ...] = ()
    """The scorer's Q of each candidate; empty without a scorer."""
    v: float = math.nan


class Actor(Protocol):
    """Anything that a rollout can run.

    An actor that reads the device itself declares ``reads_device = True``; one that reads the screen's elements,
    ``reads_elements = True``. An actor that gains nothing from several turns at once, and may be called from several
    threads, declares ``alone = True``.
    """

    @property
    def name(self) -> str:
        """Who acts, as episodes record it."""
        ...

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        """One decision per turn, in order; each depends on its own turn only."""
        ...


def turns_for(actor: Actor, turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns as this actor may see them: without device and elements, unless it declares that it reads them."""
    hidden = {
        name: None
        for name, declared in (("device", "reads_device"), ("elements", "reads_elements"))
        if not getattr(actor, declared, False)
    }
    return [dataclasses.replace(turn, **hidden) for turn in turns] if hidden else turns


class TurnScorer(Protocol):
    """Scores the candidates of a batch of turns together (one VLM batch, or one read of the simulator's state)."""

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        """For each turn, Q of its candidates, float32[N], and V of its observation."""
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
    the distinct candidate of highest Q. Given a ``threshold``, it does so only if that Q exceeds V by more than the
    threshold, and otherwise plays its first sample.
    """

    policy: Policy
    scorer: TurnScorer | None = None
    num_candidates: int = 8
    """Samples per turn; used only with a scorer."""
    temperature: float = 1.0
    """Sampling temperature of the policy."""
    threshold: float | None = None
    """The scorer overrules the policy only if the advantage Q - V exceeds this, in units of return."""
    name: str = "policy"

    @property
    def reads_device(self) -> bool:
        """Whether its scorer reads the device; the policy sees only observations."""
        return getattr(self.scorer, "reads_device", False)

    @property
    def reads_past(self) -> bool:
        """Whether its scorer reads earlier actions."""
        return getattr(self.scorer, "reads_past", False)

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        """One decision per turn; the policy sees all turns as one batch."""
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
        # The policy's probability is not that of best-of-N, which is left unknown.
        log_prob = math.nan if overruled else row[chosen].log_prob
        actions = tuple(c.action for c in row)
        return Decision(actions[chosen], log_prob, actions, tuple(map(float, q)), float(v))


def _doable(row: Sequence[Candidate], actions: frozenset[ActionType]) -> Sequence[Candidate]:
    """The candidates that the device can execute; all of them if it can execute none."""
    return [c for c in row if c.action.type in actions] or row


def _distinct(row: Sequence[Candidate]) -> list[Candidate]:
    """The first sample of each distinct action, in the order drawn."""
    first: dict[Action, Candidate] = {}
    for candidate in row:
        first.setdefault(candidate.action, candidate)
    return list(first.values())


@dataclasses.dataclass(frozen=True)
class ScriptedAgent:
    """An actor that reads the device's own state: the collector, the oracle, or a policy that is known to fail.

    ``choose(device, rng)`` returns the action and its log-probability.
    """

    choose: Callable[[Any, np.random.Generator], tuple[Action, float]]
    name: str
    reads_device: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        """One decision per turn."""
        return [self._decide(turn) for turn in turns]

    def _decide(self, turn: Turn) -> Decision:
        try:
            return Decision(*self.choose(turn.device, turn.rng))
        except DeviceFault as fault:
            return Decision(fault)
