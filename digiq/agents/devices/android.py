"""Emulators of ``digiq devices start`` behind Appium, for task files."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from android_env.errors import SetupError
from android_env.tasks import Task
from digiq.agents.devices.base import Script, unlikely
from digiq.config import configclass

if TYPE_CHECKING:
    from android_env.appium.device import AppiumDevice


@configclass
class Android:
    """Settings of emulators. They play any task that can be judged by the content of the screen."""

    plays: ClassVar = ()
    judge: ClassVar = "rules"
    waits: ClassVar = True
    exact: ClassVar = False
    packages: ClassVar = ("appium",)

    fleet: str = "runs/devices/fleet.json"
    """The file that ``digiq devices start`` has written."""
    server: str = ""
    """Address of a running Appium server; if empty, one is started for the run."""
    allow_insecure: tuple[str, ...] = ()
    """Appium features that are off unless named here, for example ``uiautomator2:adb_shell``, a shell on the phone.
    DigiQ needs none. Applies to a server that is started for the run."""

    capabilities: tuple[str, ...] = ()
    """Further capabilities of the driver, ``name=value`` with the value as JSON or text, for example
    ``appium:adbExecTimeout=60000`` or ``appium:uiautomator2ServerLaunchTimeout=60000``."""
    apps: tuple[str, ...] = ()
    """Names by which agents may open apps, as ``name=package``, for example ``notes=org.example.notes``."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """An agent that acts at random, which needs no knowledge of the phone."""
        from android_env.devices.miniwob.scripts import by_chance

        return {"random": functools.partial(unlikely, by_chance)}

    def maker(self) -> Callable[[], AppiumDevice]:
        from android_env.appium.server import AppiumServer
        from android_env.emulators.avd import find_sdk
        from android_env.emulators.fleet import Fleet
        from android_env.faults import Rung

        fleet = Fleet.attach(Path(self.fleet), find_sdk())
        options = {"capabilities": self._capabilities(), "apps": _pairs("apps", self.apps)}
        if self.server:
            return lambda: fleet.device(self.server, **options)
        server = AppiumServer(allow_insecure=self.allow_insecure)

        def make() -> AppiumDevice:
            server.start()
            return fleet.device(server.url, repairs={Rung.NEW_SESSION: server.start}, **options)

        return make

    def refusal(self, tasks: Iterable[Task]) -> str:
        """Why these tasks cannot begin: they name apps that no emulator has; empty if no reason is known."""
        from android_env.emulators.avd import find_sdk
        from android_env.emulators.fleet import Fleet
        from android_env.errors import DeviceFault

        wanted = {task.params["package"]: task.task_id for task in tasks if task.params.get("package")}
        if not wanted:
            return ""
        try:
            missing = Fleet.attach(Path(self.fleet), find_sdk()).missing(wanted)
        except DeviceFault:
            return ""
        if not missing:
            return ""
        named = ", ".join(f"{package!r} (task {wanted[package]!r})" for package in missing)
        return f"no emulator has the app {named}; correct the task's package, or install the app and save the snapshot again"

    def _capabilities(self) -> dict[str, Any]:
        def read(text: str) -> Any:
            try:
                return json.loads(text)
            except ValueError:
                return text

        return {name: read(text) for name, text in _pairs("capabilities", self.capabilities).items()}


def _pairs(field: str, texts: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise SetupError(f"device.android.{field}: {text!r} is not of the form name=value")
        found[name.strip().lower() if field == "apps" else name.strip()] = value.strip()
    return found
