"""Scripted players of recordings: the shortest path, random actions, and an explorer that prefers recorded actions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from android_env.actions import AITW_TYPES, Action
from android_env.devices.replay import Replay


def oracle(device: Replay, rng: np.random.Generator) -> Action:
    """The first action of a shortest path."""
    return device.best_action()


def by_chance(device: Replay, rng: np.random.Generator) -> Action:
    """Taps anywhere (7 in 10), goes back, or swipes."""
    draw = rng.random()
    if draw < 0.7:
        return Action.tap(*rng.random(2))
    return Action.back() if draw < 0.8 else Action.swipe(("up", "down")[rng.integers(2)])


def explore(device: Replay, rng: np.random.Generator) -> Action:
    """One of this screen's recorded actions (8 in 10), else a random one; gives the data of a user who explores.

    It uses only Android in the Wild's actions, so that every policy can learn from the data.
    """
    here = (edge for edge in device.graph.edges if edge.start == device.at)
    edges = list(dict.fromkeys(edge for edge in here if edge.action.type in AITW_TYPES))
    if edges and rng.random() < 0.8:
        return edges[rng.integers(len(edges))].action
    return by_chance(device, rng)


SCRIPTED: dict[str, Callable[[Replay, np.random.Generator], Action]] = {
    "oracle": oracle,
    "random": by_chance,
    "explore": explore,
}
"""The players by name; each chooses the next action."""
