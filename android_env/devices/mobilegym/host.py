"""`MobileGymHost`: browsers that show MobileGym's simulator, with the servers that they share."""

from __future__ import annotations

from pathlib import Path

from android_env.appium.chromium import Viewport, find_browser
from android_env.appium.host import BrowserHost
from android_env.appium.server import AppiumServer
from android_env.appium.settle import SettleConfig
from android_env.devices.mobilegym import SCREEN, Phone, World, built
from android_env.devices.mobilegym.checkout import Checkout

SETTLE = SettleConfig(poll_s=0.1, stable_polls=2, cap_s=4.0, status_bar=0.04)
"""The default for the simulator: apps slide in, and the clock in the status bar changes."""
TIMEOUT_S = 60.0


class MobileGymHost(BrowserHost[World]):
    """Opens devices; the Appium server and the simulator's server run while at least one device is open.

    Args:
        folder: the checkout.
        url: where its simulator is served; if empty, the simulator built in the checkout is served.
        server: the Appium server to share; None uses one with default settings.
        viewport: the browsers' screens.

    Raises:
        SetupError: Appium or the browser is not installed, or the folder holds no built checkout.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        url: str = "",
        server: AppiumServer | None = None,
        viewport: Viewport = SCREEN,
    ) -> None:
        programs = find_browser()
        checkout = Checkout(Path(folder))
        if not url:
            built(checkout)
        super().__init__(
            server or AppiumServer(),
            lambda: World(checkout, url),
            lambda world: Phone(world, viewport=viewport, programs=programs),
            viewport=viewport,
            settle=SETTLE,
            timeout_s=TIMEOUT_S,
        )
