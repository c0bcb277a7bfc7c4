"""Builds episodes from the contents of other recordings: frames, actions between them, and an end."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from android_env.actions import Action, ActionType
from digiq.data.schema import Episode, Step, stored_image

MEND = "mend it, or set on_bad: skip to leave the episode out."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """The screen before an action, and the action."""

    image: bytes
    """A PNG, JPEG or WebP file's bytes; anything else that Pillow reads becomes PNG."""
    action: Action | None = None
    """None where the recording ends in a screen."""
    log_prob: float = math.nan
    reward: float = 0.0
    activity: str = ""
    ui_elements: Sequence[Mapping[str, Any]] = ()
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])


def episode_of(
    frames: Sequence[Frame],
    *,
    episode_id: str,
    goal: str,
    max_side: int,
    outcome: str = "",
    extras: Mapping[str, Any] | None = None,
    **about: Any,
) -> Episode:
    """The episode, as stored.

    A recording that ends in an action, not in a screen, is treated as in Android in the Wild. After an action that
    declares the end, or if ``outcome`` says how it ended, its last screen is repeated as the terminal one. Otherwise
    the last action's outcome was never seen, so the action is dropped and the episode counts as truncated.

    Args:
      frames: in order; only the last may have no action.
      episode_id, goal: those of the episode.
      max_side: longest side of the stored screenshots, in pixels.
      outcome: ``success``, ``failure`` or ``truncated``; empty: taken from the actions. A success pays 1 at the end
        unless a frame has a reward.
      extras: further fields, beside the steps' own.
      about: further fields of the episode.

    Raises:
      ValueError: it has no action whose outcome is known, an image cannot be read, or the actions do not form an
        episode.
    """
    frames = list(frames)
    if any(frame.action is None for frame in frames[:-1]):
        at = next(t for t, frame in enumerate(frames) if frame.action is None)
        raise ValueError(f"step {at} has no action, but is not the last")
    if not frames:
        raise ValueError("it has no steps")
    declared = frames[-1].action is not None and frames[-1].action.ends_episode
    if frames[-1].action is not None:
        last = frames[-1]
        end = dataclasses.replace(
            last, action=None, reward=0.0, log_prob=math.nan, extras={"screen": "repeated"}
        )
        frames = [*frames, end] if declared or outcome in ("success", "failure") else [*frames[:-1], end]
    elif len(frames) > 1 and frames[-2].action is not None:
        declared = frames[-2].action.ends_episode
    if len(frames) < 2:
        raise ValueError("it has no action whose outcome was seen")
    paid = any(frame.reward for frame in frames)
    if not outcome:
        ended = declared and frames[-2].action is not None
        success = ended and frames[-2].action == Action(ActionType.STATUS_TASK_COMPLETE)
        won = sum(frame.reward for frame in frames) > 0 if paid else success
        outcome = ("success" if won else "failure") if ended or paid else "truncated"
    terminal = outcome != "truncated"
    if outcome == "success" and not paid:
        frames[-2] = dataclasses.replace(frames[-2], reward=1.0)
    steps, size = [], (0, 0)
    for t, frame in enumerate(frames):
        try:
            image, hw = stored_image(frame.image, max_side)
        except ValueError as error:
            raise ValueError(f"step {t}: the screenshot is {error}") from None
        size = hw if t == 0 else size
        steps.append(
            Step(
                screenshot=image,
                goal=goal,
                activity=frame.activity,
                ui_elements=json.dumps(list(frame.ui_elements), ensure_ascii=False),
                action=frame.action,
                behavior_log_prob=frame.log_prob,
                reward=frame.reward if t < len(frames) - 1 else 0.0,
                discount=0.0 if t >= len(frames) - 2 and (terminal or t == len(frames) - 1) else 1.0,
                is_first=t == 0,
                is_last=t == len(frames) - 1,
                is_terminal=terminal and t == len(frames) - 1,
                extras=json.dumps(dict(frame.extras), ensure_ascii=False),
            )
        )
    return Episode(
        episode_id=episode_id,
        outcome=outcome,
        screen_hw=size,
        extras=json.dumps(dict(extras or {}), ensure_ascii=False),
        steps=tuple(steps),
        **about,
    )
