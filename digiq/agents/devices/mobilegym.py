"""MobileGym: a phone in a browser, from the user's own checkout."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from android_env.errors import SetupError
from digiq.agents.devices.base import Script, unlikely
from digiq.config import configclass

if TYPE_CHECKING:
    from android_env.appium.device import AppiumDevice


LAYOUT = (800, 360)
"""Height and width of the simulator's layout, CSS pixels."""


@configclass
class MobileGym:
    """Settings of MobileGym. Its tasks are ``mobilegym:CHECKOUT#train`` and ``#test``."""

    plays: ClassVar = ("mobilegym",)
    judge: ClassVar = "mobilegym"
    waits: ClassVar = True
    exact: ClassVar = False
    packages: ClassVar = ("appium",)

    checkout: str = ""
    """Folder of the repository. Its tasks and judges are Python that runs here: name one that you trust."""
    url: str = ""
    """Address of its simulator; if empty, the checkout's ``dist``, built by ``npm run build``, is served."""
    pixel_ratio: Annotated[float, Field(gt=0, le=4)] = 0.8
    """Screenshot pixels per pixel of the layout's 360 × 800, along each side."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """An agent that knows a few of the training tasks, and one that acts at random."""
        from android_env.devices.mobilegym.scripts import SCRIPTED

        return {name: functools.partial(unlikely, choose) for name, choose in SCRIPTED.items()}

    def maker(self) -> Callable[[], AppiumDevice]:
        from android_env.appium.chromium import Viewport
        from android_env.devices.mobilegym.host import MobileGymHost

        if not self.checkout:
            raise SetupError("name the folder of MobileGym's repository with --device.mobilegym.checkout")
        viewport = Viewport(height=LAYOUT[0], width=LAYOUT[1], pixel_ratio=self.pixel_ratio)
        return MobileGymHost(self.checkout, url=self.url, viewport=viewport).open
