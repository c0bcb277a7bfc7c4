"""`MiniWoBHost`: browsers that play MiniWoB++, with the servers they share."""

from __future__ import annotations

import threading

from android_env.appium.chromium import PHONE, SETTLE, Chromium, Viewport, find_browser
from android_env.appium.device import AppiumDevice
from android_env.appium.server import AppiumServer
from android_env.appium.settle import SettleConfig
from android_env.devices.miniwob import MiniWoB, html_folder
from android_env.faults import FaultLog, Rung


class MiniWoBHost:
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
        self.server = server or AppiumServer()
        self.settle = settle
        self.viewport = viewport
        self._lock = threading.Lock()
        self._open = 0
        self._pages: MiniWoB | None = None
        # What is missing is missed now, not in the first episode.
        self._programs = find_browser()
        html_folder()

    def open(self, *, log: FaultLog | None = None) -> AppiumDevice:
        """A new device, in a browser of its own; close it when done.

        Raises:
            DeviceFault: the server does not start.
        """
        with self._lock:
            self.server.start()
            self._pages = pages = self._pages or MiniWoB()
            self._open += 1
        start = self._start
        return AppiumDevice(
            self.server.url,
            Chromium(pages, viewport=self.viewport, programs=self._programs),
            settle=self.settle,
            timeout_s=30.0,
            screen_hw=self.viewport.screen_hw,
            # A new browser has no state but what a reset gives it: that is its snapshot.
            repairs={Rung.NEW_SESSION: start, Rung.LOAD_SNAPSHOT: start},
            log=log,
            on_close=self._release,
        )

    def _start(self) -> None:
        with self._lock:
            self.server.start()

    def _release(self) -> None:
        with self._lock:
            self._open -= 1
            if not self._open and self._pages is not None:
                self.server.stop()
                self._pages.close()
                self._pages = None
