"""`MiniWoBHost`: browsers for MiniWoB++, with the servers that they share."""

from __future__ import annotations

from android_env.appium.chromium import PHONE, SETTLE, Chromium, Viewport, find_browser
from android_env.appium.host import BrowserHost
from android_env.appium.server import AppiumServer
from android_env.appium.settle import SettleConfig
from android_env.devices.miniwob import MiniWoB, html_folder


class MiniWoBHost(BrowserHost[MiniWoB]):
    """Opens devices; the Appium server and the pages' server run while at least one device is open.

    Args:
        server: the Appium server to share; None uses one with default settings.
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
        # Report missing programs now, not in the first episode.
        programs = find_browser()
        html_folder()
        super().__init__(
            server or AppiumServer(),
            lambda: MiniWoB(),
            lambda pages: Chromium(pages, viewport=viewport, programs=programs),
            viewport=viewport,
            settle=settle,
        )
