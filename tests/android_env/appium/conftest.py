"""A real client on a doubled server, with time that passes only when someone waits for it."""

from __future__ import annotations

import pytest

from android_env.appium.device import AppiumDevice
from android_env.appium.settle import SettleConfig
from android_env.appium.uiautomator2 import UiAutomator2
from android_env.faults import Rung
from android_env.tasks import load_tasks
from android_env.testing.appium import AppiumDouble
from android_env.testing.clock import FakeClock

TASKS = load_tasks("webshop/train")
UDID = "emulator-5554"


class Bench:
    """A double and a device on it. `did` lists the repairs, in order."""

    def __init__(self, index: int = 0, **options):
        self.clock = FakeClock()
        self.double = AppiumDouble(clock=self.clock)
        self.did: list[str] = []
        repairs = {
            Rung.NEW_SESSION: self._repair("new_session", self.double.start),
            Rung.LOAD_SNAPSHOT: self._repair("snapshot", lambda: None),
            Rung.REBOOT: self._repair("reboot", self.double.heal),
        }
        fields = {"restore": self.double.load, "repairs": repairs, "clock": self.clock, **options}
        fields.setdefault("settle", SettleConfig(stable_polls=1))
        fields.setdefault("timeout_s", 60.0)
        fields.setdefault("screen_hw", self.double.phone.screen_hw)
        dialect = fields.pop("dialect", UiAutomator2.numbered(index, UDID))
        self.device = AppiumDevice(self.double.url, dialect, **fields)

    def _repair(self, name, repair):
        def run():
            self.did.append(name)
            repair()

        return run

    def counts(self, command):
        return sum(name == command for name, _ in self.double.commands)

    def close(self):
        self.double.close()
        self.device.close()


@pytest.fixture
def make_bench():
    """Makes benches, and closes them after the test."""
    made = []

    def make(*args, **options):
        made.append(Bench(*args, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench):
    return make_bench()
