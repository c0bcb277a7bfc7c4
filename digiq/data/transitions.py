"""Transitions: the rows that a critic learns from, rebuilt in seconds from episodes and rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from digiq.data.schema import Episode, Outline

Timeout = Literal["terminal", "bootstrap"]


@dataclasses.dataclass(frozen=True)
class Transitions:
    """K transitions over S observations, one row per executed action, episode-major.

    All arrays have length K. Observations are numbered as in :func:`observation_index`. The logged action's features
    are in row ``candidate_row[obs, 0]`` of the features.
    """

    obs: npt.NDArray[np.int32]
    """Row of the observation in which the action was taken."""
    next_obs: npt.NDArray[np.int32]
    """Row of the following observation; -1 where ``terminated``."""
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    """No value follows: the episode ended here, or ran out of steps under ``timeout="terminal"``."""
    truncated: npt.NDArray[np.bool_]
    """The episode was cut off after this action."""
    episode: npt.NDArray[np.int32]
    """Index of the episode, in the order given."""
    step: npt.NDArray[np.int32]
    """Index of the action within the episode, from 0."""
    discount: npt.NDArray[np.float32]
    """Step discount in [0, 1], multiplied by the critic's gamma; 0 where terminated."""

    def __len__(self) -> int:
        return len(self.obs)


def outlines_of(episodes: Iterable[Episode]) -> Sequence[Outline]:
    """The outlines of episodes; those in a store are read without their screens."""
    known = getattr(episodes, "outlines", None)
    return [episode.outline for episode in episodes] if known is None else known


def observation_index(episodes: Iterable[Episode]) -> npt.NDArray[np.int32]:
    """Every non-terminal observation as (episode, step), int32 [S, 2], episode-major.

    The final observation of a truncated episode counts: candidates can be valued there, though no action was logged.
    """
    rows = [
        (e, t)
        for e, episode in enumerate(outlines_of(episodes))
        for t in range(episode.num_actions + (not episode.is_terminated))
    ]
    return np.array(rows, np.int32).reshape(-1, 2)


def build_transitions(episodes: Iterable[Episode], *, timeout: Timeout = "terminal") -> Transitions:
    """The transitions of the episodes.

    Args:
      episodes: with rewards in place, see :class:`digiq.data.rewards.LabelledEpisodes`.
      timeout: how to treat running out of steps: as an end without further value (upstream and the paper's recipes), or
        by bootstrapping from the last observation.
    """
    columns: list[tuple[int, int, float, bool, bool, int, int, float]] = []
    row = 0
    for e, episode in enumerate(outlines_of(episodes)):
        last = episode.num_actions - 1
        for t, (reward, step_discount) in enumerate(zip(episode.rewards, episode.discounts, strict=True)):
            ends = t == last and episode.is_terminated
            truncated = t == last and not episode.is_terminated
            terminated = ends or (truncated and timeout == "terminal")
            discount = 0.0 if terminated else step_discount
            columns.append(
                (row, -1 if terminated else row + 1, reward, terminated, truncated, e, t, discount)
            )
            row += 1
        # A truncated episode's final observation takes a row of its own.
        row += not episode.is_terminated
    obs, next_obs, reward, terminated, truncated, episode_row, step_row, discount = (
        zip(*columns, strict=True) if columns else ((),) * 8
    )
    return Transitions(
        obs=np.array(obs, np.int32),
        next_obs=np.array(next_obs, np.int32),
        reward=np.array(reward, np.float32),
        terminated=np.array(terminated, bool),
        truncated=np.array(truncated, bool),
        episode=np.array(episode_row, np.int32),
        step=np.array(step_row, np.int32),
        discount=np.array(discount, np.float32),
    )


def returns(transitions: Transitions, gamma: float) -> npt.NDArray[np.float32]:
    """Discounted Monte Carlo return from each transition onwards, float32 [K]; nothing is added after a truncation."""
    out = np.zeros(len(transitions), np.float64)
    for k in reversed(range(len(transitions))):
        follows = k + 1 < len(out) and transitions.episode[k + 1] == transitions.episode[k]
        after = gamma * transitions.discount[k] * out[k + 1] if follows else 0.0
        out[k] = transitions.reward[k] + after
    return out.astype(np.float32)
