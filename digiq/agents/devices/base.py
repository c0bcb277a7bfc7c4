"""The interface of a kind of device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from android_env.actions import Action
from android_env.devices import Device

Script = Callable[[Any, np.random.Generator], tuple[Action, float]]
"""Chooses the next action on a device, whose state it may read, and returns it with its log-probability, NaN if that is
unknown."""


class DeviceKind(Protocol):
    """A frozen config with the kind's settings, which makes its devices.

    A kind that can tell before the run that tasks cannot begin also has ``refusal(tasks) -> str``.
    """

    plays: ClassVar[tuple[str, ...]]
    """Families of the tasks that it plays; empty: every task that its judge can judge."""
    judge: ClassVar[str]
    """The judge, unless the config names another (``android_env.evaluators.JUDGES``)."""
    waits: ClassVar[bool]
    """Whether an action takes real time; if so, each episode runs in a thread of its own."""
    exact: ClassVar[bool]
    """Whether the simulator knows everything that can happen, so that values are exact and episodes can be replayed."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """Agents that need no policy, by their name in ``agent.kind``."""
        ...

    def maker(self) -> Callable[[], Device]:
        """A function that makes one device per call. Missing requirements are reported here, before any episode.

        Raises:
          SetupError: something that the device needs is missing.
        """
        ...


def unlikely(
    choose: Callable[[Any, np.random.Generator], Action], device: Any, rng: np.random.Generator
) -> tuple[Action, float]:
    """Turns a player whose probabilities are unknown into a script's result."""
    return choose(device, rng), math.nan
