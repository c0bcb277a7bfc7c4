"""The ``offline`` stage: how often a policy does what was logged. It is matching, not success: no device is there.

Rules: Android in the Wild's action matching (``action_matching.py``; partial match is the share of an episode's actions,
complete match all of them) and AndroidControl's step accuracy (Li et al. 2024: the action's type and its arguments; a tap must
fall into the element that was tapped).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from android_env.actions import TAP_MATCH_DISTANCE, Action, ActionType, actions_match
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.schema import Episode, Step, decode_png, element_boxes
from digiq.data.store import EpisodeStore
from digiq.errors import DigiQError
from digiq.policies.base import HasSupport, Policy, PolicyInput, load_policy
from digiq.progress import progress
from digiq.statistics import cluster_bootstrap

STAGE, VERSION = "offline", 1
RESULT = "offline.json"
_BATCH = 64


@configclass
class OfflineConfig:
    """Which actions are held against which."""

    rule: Literal["aitw", "android_control"] = "aitw"
    """When two actions are the same: Android in the Wild's matching, or AndroidControl's."""
    level: Literal["high", "low"] = "high"
    """What the policy is told: the episode's goal, or each step's own instruction, where the recording has one."""
    split: str = "test"
    """Only episodes of this split."""
    seed: int = 0
    """Of the draw, from policies that cannot name their likeliest action."""


def run(
    config: OfflineConfig,
    *,
    episodes: Path,
    policy: Path,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Writes ``offline.json``: step accuracy and partial and complete match, with intervals over episodes, and accuracy by
    type of action.

    Raises:
      DigiQError: no episode is of the split, or with ``level: low`` none has instructions.
    """
    inputs = {"episodes": episodes, "policy": policy}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        chosen = [e for e in EpisodeStore(episodes) if e.split == config.split]
        if not chosen:
            raise DigiQError(f"{episodes}: no episode is of split '{config.split}'; set split.")
        asked = [(e, step, told) for e, step, told in _steps(chosen, config.level)]
        if not asked:
            raise DigiQError(
                f"{episodes}: no step has an instruction of its own; take level 'high', or import android_control."
            )
        same: list[bool] = []
        opened = load_policy(policy)
        with progress("offline", len(asked), unit="steps") as bar:
            for batch in _batches(asked):
                seen = [PolicyInput(decode_png(step.screenshot), told) for _, step, told in batch]
                for (_, step, _), action in zip(batch, predicted(opened, seen, config.seed), strict=True):
                    assert step.action is not None
                    same.append(matches(config.rule, action, step.action, step.ui_elements))
                bar.advance(len(batch))
        result = scores([e.episode_id for e, _, _ in asked], [s.action for _, s, _ in asked], same)
        artifacts.atomic_write_json(w.path / RESULT, result | {"rule": config.rule, "level": config.level})
        counts = {"episodes": len(chosen), "steps": len(asked), "matched": sum(same)}
        return w.complete(counts=counts)


def matches(rule: str, predicted: Action, logged: Action, ui_elements: str) -> bool:
    """Whether a prediction counts as what was logged.

    Args:
      rule: ``aitw`` or ``android_control``.
      predicted, logged: the actions.
      ui_elements: JSON of the screen's elements; see :func:`digiq.data.schema.element_boxes`.
    """
    boxes = [box for _, box in element_boxes(ui_elements)]
    if rule == "aitw":
        return actions_match(predicted, logged, boxes)
    if predicted.type is not logged.type or predicted.is_tap is not logged.is_tap:
        return False
    if logged.is_swipe:
        return predicted.swipe_direction == logged.swipe_direction
    if logged.type in (ActionType.DUAL_POINT, ActionType.LONG_PRESS):
        tapped = [box for box in boxes if _inside(logged.touch_yx, box)]
        if tapped:
            return _inside(predicted.touch_yx, min(tapped, key=lambda box: box[2] * box[3]))
        far = np.hypot(*np.subtract(predicted.touch_yx, logged.touch_yx))
        return bool(far <= TAP_MATCH_DISTANCE)
    return predicted.text.strip().lower() == logged.text.strip().lower()


def predicted(policy: Policy, seen: Sequence[PolicyInput], seed: int) -> list[Action]:
    """The likeliest action of each observation; a draw where a policy cannot tell which that is."""
    if isinstance(policy, HasSupport):
        return [row[0][0] for row in policy.support(seen, 1)]
    return [row[0].action for row in policy.sample(seen, 1, np.random.default_rng(seed))]


def scores(episodes: Sequence[str], logged: Sequence[Any], same: Sequence[bool]) -> dict[str, Any]:
    """Step accuracy, partial and complete match.

    Args:
      episodes: whose step each is.
      logged: the actions.
      same: whether each was matched.

    Returns:
      ``step_accuracy``, ``partial_match`` and ``complete_match`` as value, low and high (95 %, bootstrap over episodes), and
      ``by_type``: accuracy and number of steps by type of action.
    """
    by_episode: dict[str, list[bool]] = {}
    for name, matched in zip(episodes, same, strict=True):
        by_episode.setdefault(name, []).append(matched)
    names = list(by_episode)
    partial = [float(np.mean(by_episode[name])) for name in names]
    complete = [float(all(by_episode[name])) for name in names]
    by_type: dict[str, list[bool]] = {}
    for action, matched in zip(logged, same, strict=True):
        kind = "SWIPE" if action.is_swipe else "TAP" if action.is_tap else action.type.name
        by_type.setdefault(kind, []).append(matched)
    told = {
        "step_accuracy": cluster_bootstrap([float(s) for s in same], episodes),
        "partial_match": cluster_bootstrap(partial, names),
        "complete_match": cluster_bootstrap(complete, names),
    }
    shares = {
        kind: {"accuracy": float(np.mean(found)), "steps": len(found)} for kind, found in by_type.items()
    }
    return {name: estimate._asdict() for name, estimate in told.items()} | {"by_type": shares}


def _steps(episodes: Sequence[Episode], level: str) -> Iterator[tuple[Episode, Step, str]]:
    for episode in episodes:
        for step in episode.steps[:-1]:
            told = step.goal if level == "high" else json.loads(step.extras).get("step_instruction", "")
            if told:
                yield episode, step, told


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _inside(point: tuple[float, float], box: Sequence[float]) -> bool:
    top, left, height, width = box
    return top <= point[0] <= top + height and left <= point[1] <= left + width
