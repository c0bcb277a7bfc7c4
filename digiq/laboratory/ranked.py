"""The best of N by a learned Q on the device: what a critic is worth where its policy goes.

The behaviour policy proposes, from pixels, as it does on any device; the critic reads the device's own elements
(:class:`digiq.laboratory.controls.ElementFeatures`), so perception costs it nothing. What a screen shows, what the policy
would do there and how that looks to a critic is worked out once and kept for all critics.
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
"""Actions of a state that are drawn from."""


class Screen(NamedTuple):
    """What a policy would do on a screen, K actions, and how a critic sees it."""

    actions: tuple[Action, ...]
    probability: npt.NDArray[np.float64]
    """[K], sums to 1."""
    pair: npt.NDArray[np.float32]
    """[K, Dp]."""
    observation: npt.NDArray[np.float32]
    """[Do]."""
    screen: str
    """Its kind."""
    display: Display


Chooser = Callable[[Screen, np.random.Generator], int]
"""Which of a screen's actions is taken."""


@dataclasses.dataclass
class Arcade:
    """Episodes that many critics play, all under the same chances."""

    specs: Sequence[EpisodeSpec]
    policy: HasSupport
    """Proposes."""

    def __post_init__(self) -> None:
        self._looks = Looks(lambda display: look(display, self.policy))

    def play(self, choose: Chooser) -> tuple[list[bool], dict[str, int]]:
        """Whether each episode succeeds, and how many actions were taken on each kind of screen."""

        def act(phone: SimulatedPhone, screen: Screen, rng: np.random.Generator) -> None:
            phone.execute(screen.actions[choose(screen, rng)])

        return play(self.specs, self._looks, act)


def look(display: Display, policy: HasSupport) -> Screen:
    """What the policy would do on a screen."""
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
    """Chooses by Q."""

    q: Callable[[Screen], npt.NDArray[Any]]
    """Values of a screen's actions, [K]."""
    count: int = 8
    """N draws, with replacement, as policies propose; 0 ranks all that are likely enough."""
    support: float = 0.1
    """With a count of 0: share of the likeliest action's probability that an action must have."""
    _known: dict[int, tuple[Screen, npt.NDArray[Any]]] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, screen: Screen, rng: np.random.Generator) -> int:
        """The first of the best."""
        if (
            id(screen) not in self._known
        ):  # screens come again; an entry holds its screen, so that ids stay apart
            self._known[id(screen)] = (screen, self.q(screen))
        q = self._known[id(screen)][1]
        if self.count:
            drawn = rng.choice(len(q), self.count, p=screen.probability)
        else:
            drawn = np.flatnonzero(screen.probability >= self.support * screen.probability.max())
        return int(drawn[np.argmax(q[drawn])])


@dataclasses.dataclass
class Truth:
    """Q* of a screen's actions, with all of an episode's steps before one: what no critic can know better."""

    discount: float
    _values: dict[tuple[str, int], ExactValues] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, screen: Screen) -> npt.NDArray[Any]:
        shown = screen.display
        key = (shown.task.task_id, shown.layout_seed)
        if key not in self._values:
            self._values[key] = optimal_q(shown.task, shown.layout_seed, discount=self.discount)
        return np.array([self._values[key].q(shown.state, action, 0) for action in screen.actions])


def q_of(critic: Critic) -> Callable[[Screen], npt.NDArray[Any]]:
    """Q of a screen's actions by a critic on elements, padded so that one program is compiled."""

    def q(screen: Screen) -> npt.NDArray[Any]:
        padded = np.zeros((LIKELIEST, screen.pair.shape[1]), np.float32)
        padded[: len(screen.pair)] = screen.pair
        return critic.aggregate(critic.q(screen.observation[None], padded))[: len(screen.pair)]

    return q
