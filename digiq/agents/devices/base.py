"""What a kind of device is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from android_env.actions import Action
from android_env.devices import Device

Script = Callable[[Any, np.random.Generator], tuple[Action, float]]
"""Chooses the next action on a device, which it may look into; the action comes with its log-probability, NaN where that
is unknown."""


class DeviceKind(Protocol):
    """A frozen config with the kind's settings, which makes such devices.

    One that can tell before the run that tasks cannot begin has ``refusal(tasks) -> str`` besides.
    """

    plays: ClassVar[tuple[str, ...]]
    """Families of its tasks; empty: every task that its judge can judge."""
    judge: ClassVar[str]
    """Who judges, unless the config names another (``android_env.evaluators.JUDGES``)."""
    waits: ClassVar[bool]
    """Whether an action takes real time; episodes that run side by side then move in threads of their own."""
    exact: ClassVar[bool]
    """Whether the simulator knows all that can happen on it, so that values are exact and episodes can be replayed."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """Agents that need no policy, by the name that ``agent.kind`` has for them."""
        ...

    def maker(self) -> Callable[[], Device]:
        """A function that makes one device a call. What is missing is missed here, before any episode.

        Raises:
          SetupError: something that the device needs is not there.
        """
        ...


def unlikely(
    choose: Callable[[Any, np.random.Generator], Action], device: Any, rng: np.random.Generator
) -> tuple[Action, float]:
    """The script of a player whose probabilities are unknown."""
    return choose(device, rng), math.nan
