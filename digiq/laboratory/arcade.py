"""Episodes on the simulated phone that many contestants play with the same random numbers, in seconds."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from android_env.devices.simulated.display import Display
from android_env.devices.simulated.phone import SimulatedPhone
from digiq.agents.rollout import EpisodeSpec


class Looked(Protocol):
    """What is computed from a screen."""

    @property
    def screen(self) -> str:
        """The kind of screen."""
        ...


S = TypeVar("S", bound=Looked)


@dataclasses.dataclass
class Looks(Generic[S]):
    """How contestants see screens, computed once for all of them."""

    look: Callable[[Display], S]
    _seen: dict[Any, S] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, phone: SimulatedPhone) -> S:
        key = (phone.task.task_id, phone.layout_seed, phone.state)
        if key not in self._seen:
            self._seen[key] = self.look(phone.display)
        return self._seen[key]


def play(
    specs: Sequence[EpisodeSpec],
    looks: Looks[S],
    act: Callable[[SimulatedPhone, S, np.random.Generator], None],
) -> tuple[list[bool], dict[str, int]]:
    """Plays episodes: whether each succeeds, and how many actions are taken on each kind of screen.

    Args:
      specs: the episodes; each has its own random numbers.
      looks: how contestants see the screens.
      act: takes one action.
    """
    won, visits = [], collections.Counter[str]()
    for spec in specs:
        phone = SimulatedPhone(render=False)
        phone.reset(spec.task, seed=spec.seed)
        rng = np.random.default_rng([spec.seed, spec.index])
        verdict = None
        for _ in range(spec.task.max_steps):
            shown = looks(phone)
            visits[shown.screen] += 1
            act(phone, shown, rng)
            verdict = phone.verdict()
            if verdict is not None:
                break
        won.append(verdict == "success")
    return won, dict(sorted(visits.items()))
