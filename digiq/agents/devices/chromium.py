"""A browser behind Appium, for the ``miniwob`` tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from digiq.agents.devices.base import Script, unlikely
from digiq.config import configclass

if TYPE_CHECKING:
    from android_env.appium.device import AppiumDevice


@configclass
class Chromium:
    """A browser, which has no settings; its pages end the episodes themselves."""

    plays: ClassVar = ("miniwob",)
    judge: ClassVar = "page_reward"
    waits: ClassVar = True
    exact: ClassVar = False
    packages: ClassVar = ("appium", "miniwob")

    @property
    def scripts(self) -> Mapping[str, Script]:
        """An agent that knows every page, and one that acts at random."""
        from android_env.devices.miniwob.scripts import SCRIPTED

        return {name: functools.partial(unlikely, choose) for name, choose in SCRIPTED.items()}

    def maker(self) -> Callable[[], AppiumDevice]:
        from android_env.devices.miniwob.host import MiniWoBHost

        return MiniWoBHost().open
