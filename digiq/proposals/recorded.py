"""The candidates that the agent itself considered, as logged."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from android_env.actions import Action, parse_action
from digiq.config import configclass
from digiq.policies.base import Candidate, PolicyInput
from digiq.proposals.base import StepInput


@configclass
class Recorded:
    """The candidates of imported logs (``jsonl``, ``digirl``) with their logged log-probabilities."""

    reads_steps = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def open(self, paths: Mapping[str, Path]) -> "Recorded":
        """See :class:`digiq.proposals.base.Source`."""
        return self

    def propose(
        self,
        inputs: Sequence[PolicyInput],
        logged: Sequence[Action | None],
        n: int,
        rngs: Sequence[np.random.Generator],
    ) -> list[list[Candidate | None]]:
        """See :class:`digiq.proposals.base.Candidates`; takes the first ``n`` in the log's order."""
        rows: list[list[Candidate | None]] = []
        for seen, action in zip(inputs, logged, strict=True):
            offered = list(_offered(seen))
            known = next((c.log_prob for c in offered if c.action == action), math.nan)
            first = None if action is None else Candidate(action, known)
            rows.append([first, *[c for c in offered if c.action != action]][:n])
        return rows


def _offered(seen: PolicyInput) -> list[Candidate]:
    extras: dict[str, Any] = json.loads(seen.extras) if isinstance(seen, StepInput) else {}
    found: dict[Action, Candidate] = {}
    for offered in extras.get("candidates", ()):
        action, log_prob = parse_action(offered["action"]), offered["log_prob"]
        if isinstance(action, Action):
            found.setdefault(action, Candidate(action, math.nan if log_prob is None else float(log_prob)))
    return list(found.values())
