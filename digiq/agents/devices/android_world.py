"""AndroidWorld's tasks, through its HTTP servers."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from android_env.errors import DeviceFault, SetupError
from digiq.agents.devices.base import Script, unlikely
from digiq.config import configclass

if TYPE_CHECKING:
    from android_env.devices.android_world import AndroidWorld as AndroidWorldDevice


@configclass
class AndroidWorld:
    """Settings of AndroidWorld. Each server has one emulator; name several to play episodes in parallel."""

    plays: ClassVar = ("android_world",)
    judge: ClassVar = "state"
    waits: ClassVar = True
    exact: ClassVar = False

    servers: tuple[str, ...] = ("http://127.0.0.1:5000",)
    """Addresses of AndroidWorld's servers. ``--tasks http://...`` selects the tasks of one of them."""
    screen_hw: tuple[int, int] = (0, 0)
    """Height and width that screenshots are resized to, pixels; 0, 0: not resized."""
    timeout_s: float = 180.0
    """Time limit of an answer, seconds."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """An agent that acts at random, which needs no knowledge of the phone."""
        from android_env.devices.replay.scripts import by_chance

        return {"random": functools.partial(unlikely, by_chance)}

    def maker(self) -> Callable[[], AndroidWorldDevice]:
        from android_env.devices.android_world import AndroidWorld as AndroidWorldDevice
        from android_env.devices.android_world import Server
        from android_env.faults import Quarantined

        servers = [Server(url, timeout_s=self.timeout_s) for url in self.servers]
        for server in servers:
            try:
                server.call("GET", "/health")
            except DeviceFault as fault:
                raise SetupError(f"AndroidWorld's server at {server.url} does not answer ({fault})") from None
        left, lock = itertools.chain(servers), threading.Lock()

        def make() -> AndroidWorldDevice:
            with lock:
                server = next(left, None)
            if server is None:
                raise Quarantined(f"all {len(servers)} AndroidWorld servers are taken")
            return AndroidWorldDevice(server, screen_hw=self.screen_hw if any(self.screen_hw) else None)

        return make
