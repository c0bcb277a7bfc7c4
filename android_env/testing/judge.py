"""`JudgeDouble`: a judge that, on demand, fails to answer."""

from __future__ import annotations

import random
from collections.abc import Callable

from android_env.devices import Verdict
from android_env.evaluators import Moment
from android_env.faults import JudgeError


class JudgeDouble:
    """Judges as `judge` does, if it answers at all.

    Args:
        judge: the judge that gives the verdicts.
    """

    def __init__(self, judge: Callable[[Moment], Verdict | None]) -> None:
        self.judge = judge
        self.shown = 0
        """How often it has failed to answer."""
        self._left = 0
        self._rate, self._rng = 0.0, random.Random()

    def inject(self, times: int = 1) -> None:
        """Leaves the next `times` questions unanswered."""
        self._left = times

    def inject_at_rate(self, rate: float, *, seed: int) -> None:
        """Leaves each later question unanswered with this probability; 0 stops that."""
        self._rate, self._rng = rate, random.Random(seed)

    def __call__(self, moment: Moment) -> Verdict | None:
        fails = self._left > 0 or self._rng.random() < self._rate
        self._left = max(self._left - 1, 0)
        if fails:
            self.shown += 1
            raise JudgeError("the judge gave no answer")
        return self.judge(moment)
