"""One Android emulator: started without a window, waited for, restored to a snapshot, stopped.

Each has its own ports and process group. Nothing is ever killed by name. The adb server, which is shared by everyone on
the machine, is never stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from android_env.clock import Clock, SystemClock
from android_env.emulators import avd
from android_env.emulators.avd import Sdk
from android_env.errors import SetupError
from android_env.faults import (
    AdbOffline,
    BootTimeout,
    CommandFailed,
    EmulatorDead,
    FingerprintMismatch,
    Rung,
    SnapshotMissing,
)

ADB_ENVIRONMENT = {"ADB_LOCAL_TRANSPORT_MAX_PORT": "5683"}
"""For an adb server started here: by default it looks only for the first 16 emulators."""
_FOCUS = re.compile(r"^\s*m(?:CurrentFocus|FocusedApp)=.*\s([\w.]+)/[\w.$]+", re.MULTILINE)


@dataclass(frozen=True)
class Ports:
    """The ports of the loopback interface on which an emulator listens."""

    console: int
    adb: int
    grpc: int

    @property
    def serial(self) -> str:
        """The device's name in adb."""
        return f"emulator-{self.console}"

    @classmethod
    def numbered(cls, index: int) -> Ports:
        """The ports of the emulator with this index, from 0 to 63; no two emulators share a port.

        Raises:
            ValueError: the index is out of that range.
        """
        if not 0 <= index < 64:
            raise ValueError(f"emulator index {index} is not in 0..63: adb sees consoles 5554 to 5680 only.")
        return cls(5554 + 2 * index, 5555 + 2 * index, 8554 + index)

    @property
    def free(self) -> bool:
        """Whether nothing listens on any of them."""
        return all(port_is_free(port) for port in (self.console, self.adb, self.grpc))


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class EmulatorConfig:
    """Settings of an emulator.

    Raises:
        ValueError: a number is out of its range.
    """

    window: bool = False
    """Whether the emulator shows a window on the desktop."""
    gpu: str = "swiftshader_indirect"
    """The emulator's `-gpu`; the default renders on the CPU and needs no display."""
    memory_mb: int = 2048
    """Memory of the phone, MB."""
    cores: int = 2
    """CPU cores of the phone."""
    snapshot: str = "digiq"
    """The name of the saved state that episodes begin from."""
    boot_cap_s: float = 300.0
    """Longest time for Android to boot, seconds; without KVM it needs far more."""
    command_cap_s: float = 60.0
    """Longest time for one adb command, seconds."""
    poll_s: float = 1.0
    """Pause between two polls while waiting, seconds."""
    clock_slack_s: float = 120.0
    """How far the phone's clock may be, after loading, from the snapshot's clock or this machine's, seconds."""
    prepare: tuple[str, ...] = ("svc power stayon true", "settings put system accelerometer_rotation 0")
    """Shell commands run on the phone after every boot; these keep the display on and upright. Apart from them, the
    shell is only used to query the phone's state; no text from tasks or agents ever reaches it."""
    options: tuple[str, ...] = ()
    """Further options of the `emulator` command."""

    def __post_init__(self) -> None:
        if min(self.memory_mb, self.cores) < 1 or min(self.boot_cap_s, self.command_cap_s, self.poll_s) <= 0:
            raise ValueError(f"{self}: memory, cores, caps and poll_s must be above 0.")


@dataclass(frozen=True)
class Fingerprint:
    """Evidence of whether a phone is in the saved state."""

    package: str
    """The foreground app."""
    screen_hw: tuple[int, int]
    clock_s: float
    """The phone's clock, seconds since 1970."""

    def mismatch(self, seen: Fingerprint, *, now_s: float, slack_s: float) -> str:
        """How `seen`, taken just after loading, differs from this saved one; empty if it does not.

        The clock must be near the saved one, or near `now_s` if Android has already corrected it.
        """
        if seen.package != self.package:
            return f"{seen.package} is in front instead of {self.package}"
        if seen.screen_hw != self.screen_hw:
            return f"the screen is {seen.screen_hw} instead of {self.screen_hw}"
        if min(abs(seen.clock_s - self.clock_s), abs(seen.clock_s - now_s)) > slack_s:
            return f"the clock says {seen.clock_s:.0f}, neither the snapshot's {self.clock_s:.0f} nor the current time"
        return ""


class Emulator:
    """An emulator on a clone of a virtual device.

    If it was never started here, another process may be running it. It can then be reached through adb as usual, but
    only that process starts and stops it.

    Args:
        sdk: the tools.
        template: the AVD that is cloned; it is only read.
        name: the clone's name.
        ports: the emulator's ports.
        run_dir: the directory of its log and its saved fingerprint.
        config: its settings.
        clock: the clock that measures time limits.
        wall: returns this machine's time, seconds since 1970.
    """

    def __init__(
        self,
        sdk: Sdk,
        template: str,
        name: str,
        ports: Ports,
        run_dir: Path,
        *,
        config: EmulatorConfig | None = None,
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.sdk, self.template, self.name, self.ports = sdk, template, name, ports
        self.config = config or EmulatorConfig()
        self.run_dir = run_dir
        self._clock = clock or SystemClock()
        self._wall = wall
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def serial(self) -> str:
        return self.ports.serial

    @property
    def log(self) -> Path:
        """The file with the emulator's output."""
        return self.run_dir / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The id of the process and of its group; None while no process runs."""
        return self._process.pid if self.alive and self._process is not None else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def create(self) -> None:
        """Clones the template, boots the clone and saves the state from which episodes begin.

        Raises:
            SetupError: the template cannot be cloned.
            DeviceFault: the emulator does not start.
        """
        self.stop()
        avd.clone(self.sdk, self.template, self.name)
        self.start()
        self.save_snapshot()

    def start(self) -> None:
        """Boots the emulator and waits until apps can be started.

        Raises:
            AvdBusy: another emulator is using the clone.
            EmulatorDead: the process has ended.
            BootTimeout: Android did not boot within `boot_cap_s`.
        """
        if self.alive:
            return
        if not self.ports.free:
            raise EmulatorDead(f"a port of {self.ports} is taken by another program")
        avd.remove_stale_locks(self.sdk.avd_dir(self.name))
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments(),
                env={**os.environ, "ANDROID_AVD_HOME": str(self.sdk.avd_home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until(self._booted, "Android was up")
        for line in self.config.prepare:
            self.adb("shell", line)

    def arguments(self) -> list[str]:
        """The command line that `start` runs."""
        config, ports = self.config, self.ports
        return [
            str(self.sdk.emulator),
            *("-avd", self.name),
            *("-ports", f"{ports.console},{ports.adb}"),
            *("-grpc", str(ports.grpc), "-grpc-use-token"),
            *(() if config.window else ("-no-window",)),
            *("-no-audio", "-no-boot-anim", "-no-snapshot"),
            *("-gpu", config.gpu, "-memory", str(config.memory_mb), "-cores", str(config.cores)),
            *config.options,
        ]

    def stop(self) -> None:
        """Asks the emulator to end, then ends its process group; does nothing if none runs."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(AdbOffline, EmulatorDead, CommandFailed):
                self.adb("emu", "kill")
            for sign, patience_s in ((None, 20.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
                if sign is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience_s)
                    break
        process.wait()

    def reboot(self) -> None:
        """Stops and restarts the emulator, and loads the saved state."""
        self.stop()
        self.start()
        self.load_snapshot()

    def repairs(self) -> dict[Rung, Callable[[], Any]]:
        """The repairs of this emulator, by rung of `faults.Recovery`."""
        return {
            Rung.LOAD_SNAPSHOT: self.load_snapshot,
            Rung.REBOOT: self.reboot,
            Rung.REBUILD: self.create,
        }

    def save_snapshot(self) -> Fingerprint:
        """Saves the phone's state and its fingerprint for `load_snapshot`.

        Raises:
            SnapshotMissing: the emulator could not save its state.
        """
        seen = self.fingerprint()
        self._snapshot("save")
        self._fingerprint_file.write_text(json.dumps(asdict(seen)), encoding="utf-8")
        return seen

    def load_snapshot(self) -> None:
        """Restores the phone to the saved state and verifies that it is in it.

        Raises:
            EmulatorDead: no emulator runs.
            SnapshotMissing: there is no saved state, or it does not load.
            FingerprintMismatch: the phone is in another state after loading.
        """
        if self._process is not None and not self.alive:
            raise EmulatorDead(f"{self.serial} is not running{self._last_words()}")
        try:
            fields = json.loads(self._fingerprint_file.read_text(encoding="utf-8"))
            saved = Fingerprint(fields["package"], tuple(fields["screen_hw"]), fields["clock_s"])
        except (OSError, ValueError, KeyError, TypeError):
            raise SnapshotMissing(f"{self._fingerprint_file}: no snapshot was saved") from None
        self._snapshot("load")
        self.wait_until(self._booted, "adb saw it again after loading the snapshot")
        differs = saved.mismatch(self.fingerprint(), now_s=self._wall(), slack_s=self.config.clock_slack_s)
        if differs:
            raise FingerprintMismatch(f"snapshot {self.config.snapshot!r} of {self.name}: {differs}")

    def fingerprint(self) -> Fingerprint:
        """The phone's current fingerprint.

        Raises:
            CommandFailed: Android's answers cannot be read.
        """
        windows = self.adb("shell", "dumpsys window displays")
        sizes = dict(re.findall(r"^(\w+) size: (\d+x\d+)", self.adb("shell", "wm size"), re.MULTILINE))
        clock = self.adb("shell", "date +%s").strip()
        focus = _FOCUS.search(windows)
        size = sizes.get("Override") or sizes.get("Physical")
        if size is None or not clock.isdigit():
            raise CommandFailed(
                f"{self.serial}: the output of 'wm size' or 'date' cannot be read: {sizes} {clock!r}"
            )
        width, height = map(int, size.split("x"))
        return Fingerprint(focus[1] if focus else "", (height, width), float(clock))

    def packages(self) -> set[str]:
        """The packages of the installed apps.

        Raises:
            DeviceFault: the phone does not answer.
        """
        lines = self.adb("shell", "pm list packages").splitlines()
        return {line.partition(":")[2].strip() for line in lines if line.startswith("package:")}

    def adb(self, *arguments: str) -> str:
        """The output of an adb command for this device.

        Raises:
            AdbOffline: adb cannot reach the device, or does not answer.
            EmulatorDead: adb does not know the device.
            CommandFailed: the command failed.
        """
        try:
            done = subprocess.run(
                [str(self.sdk.adb), "-s", self.serial, *arguments],
                env={**os.environ, **ADB_ENVIRONMENT},
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                timeout=self.config.command_cap_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AdbOffline(f"adb {arguments[0]} took more than {self.config.command_cap_s:g} s") from None
        except OSError as error:
            raise SetupError(f"{self.sdk.adb}: cannot be run ({error}); reinstall platform-tools.") from None
        if done.returncode == 0:
            return done.stdout
        said = " ".join(f"{done.stderr} {done.stdout}".split())[:200]
        if re.search(r"device (still )?(offline|unauthorized|authorizing)|error: closed", said):
            raise AdbOffline(f"{self.serial}: {said}")
        # The second is the message of 'adb emu', which speaks to the console, not to the adb server.
        unseen = self.ports.console > 5584 and self.alive
        if f"'{self.serial}' not found" in said and unseen:
            raise AdbOffline(
                f"{self.serial} is running, but adb does not see it: adb looks for only 16 emulators unless its server was started "
                "with ADB_LOCAL_TRANSPORT_MAX_PORT=5683"
            )
        if f"'{self.serial}' not found" in said or f"connect to TCP port {self.ports.console}" in said:
            raise EmulatorDead(f"{said}{self._last_words()}")
        raise CommandFailed(f"adb {' '.join(arguments)}: {said}")

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Polls until `holds` returns True; ignores the faults that it raises while Android is still booting.

        Raises:
            EmulatorDead: the process was started here and has ended.
            BootTimeout: `holds` was not True within `boot_cap_s`; the message names `what` it waited for.
        """
        start = self._clock.now()
        while True:
            if self._process is not None and not self.alive:
                raise EmulatorDead(f"{self.serial} ended before {what}{self._last_words()}")
            # While Android boots, adb first does not see it, then sees it offline; then its services are still missing.
            with contextlib.suppress(AdbOffline, EmulatorDead, CommandFailed):
                if holds():
                    return
            if self._clock.now() - start >= self.config.boot_cap_s:
                raise BootTimeout(f"{self.serial}: {self.config.boot_cap_s:g} s passed before {what}")
            self._clock.sleep(self.config.poll_s)

    @property
    def _fingerprint_file(self) -> Path:
        return self.run_dir / f"{self.name}.fingerprint.json"

    def _booted(self) -> bool:
        booted = self.adb("shell", "getprop sys.boot_completed").strip() == "1"
        return booted and self.adb("shell", "pm path android").startswith("package:")

    def _snapshot(self, verb: str) -> None:
        said = self.adb("emu", "avd", "snapshot", verb, self.config.snapshot)
        if "KO" in said or "OK" not in said:
            text = " ".join(said.split()) or "no answer"
            raise SnapshotMissing(f"{self.name}: the snapshot did not {verb}: {text}")

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return f" (its log ends with: {lines[-1].strip()[:160]})"
        return ""
