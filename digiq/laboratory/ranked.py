"""The best of N by a learned Q on the device: the worth of a critic where its policy goes.

The behaviour policy proposes from pixels, as on any device; the critic reads the device's own elements
(:class:`digiq.laboratory.controls.ElementFeatures`), so perception is no limit. The content of a screen, the policy's
actions on it and their features are computed once and kept for all critics.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.exact import ExactValues, optimal_q
from android_env.devices.simulated.phone import SimulatedPhone
from digiq.agents.rollout import EpisodeSpec
from digiq.critics.critic import Critic
from digiq.laboratory.arcade import Looks, play
from digiq.laboratory.elements import action_features, observation_features
from digiq.policies.base import HasSupport, PolicyInput

LIKELIEST = 64
"""Number of likeliest actions of a state that are sampled from."""


class Screen(NamedTuple):
    """A policy's K likeliest actions on a screen, and their features for a critic."""

    actions: tuple[Action, ...]
    probability: npt.NDArray[np.float64]
    """Probabilities of the actions, [K], which sum to 1."""
    pair: npt.NDArray[np.float32]
    """Features of the pairs, [K, Dp]."""
    observation: npt.NDArray[np.float32]
    """Features of the observation, [Do]."""
    screen: str
    """The kind of screen."""
    display: Display


Chooser = Callable[[Screen, np.random.Generator], int]
"""Chooses which of a screen's actions is taken."""


@dataclasses.dataclass
class Arcade:
    """Episodes that many critics play, all with the same random numbers."""

    specs: Sequence[EpisodeSpec]
    policy: HasSupport
    """The policy that proposes."""

    def __post_init__(self) -> None:
        self._looks = Looks(lambda display: look(display, self.policy))

    def play(self, choose: Chooser) -> tuple[list[bool], dict[str, int]]:
        """Plays the episodes: whether each succeeds, and how many actions were taken on each kind of screen."""

        def act(phone: SimulatedPhone, screen: Screen, rng: np.random.Generator) -> None:
            phone.execute(screen.actions[choose(screen, rng)])

        return play(self.specs, self._looks, act)


def look(display: Display, policy: HasSupport) -> Screen:
    """The policy's likeliest actions on a screen, with features."""
    seen = display.observe()
    ((*likely,),) = policy.support([PolicyInput(seen.screenshot, seen.goal)], LIKELIEST)
    shown = observation_features("elements", seen.goal, seen.activity, seen.ui_elements)
    elements = json.loads(seen.ui_elements)
    mass = np.array([p for _, p in likely], np.float64)
    return Screen(
        tuple(action for action, _ in likely),
        mass / mass.sum(),
        np.stack([action_features(seen.goal, action, shown, elements) for action, _ in likely]),
        shown,
        display.screen.template,
        display,
    )


@dataclasses.dataclass
class BestOfN:
    """Chooses the action of highest Q."""

    q: Callable[[Screen], npt.NDArray[Any]]
    """Gives the values of a screen's actions, [K]."""
    count: int = 8
    """Number N of samples, with replacement, as policies propose; 0 ranks all actions that are likely enough."""
    support: float = 0.1
    """With a count of 0, the least probability of an action, as a share of the likeliest action's."""
    _known: dict[int, tuple[Screen, npt.NDArray[Any]]] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, screen: Screen, rng: np.random.Generator) -> int:
        """The first of the actions of highest Q."""
        if (
            id(screen) not in self._known
        ):  # screens recur; an entry holds its screen, so that different screens keep different ids
            self._known[id(screen)] = (screen, self.q(screen))
        q = self._known[id(screen)][1]
        if self.count:
            drawn = rng.choice(len(q), self.count, p=screen.probability)
        else:
            drawn = np.flatnonzero(screen.probability >= self.support * screen.probability.max())
        return int(drawn[np.argmax(q[drawn])])


@dataclasses.dataclass
class Truth:
    """Q* of a screen's actions, with all steps of an episode remaining: no critic can know more."""

    discount: float
    _values: dict[tuple[str, int], ExactValues] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, screen: Screen) -> npt.NDArray[Any]:
        shown = screen.display
        key = (shown.task.task_id, shown.layout_seed)
        if key not in self._values:
            self._values[key] = optimal_q(shown.task, shown.layout_seed, discount=self.discount)
        return np.array([self._values[key].q(shown.state, action, 0) for action in screen.actions])


def q_of(critic: Critic) -> Callable[[Screen], npt.NDArray[Any]]:
    """Q of a screen's actions by a critic on elements, padded so that only one program is compiled."""

    def q(screen: Screen) -> npt.NDArray[Any]:
        padded = np.zeros((LIKELIEST, screen.pair.shape[1]), np.float32)
        padded[: len(screen.pair)] = screen.pair
        return critic.aggregate(critic.q(screen.observation[None], padded))[: len(screen.pair)]

    return q
