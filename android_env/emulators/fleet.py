"""Several emulators at once: started side by side, lent out, and given up individually if nothing repairs them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from android_env.appium.device import AppiumDevice, connect
from android_env.appium.uiautomator2 import HELPERS, UiAutomator2
from android_env.clock import Clock, SystemClock
from android_env.emulators import avd
from android_env.emulators.avd import Sdk
from android_env.emulators.emulator import Emulator, EmulatorConfig, Ports
from android_env.errors import DeviceFault, SetupError
from android_env.faults import FaultLog, Quarantined, Recovery, Rung
from android_env.tasks.task import Task

_GIVEN_UP = Quarantined("the device could not be repaired")


@dataclass
class Member:
    """One emulator of a fleet."""

    index: int
    emulator: Emulator
    fault: DeviceFault | None = None
    """Why it was given up; None while it is healthy."""
    lease: TextIO | None = None
    """The lock held while it is lent, which keeps other processes from borrowing it."""
    given_up_at: float = 0.0
    """When it was given up, seconds of the fleet's clock."""
    helped: bool = False
    """Whether its snapshot is known to contain Appium's helpers."""


class Fleet:
    """Emulators on clones of one virtual device; as a context manager, it stops them all.

    Args:
        sdk: the tools.
        template: the AVD that every member is a clone of; it is only read.
        count: the number of emulators.
        run_dir: the directory of logs, fingerprints, `faults.jsonl` and `fleet.json`.
        config: the emulators' settings.
        first: index of the first member; indices whose ports are taken are skipped.
        boot_at_once: how many boot at the same time.
        clock: the clock that measures time limits.

    Raises:
        ValueError: the count is below 1.
        SetupError: there are not enough free ports.
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
        self._ours = True
        self._clock = clock or SystemClock()
        index = first
        while len(self.members) < count:
            if index >= 64:
                raise SetupError(
                    f"there are free ports for only {len(self.members)} of {count} emulators; stop some others."
                )
            ports = Ports.numbered(index)
            if ports.free:
                name = f"{template}-digiq-{index}"
                emulator = Emulator(sdk, template, name, ports, run_dir, config=config, clock=clock)
                self.members.append(Member(index, emulator))
            index += 1

    @classmethod
    def attach(
        cls, fleet_json: Path, sdk: Sdk, *, config: EmulatorConfig | None = None, clock: Clock | None = None
    ) -> Fleet:
        """The fleet that another process ('digiq devices start') is running.

        Raises:
            SetupError: the file is missing or damaged.
        """
        try:
            rows = json.loads(fleet_json.read_text(encoding="utf-8"))
            found = [(int(row["index"]), str(row["avd"]), row["fault"]) for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            raise SetupError(f"{fleet_json}: no fleet; start one with 'digiq devices start'.") from None
        fleet = cls.__new__(cls)
        fleet.run_dir, fleet.log = fleet_json.parent, FaultLog(fleet_json.parent / "faults.jsonl")
        fleet._boot_at_once, fleet._lock, fleet._ours = 1, threading.Lock(), False
        fleet._clock = clock or SystemClock()
        fleet.members = []
        for index, name, fault in found:
            ports = Ports.numbered(index)
            emulator = Emulator(sdk, "", name, ports, fleet.run_dir, config=config, clock=clock)
            fleet.members.append(Member(index, emulator, Quarantined(fault) if fault else None))
        return fleet

    @property
    def healthy(self) -> list[Member]:
        return [member for member in self.members if member.fault is None]

    def start(self, tell: Callable[[Member], Any] = lambda member: None) -> Fleet:
        """Starts all members; one that does not start is rebuilt once, then given up.

        Args:
            tell: called with each member when it has started or been given up.

        Raises:
            Quarantined: not one member has started.
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
                    f"none of {len(self.members)} emulators has started ({self.members[0].fault})"
                )
        except BaseException:
            self.close()
            raise
        return self

    def supervise(self, *, retry_s: float = 600.0) -> None:
        """Restarts each member that has ended since the last call, from its snapshot; gives up members that fail to.

        Args:
            retry_s: how long after it was given up a member is recreated, seconds.
        """
        for member in self.members:
            if member.fault is None or self._clock.now() - member.given_up_at < retry_s:
                continue
            try:
                member.emulator.create()
                self.revive(member)
            except DeviceFault as fault:
                self.quarantine(member, fault)
        for member in self.healthy:
            emulator = member.emulator
            if emulator.alive:
                continue
            recovery = Recovery({Rung.REBUILD: emulator.create}, device=emulator.serial, log=self.log)
            try:
                recovery.reset(emulator.reboot)
                self._write()
            except DeviceFault as fault:
                self.quarantine(member, fault)

    def ask_for_reboot(self, member: Member) -> None:
        """Ends an emulator that another process keeps running, waits until it restarts it, and loads the snapshot.

        Raises:
            BootTimeout: the emulator did not come back.
            Quarantined: the other process has given it up.
        """
        before = self._record(member)["pid"]
        with contextlib.suppress(DeviceFault):
            member.emulator.adb("emu", "kill")

        def back() -> bool:
            record = self._record(member)
            return bool(record["fault"]) or record["pid"] not in (None, before)

        member.emulator.wait_until(back, "'digiq devices start' had restarted it")
        if fault := self._record(member)["fault"]:
            raise Quarantined(fault)
        member.emulator.load_snapshot()

    def lend(self) -> Member:
        """A healthy member that is not lent out in this process or another.

        Raises:
            Quarantined: there is no such member.
        """
        with self._lock:
            for member in self.healthy:
                if member.lease is None and (
                    lease := _leased(self.run_dir / f"{member.emulator.name}.lease")
                ):
                    member.lease = lease
                    return member
        sound = len(self.healthy)
        raise Quarantined(
            f"no emulator is free: {sound} of {len(self.members)} are healthy, all of them lent out"
        )

    def give_back(self, member: Member) -> None:
        """Makes a member available again."""
        with self._lock:
            lease, member.lease = member.lease, None
            if lease is not None:
                lease.close()

    def quarantine(self, member: Member, fault: DeviceFault) -> None:
        """Stops a member for good; the others keep running."""
        member.fault, member.given_up_at = fault, self._clock.now()
        member.emulator.stop()
        self._write()

    def revive(self, member: Member) -> None:
        """Marks a member that works again as healthy; its snapshot may be a new one."""
        member.fault, member.helped = None, False
        self._write()

    def missing(self, packages: Iterable[str]) -> list[str]:
        """Those of these apps that no healthy member has.

        Raises:
            DeviceFault: no member answers.
        """
        wanted = set(packages)
        for number, member in enumerate(self.healthy):
            try:
                wanted -= member.emulator.packages()
            except DeviceFault:
                if number + 1 == len(self.healthy):
                    raise
            if not wanted:
                break
        return sorted(wanted)

    def device(
        self,
        url: str,
        *,
        capabilities: Mapping[str, Any] | None = None,
        apps: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AppiumDevice:
        """A device on a healthy member, through the Appium server at `url`; episodes begin from its snapshot.

        Args:
            url: where Appium listens.
            capabilities: further capabilities of the driver, for example
                `{"appium:uiautomator2ServerLaunchTimeout": 60000}`; see `UiAutomator2.capabilities_besides`.
            apps: packages by the names under which agents may open them.
            options: options of `AppiumDevice`; `repairs` are added to the emulator's own.

        Raises:
            Quarantined: no member is free.
            DeviceFault: the device cannot be reached.
        """
        member = self.lend()
        emulator = member.emulator
        repairs = emulator.repairs()
        beside = options.pop("repairs", {})
        if not self._ours:
            repairs = {
                Rung.LOAD_SNAPSHOT: emulator.load_snapshot,
                Rung.REBOOT: lambda: self.ask_for_reboot(member),
            }
        dialect = UiAutomator2.numbered(
            member.index,
            emulator.serial,
            capabilities_besides=dict(capabilities or {}),
            apps=dict(apps or {}),
        )

        def restore(task: Task, seed: int) -> None:
            emulator.load_snapshot()
            if not member.helped:
                self._help(member, url, dialect)

        fields: dict[str, Any] = {
            "restore": restore,
            "repairs": {**repairs, Rung.QUARANTINE: lambda: self.quarantine(member, _GIVEN_UP), **beside},
            "log": FaultLog(self.log.path),
            "on_close": lambda: self.give_back(member),
            **options,
            "recovery": {"revived": lambda: self.revive(member), **options.get("recovery", {})},
        }
        return AppiumDevice(url, dialect, **fields)

    def _help(self, member: Member, url: str, dialect: UiAutomator2) -> None:
        """Adds Appium's helpers to the snapshot, since otherwise every episode's session would install them again.

        A session installs them; then the phone goes to the home screen and its state is saved.
        """
        emulator = member.emulator
        if not emulator.packages().issuperset(HELPERS):
            driver = connect(url, dialect.capabilities(), timeout_s=emulator.config.boot_cap_s)
            with contextlib.suppress(Exception):
                dialect.press(driver, "home")
            with contextlib.suppress(Exception):
                driver.quit()
            emulator.save_snapshot()
        member.helped = True

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

    def _record(self, member: Member) -> dict[str, Any]:
        """The entry of a member in `fleet.json`, written by the process that keeps the fleet."""
        rows = json.loads((self.run_dir / "fleet.json").read_text(encoding="utf-8"))
        return next(row for row in rows if row["index"] == member.index)

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
        if self._ours:
            with self._lock:
                new = self.run_dir / "fleet.json.new"
                new.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                new.replace(self.run_dir / "fleet.json")  # readers see the old or the new file, whole


def _leased(path: Path) -> TextIO | None:
    """The file, locked as long as it is open; None if another process holds the lock."""
    lease = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lease.close()
        return None
    return lease
