"""Emulators of ``digiq devices start`` behind Appium, for task files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from digiq.agents.devices.base import Script, unlikely
from digiq.config import configclass

if TYPE_CHECKING:
    from android_env.appium.device import AppiumDevice


@configclass
class Android:
    """Settings of emulators. Any task is theirs that can be judged by what is on the screen."""

    plays: ClassVar = ()
    judge: ClassVar = "rules"
    waits: ClassVar = True
    exact: ClassVar = False
    packages: ClassVar = ("appium",)

    fleet: str = "runs/devices/fleet.json"
    """What ``digiq devices start`` has written."""
    server: str = ""
    """Address of a running Appium server; empty starts one for the run."""
    allow_insecure: tuple[str, ...] = ()
    """Appium's features that are off unless named here, for example ``uiautomator2:adb_shell``, a shell on the phone.
    DigiQ needs none. For a server started for the run."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """Who acts by chance needs to know nothing of the phone."""
        from android_env.devices.miniwob.scripts import by_chance

        return {"random": functools.partial(unlikely, by_chance)}

    def maker(self) -> Callable[[], AppiumDevice]:
        from android_env.appium.server import AppiumServer
        from android_env.emulators.avd import find_sdk
        from android_env.emulators.fleet import Fleet
        from android_env.faults import Rung

        fleet = Fleet.attach(Path(self.fleet), find_sdk())
        if self.server:
            return lambda: fleet.device(self.server)
        server = AppiumServer(allow_insecure=self.allow_insecure)

        def make() -> AppiumDevice:
            server.start()
            return fleet.device(server.url, repairs={Rung.NEW_SESSION: server.start})

        return make
