"""Labels from rules over the screens: an activity, or a text among the elements, shows that the task is solved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from android_env.devices import Observation
from android_env.errors import TaskError
from android_env.evaluators import Moment
from android_env.evaluators.rules import ACTIVITY, TEXT, Rules
from android_env.tasks import Task
from digiq.config import configclass
from digiq.data.labels.base import Unlabelled
from digiq.data.rewards import Label
from digiq.data.schema import Episode
from digiq.errors import DigiQError

_NOTHING = np.zeros((1, 1, 3), np.uint8)


@configclass
class Rule:
    """Pays 1 for the action after which the screen fulfils the task's rule, where the episode then ends; else 0."""

    path: Path = Path("rules.json")
    """A JSON file of rules by task id, goal, or ``*`` for all others: ``success_activity``, a glob over
    ``package/activity``, and ``success_text``, a regular expression over the texts on the screen. If both are given,
    both must hold."""
    cut: bool = True
    """Whether to end an episode where it was first solved."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label | Unlabelled]:
        """See :class:`digiq.data.labels.base.Labels`."""
        rules = self._rules()
        for episode in episodes:
            rule = rules.get(episode.task_id) or rules.get(episode.goal) or rules.get("*")
            if rule is None:
                yield Unlabelled(
                    episode.episode_id, f"{self.path} has no rule for {episode.task_id or episode.goal!r}"
                )
                continue
            solved = self._solved(episode, rule)
            count = episode.num_actions
            length = count if solved is None or not self.cut else solved + 1
            paid = [0.0] * length
            if solved is not None:
                paid[solved] = 1.0
            yield Label(
                episode_id=episode.episode_id,
                source_id=episode.episode_id,
                goal=None,
                rewards=tuple(paid),
                provenance="rule",
                length=None if solved is None or not self.cut else length,
            )

    def _solved(self, episode: Episode, rule: Mapping[str, str]) -> int | None:
        """Index of the first action after which the rule holds."""
        judge = Rules()
        task = Task(episode.episode_id, episode.goal or "-", "rule", 1, "train", rule)
        for t, (step, after) in enumerate(zip(episode.steps, episode.steps[1:], strict=False)):
            assert step.action is not None
            seen = Observation(_NOTHING, episode.goal, after.activity, after.ui_elements)
            try:
                verdict = judge(Moment(task, step.action, seen, cast(Any, None)))
            except TaskError as error:
                raise DigiQError(f"{self.path}: {error}") from None
            if verdict is not None:
                return t if verdict == "success" else None
        return None

    def _rules(self) -> dict[str, dict[str, str]]:
        try:
            found: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DigiQError(f"{self.path}: cannot be read as JSON ({error}); set rule.path.") from None
        try:
            rules = {
                str(name): {str(key): str(value) for key, value in rule.items()}
                for name, rule in found.items()
            }
        except AttributeError:
            raise DigiQError(
                f"{self.path}: must be a JSON object with a rule per task id, goal or '*'."
            ) from None
        for name, rule in rules.items():
            if not rule or set(rule) - {ACTIVITY, TEXT}:
                raise DigiQError(
                    f"{self.path}: the rule for {name!r} must have {ACTIVITY}, {TEXT} or both, and nothing else."
                )
        return rules
