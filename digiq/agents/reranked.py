"""A learned Q on top of any agent: ``digiq.Agent(proposer, critic)``, with guards that can each be switched off."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from android_env.actions import Action, ParseError
from digiq.agents.agent import Decision, EachTurn, Past, Turn
from digiq.agents.proposers import Proposer, Seen
from digiq.policies.base import Candidate

Check = Callable[[Seen, Action], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guards:
    """Guards against mistakes that can be recognised without a Q; a guard that is None or empty is off."""

    loops: int | None = 2
    """An action that was taken this many times on the same screen is not taken again while there is another candidate:
    it had no effect, or led in a circle."""
    deny_texts: tuple[str, ...] = ()
    """Regular expressions that no typed text may contain."""
    veto: Check | None = None
    """Returns true for an action that must not be taken."""
    finish_margin: float | None = 0.0
    """A declared end is taken only if its Q exceeds that of every other candidate by this margin; needs a critic."""
    finished: Callable[[Seen], bool] | None = None
    """Completion check: a declared success is taken only if this returns true."""
    first: int | None = None
    """Adaptive N: candidates are drawn in batches of this size until the leader is safe."""
    lead: float = 0.1
    """The leader is safe if its Q exceeds the runner-up's by this margin."""
    distance: float | None = 3.0
    """If the best candidate is further than this from the critic's training data, the agent's own choice stands; 1 is
    usual (:meth:`digiq.agents.learned.LearnedScorer.score_with_distance`). Off for critics that report no distance."""
    undoable: Check | None = None
    """Returns true for an action that cannot be undone, which then needs ``confirm``."""
    confirm: Check | None = None
    """Asked to approve an action that cannot be undone; without it, none is taken."""

    @classmethod
    def off(cls) -> Guards:
        """Guards that are all off."""
        return cls(loops=None, finish_margin=None, distance=None)


@dataclasses.dataclass
class _Weighed:
    """The candidates of one turn."""

    seen: Seen
    candidates: list[Candidate] = dataclasses.field(default_factory=list)
    q: list[float] = dataclasses.field(default_factory=list)
    far: list[float] = dataclasses.field(default_factory=list)
    v: float = math.nan
    wrong: ParseError | None = None
    drawn: int = 0


@dataclasses.dataclass
class Agent:
    """Any agent whose candidates a critic re-ranks.

    It plays the distinct candidate of highest Q that the guards allow. If the critic's best is outside its support, or
    its advantage does not exceed ``threshold``, the agent's own choice, its first candidate, stands. Without a critic
    only the guards decide. It is an :class:`~digiq.agents.agent.Actor`, so rollouts can run it; use :meth:`decide` in
    a loop of your own.

    ``counts`` says how often each guard acted, how many steps had a single candidate, which is played ``unscored``, and
    how many answers did not parse. :meth:`latency` says how long a step took.
    """

    proposer: Proposer
    critic: Any = None
    """A :class:`~digiq.agents.agent.TurnScorer`, a :class:`~digiq.critics.scorer.Scorer`, the folder of a run (with
    ``critic``, ``features`` and ``vlm``), or None."""
    num_candidates: int = 8
    guards: Guards = Guards()
    threshold: float | None = None
    """The critic overrules the agent only if Q - V exceeds this, in units of return; None: it always does."""
    name: str = "agent"
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    reads_past: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.critic, str | Path):
            from digiq.agents.learned import LearnedScorer
            from digiq.vlm import TINY_VLM_PATH

            run = Path(self.critic)
            vlm = run / "vlm" if (run / "vlm").is_dir() else TINY_VLM_PATH
            self.critic = LearnedScorer.open(critic=run / "critic", features=run / "features", vlm=vlm)
        if self.critic is not None and not hasattr(self.critic, "score_turns"):
            self.critic = EachTurn(self.critic)

    @property
    def reads_device(self) -> bool:
        """Whether its critic reads the device; the proposer sees only observations."""
        return getattr(self.critic, "reads_device", False)

    def decide(
        self,
        screenshot: np.ndarray,
        goal: str,
        past: Sequence[Past] = (),
        rng: np.random.Generator | None = None,
    ) -> Decision:
        """Decides what to do on one screen.

        Args:
          screenshot: uint8[H, W, 3].
          goal: goal of the task.
          past: earlier actions of this episode (``Past(screen_digest(screenshot), action)``), for guards and proposer;
            the last with its ``screenshot`` if the critic sees the previous screen.
          rng: generator of the episode.
        """
        rng = np.random.default_rng() if rng is None else rng
        seen = Seen(screenshot, goal, tuple(past), rng)
        return self.act([Turn(seen, rng, past=tuple(past))])[0]

    def act(self, turns: Sequence[Turn]) -> list[Decision]:
        """One decision per turn; proposer and critic see all turns together if they can."""
        weighed = [_Weighed(Seen(t.observation.screenshot, t.observation.goal, t.past, t.rng)) for t in turns]
        open_turns = list(range(len(turns)))
        first = self.guards.first if self.critic is not None else None
        while open_turns:
            count = min(first or self.num_candidates, self.num_candidates)
            missing = [self.num_candidates - weighed[i].drawn for i in open_turns]
            self._draw([weighed[i] for i in open_turns], min(count, min(missing)))
            self._score([turns[i] for i in open_turns], [weighed[i] for i in open_turns])
            open_turns = [i for i in open_turns if not self._is_settled(weighed[i])]
        with self._timed("guard"):
            decisions = [self._choose(one) for one in weighed]
        self.counts["steps"] += len(turns)
        return decisions

    def _draw(self, weighed: list[_Weighed], n: int) -> None:
        with self._timed("propose"):
            together = getattr(self.proposer, "propose_all", None)
            seen = [one.seen for one in weighed]
            rows = together(seen, n) if together else [self.proposer.propose(s, n) for s in seen]
        for one, row in zip(weighed, rows, strict=True):
            one.drawn += n
            self.counts["samples"] += n
            for proposal in row:
                if isinstance(proposal, ParseError):
                    self.counts["unparsable"] += 1
                    one.wrong = one.wrong or proposal
                    continue
                candidate = proposal if isinstance(proposal, Candidate) else Candidate(proposal, math.nan)
                if all(candidate.action != known.action for known in one.candidates):
                    one.candidates.append(candidate)

    def _score(self, turns: list[Turn], weighed: list[_Weighed]) -> None:
        """Scores the candidates without a Q, except where there is only one: it needs no scoring."""
        if self.critic is None:
            return
        open_pairs = [
            (t, one)
            for t, one in zip(turns, weighed, strict=True)
            if len(one.candidates) > max(len(one.q), 1)
        ]
        if not open_pairs:
            return
        asked = [[c.action for c in one.candidates[len(one.q) :]] for _, one in open_pairs]
        shown = [turn for turn, _ in open_pairs]
        with self._timed("score"):
            tell = getattr(self.critic, "score_with_distance", None)
            if tell and self.guards.distance is not None:
                scores = tell(shown, asked)
            else:
                scores = [(q, v, np.zeros(len(q))) for q, v in self.critic.score_turns(shown, asked)]
        for (_, one), (q, v, far) in zip(open_pairs, scores, strict=True):
            one.q += [float(x) for x in q]
            one.far += [float(x) for x in far]
            one.v = float(v)

    def _is_settled(self, one: _Weighed) -> bool:
        if one.drawn >= self.num_candidates:
            return True
        if self.guards.first is None:
            return True
        ranked = sorted(one.q, reverse=True)
        safe = len(ranked) > 1 and ranked[0] - ranked[1] > self.guards.lead
        self.counts["stopped_early"] += safe
        return safe

    def _choose(self, one: _Weighed) -> Decision:
        if not one.candidates:
            reason = one.wrong or ParseError("", "the proposer had no candidate")
            return Decision(reason)
        actions = [c.action for c in one.candidates]
        may = [k for k, action in enumerate(actions) if self._may(one.seen, action)]
        if not may:
            return self._decision(
                one, ParseError(str(actions[0]), "every candidate is vetoed or unconfirmed")
            )
        left = self._without_loops(one, may)
        left = self._without_early_ends(one, left)
        if self.critic is None or not one.q:
            self.counts["unscored"] += self.critic is not None
            return self._decision(one, left[0])
        best = max(left, key=lambda k: one.q[k])
        if self.guards.distance is not None and one.far[best] > self.guards.distance:
            self.counts["abstained"] += 1
            return self._decision(one, left[0])
        if self.threshold is not None and not one.q[best] - one.v > self.threshold:
            self.counts["below_threshold"] += 1
            best = left[0]
        self.counts["overruled"] += best != 0
        return self._decision(one, best)

    def _decision(self, one: _Weighed, chosen: int | ParseError) -> Decision:
        actions = tuple(c.action for c in one.candidates)
        if isinstance(chosen, ParseError):
            return Decision(chosen, math.nan, actions, tuple(one.q), one.v)
        # The proposer's probability is not that of best-of-N, which is left unknown.
        alone = one.candidates[chosen].log_prob if self.critic is None and chosen == 0 else math.nan
        return Decision(actions[chosen], alone, actions, tuple(one.q), one.v)

    def _may(self, seen: Seen, action: Action) -> bool:
        """Whether no guard forbids the action."""
        guards = self.guards
        denied = any(re.search(pattern, action.text, re.IGNORECASE) for pattern in guards.deny_texts)
        if denied or (guards.veto is not None and guards.veto(seen, action)):
            self.counts["vetoed"] += 1
            return False
        if guards.undoable is not None and guards.undoable(seen, action):
            agreed = guards.confirm is not None and guards.confirm(seen, action)
            self.counts["confirmed" if agreed else "unconfirmed"] += 1
            return agreed
        return True

    def _without_loops(self, one: _Weighed, may: list[int]) -> list[int]:
        if self.guards.loops is None:
            return may
        here = one.seen.screen
        taken = collections.Counter(past.action for past in one.seen.past if past.screen == here)
        left = [k for k in may if taken[one.candidates[k].action] < self.guards.loops]
        self.counts["loops_broken"] += bool(left) and len(left) < len(may)
        return left or may

    def _without_early_ends(self, one: _Weighed, may: list[int]) -> list[int]:
        """Drops declared ends that are not credible, while another candidate remains."""
        guards = self.guards
        ends = [k for k in may if one.candidates[k].action.ends_episode]
        others = [k for k in may if k not in ends]
        if not ends or not others:
            return may
        held = set[int]()
        if guards.finish_margin is not None and self.critic is not None:
            best = max(one.q[k] for k in others)
            held |= {k for k in ends if not one.q[k] - best > guards.finish_margin}
        if guards.finished is not None and any(one.candidates[k].action == Action.complete() for k in ends):
            done = guards.finished(one.seen)
            held |= {k for k in ends if one.candidates[k].action == Action.complete() and not done}
        self.counts["ends_held"] += len(held)
        return [k for k in may if k not in held]

    def _timed(self, part: str) -> Any:
        return _Timer(self.seconds, part)

    def latency(self) -> dict[str, float]:
        """Mean milliseconds per decision, by part: ``propose``, ``score``, ``guard``, and ``total``."""
        steps = max(self.counts["steps"], 1)
        told = {part: 1000 * self.seconds[part] / steps for part in ("propose", "score", "guard")}
        return told | {"total": sum(told.values())}

    def describe(self) -> dict[str, Any]:
        """A description of its parts, for records."""
        guards = {f.name: getattr(self.guards, f.name) for f in dataclasses.fields(self.guards)}
        shown = {k: getattr(v, "__qualname__", str(v)) if callable(v) else v for k, v in guards.items()}
        critic = None if self.critic is None else type(self.critic).__name__
        return {
            "proposer": self.proposer.describe(),
            "critic": critic,
            "num_candidates": self.num_candidates,
            "threshold": self.threshold,
            "guards": shown,
        }


class _Timer:
    """Adds the duration of its block to the seconds of a part."""

    def __init__(self, seconds: collections.Counter[str], part: str):
        self._seconds, self._part = seconds, part

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._seconds[self._part] += time.perf_counter() - self._start  # type: ignore[assignment]
