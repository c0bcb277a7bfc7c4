"""`BrowserHost`: browsers for one set of pages, with the servers that they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from android_env.appium.chromium import SETTLE, Pages, Viewport
from android_env.appium.device import AppiumDevice, Dialect
from android_env.appium.server import AppiumServer
from android_env.appium.settle import SettleConfig
from android_env.faults import FaultLog, Rung


class ServedPages(Pages, Protocol):
    """Pages with a server of their own."""

    def close(self) -> None:
        """Stops serving."""
        ...


P = TypeVar("P", bound=ServedPages)


class BrowserHost(Generic[P]):
    """Opens devices; the Appium server and the pages' server run while at least one device is open.

    Args:
        server: the Appium server to share.
        serve: starts serving the pages.
        dialect: makes the dialect of a browser that shows them, one for each device.
        viewport: the browsers' screens.
        settle: when a page counts as settled.
        timeout_s: how long the server may take to answer, seconds.
    """

    def __init__(
        self,
        server: AppiumServer,
        serve: Callable[[], P],
        dialect: Callable[[P], Dialect],
        *,
        viewport: Viewport,
        settle: SettleConfig = SETTLE,
        timeout_s: float = 30.0,
    ) -> None:
        self.server = server
        self.settle = settle
        self.viewport = viewport
        self.timeout_s = timeout_s
        self._serve, self._dialect = serve, dialect
        self._lock = threading.Lock()
        self._open = 0
        self._pages: P | None = None

    def open(self, *, log: FaultLog | None = None) -> AppiumDevice:
        """A new device, in a browser of its own; close it when done.

        Raises:
            DeviceFault: the server does not start.
        """
        with self._lock:
            self.server.start()
            self._pages = pages = self._pages or self._serve()
            self._open += 1
        start = self._start
        return AppiumDevice(
            self.server.url,
            self._dialect(pages),
            settle=self.settle,
            timeout_s=self.timeout_s,
            screen_hw=self.viewport.screen_hw,
            # A new browser's only state comes from the reset, so a new browser serves as the snapshot.
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
