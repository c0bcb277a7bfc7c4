"""Recorded screens as a device: DroidBot's explorations, or episodes recorded by DigiQ."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from android_env.errors import SetupError, TaskError
from digiq.agents.devices.base import Script, unlikely
from digiq.config import configclass

if TYPE_CHECKING:
    from android_env.devices.replay import Replay as ReplayDevice


@configclass
class Replay:
    """Settings of recordings. Tasks are those of the same folder: ``--tasks FOLDER``, ``FOLDER#train``, ``FOLDER#test``."""

    plays: ClassVar = ("replay",)
    judge: ClassVar = "state"
    waits: ClassVar = False
    exact: ClassVar = False

    folder: str = ""
    """DroidBot's output (``utg.js``, ``states``, ``events``), or recorded episodes."""
    screen_hw: tuple[int, int] = (320, 192)
    """Height and width that screenshots are resized to, pixels."""

    @property
    def scripts(self) -> Mapping[str, Script]:
        """The shortest path, a random choice, and an explorer that mostly does what was recorded."""
        from android_env.devices.replay.scripts import SCRIPTED

        return {name: functools.partial(unlikely, choose) for name, choose in SCRIPTED.items()}

    def maker(self) -> Callable[[], ReplayDevice]:
        from android_env.devices.replay import Replay as ReplayDevice
        from android_env.devices.replay import load

        if not self.folder:
            raise SetupError("name a recording with --device.replay.folder")
        try:
            graph = load(self.folder)
        except TaskError as error:
            raise SetupError(str(error)) from None
        return lambda: ReplayDevice(graph, self.screen_hw)
