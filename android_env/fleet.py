"""Several emulators at once: brought up side by side, lent out, and given up one by one where nothing mends them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from android_env import avd
from android_env.avd import Sdk
from android_env.devices.appium import AppiumDevice
from android_env.devices.uiautomator2 import UiAutomator2
from android_env.emulator import Emulator, EmulatorConfig, Ports
from android_env.errors import DeviceFault, SetupError
from android_env.faults import FaultLog, Quarantined, Recovery, Rung
from android_env.settle import Clock

_GIVEN_UP = Quarantined("an episode's device could not be mended")


@dataclass
class Member:
    """One emulator of a fleet."""

    index: int
    emulator: Emulator
    fault: DeviceFault | None = None
    """Why it was given up; None while it is sound."""
    lent: bool = False


class Fleet:
    """Emulators on clones of one virtual device; a context manager that stops them all.

    Args:
        sdk: the tools.
        template: the AVD that every member is a clone of; it is only read.
        count: how many.
        run_dir: where logs, fingerprints, `faults.jsonl` and `fleet.json` go.
        config: how they run.
        first: index of the first member; indices whose ports are taken are passed over.
        boot_at_once: how many boot at the same time.
        clock: what caps are measured by.

    Raises:
        ValueError: the count is below 1.
        SetupError: there are not so many free ports.
    """

    def __init__(
        self,
        sdk: Sdk,
        template: str,
        count: int,
        run_dir: Path,
        *,
        config: EmulatorConfig | None = None,
        first: int = 0,
        boot_at_once: int = 4,
        clock: Clock | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"count is {count}; use at least 1.")
        self.run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        self.log = FaultLog(run_dir / "faults.jsonl")
        self.members: list[Member] = []
        self._boot_at_once = boot_at_once
        self._lock = threading.Lock()
        index = first
        while len(self.members) < count:
            if index >= 64:
                raise SetupError(
                    f"there are ports for {len(self.members)} of {count} emulators; stop some others."
                )
            ports = Ports.numbered(index)
            if ports.free:
                name = f"{template}-digiq-{index}"
                emulator = Emulator(sdk, template, name, ports, run_dir, config=config, clock=clock)
                self.members.append(Member(index, emulator))
            index += 1

    @property
    def healthy(self) -> list[Member]:
        return [member for member in self.members if member.fault is None]

    def start(self, tell: Callable[[Member], Any] = lambda member: None) -> Fleet:
        """Brings all members up; one that does not come up is rebuilt once, and then given up.

        Args:
            tell: called with each member when it is up or given up.

        Raises:
            Quarantined: not one has come up.
        """

        def bring_up(member: Member) -> None:
            emulator = member.emulator
            recovery = Recovery({Rung.REBUILD: emulator.create}, device=emulator.serial, log=self.log)
            try:
                recovery.reset(emulator.create)
            except DeviceFault as fault:
                self.quarantine(member, fault)
            tell(member)

        try:
            with ThreadPoolExecutor(self._boot_at_once) as pool:
                list(pool.map(bring_up, self.members))
            self._write()
            if not self.healthy:
                raise Quarantined(
                    f"not one of {len(self.members)} emulators has come up ({self.members[0].fault})"
                )
        except BaseException:
            self.close()
            raise
        return self

    def lend(self) -> Member:
        """A sound member that nobody has.

        Raises:
            Quarantined: there is none.
        """
        with self._lock:
            for member in self.healthy:
                if not member.lent:
                    member.lent = True
                    return member
        sound = len(self.healthy)
        raise Quarantined(
            f"no emulator is to be had: {sound} of {len(self.members)} are sound, all of them lent"
        )

    def give_back(self, member: Member) -> None:
        """Makes a member available again."""
        with self._lock:
            member.lent = False

    def quarantine(self, member: Member, fault: DeviceFault) -> None:
        """Stops a member for good; the others go on."""
        member.fault = fault
        member.emulator.stop()
        self._write()

    def device(self, url: str, **options: Any) -> AppiumDevice:
        """A device on a sound member, through the Appium server at `url`; episodes begin from its snapshot.

        Args:
            url: where Appium listens.
            options: of `AppiumDevice`.

        Raises:
            Quarantined: no member is free.
            DeviceFault: the device cannot be reached.
        """
        member = self.lend()
        emulator = member.emulator
        fields: dict[str, Any] = {
            "restore": lambda task, seed: emulator.load_snapshot(),
            "repairs": {**emulator.repairs(), Rung.QUARANTINE: lambda: self.quarantine(member, _GIVEN_UP)},
            "log": self.log,
            "on_close": lambda: self.give_back(member),
            **options,
        }
        return AppiumDevice(url, UiAutomator2.numbered(member.index, emulator.serial), **fields)

    def close(self, *, remove: bool = False) -> None:
        """Stops every emulator; `remove` deletes the clones too."""
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(lambda member: member.emulator.stop(), self.members))
        if remove:
            for member in self.members:
                avd.remove_clone(member.emulator.sdk, member.emulator.name)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        rows = [
            {
                "index": member.index,
                "udid": member.emulator.serial,
                "avd": member.emulator.name,
                "pid": member.emulator.pid,
                "fault": None if member.fault is None else str(member.fault),
            }
            for member in self.members
        ]
        with self._lock:
            (self.run_dir / "fleet.json").write_text(json.dumps(rows, indent=1) + "\n")
