"""`MiniWoBHost`: browsers that play MiniWoB++, with the servers they share."""

from __future__ import annotations

from android_env.appium.chromium import PHONE, SETTLE, Chromium, Viewport, find_browser
from android_env.appium.host import BrowserHost
from android_env.appium.server import AppiumServer
from android_env.appium.settle import SettleConfig
from android_env.devices.miniwob import MiniWoB, html_folder


class MiniWoBHost(BrowserHost[MiniWoB]):
    """Opens devices; an Appium server and the pages are up while at least one device is open.

    Args:
        server: the Appium server to share; None takes one with its defaults.
        settle: when a page counts as settled.
        viewport: the browsers' screens.

    Raises:
        SetupError: Appium, the browser or the pages are not installed.
    """

    def __init__(
        self,
        *,
        server: AppiumServer | None = None,
        settle: SettleConfig = SETTLE,
        viewport: Viewport = PHONE,
    ) -> None:
        # What is missing is missed now, not in the first episode.
        programs = find_browser()
        html_folder()
        super().__init__(
            server or AppiumServer(),
            lambda: MiniWoB(),
            lambda pages: Chromium(pages, viewport=viewport, programs=programs),
            viewport=viewport,
            settle=settle,
        )
