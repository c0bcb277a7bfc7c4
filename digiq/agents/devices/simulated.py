"""The embedded phone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from android_env.actions import Action
from android_env.devices.simulated.state import NoiseConfig
from digiq.agents.devices.base import Script
from digiq.config import configclass

if TYPE_CHECKING:
    from android_env.devices.simulated.phone import SimulatedPhone


@configclass
class Simulated:
    """Settings of the embedded phone."""

    plays: ClassVar = ("webshop", "general")
    judge: ClassVar = "state"
    waits: ClassVar = False
    exact: ClassVar = True

    noise: NoiseConfig = NoiseConfig()
    """Its faults: the rate of each, and a scale for all of them; scale 0 switches them off."""
    success: Literal["on_reach", "on_declare"] = "on_reach"
    """What ends an episode with success: reaching the goal (AitW), or declaring it complete (AndroidWorld)."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """The collector of demonstrations, the oracle, a uniform random choice, and known failures."""
        from android_env.devices.simulated.collector import SCRIPTED

        return {name: functools.partial(_drawn, name) for name in SCRIPTED}

    def maker(self) -> Callable[[], SimulatedPhone]:
        return self.phone

    def phone(self, *, render: bool = True) -> SimulatedPhone:
        """A phone; without ``render``, its screenshots are black."""
        from android_env.devices.simulated.phone import SimulatedPhone

        return SimulatedPhone(noise=self.noise, success=self.success, render=render)


def _drawn(name: str, phone: SimulatedPhone, rng: np.random.Generator) -> tuple[Action, float]:
    from android_env.devices.simulated.collector import SCRIPTED, draw

    return draw(SCRIPTED[name](phone.display), rng)
