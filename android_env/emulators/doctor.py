"""Checks whether a machine has what emulators behind Appium need, and says how to fix each thing that is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from android_env.appium.server import find_appium
from android_env.emulators.avd import Sdk, avd_home, find_sdk
from android_env.emulators.emulator import Ports, port_is_free
from android_env.errors import SetupError

DISK_GB = 8.0
"""Size that a clone of a virtual device may grow to, GB."""
MEMORY_GB = 3.0
"""Memory that one emulator needs, GB."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    ok: bool
    says: str
    """What was found."""
    mend: str = ""
    """What to do about it; empty if all is well."""

    def __str__(self) -> str:
        line = f"{'ok  ' if self.ok else 'MEND'}  {self.check:<9} {self.says}"
        return f"{line}\n{'':<16}→ {self.mend}" if self.mend else line


def examine(
    count: int = 1,
    *,
    environ: Mapping[str, str] | None = None,
    kvm: Path = Path("/dev/kvm"),
    meminfo: Path = Path("/proc/meminfo"),
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> list[Finding]:
    """Checks everything that `count` emulators need; changes nothing and leaves nothing running.

    Args:
        count: how many emulators are wanted.
        environ: environment variables; None for this process's.
        kvm: the device file of Linux's virtual machines.
        meminfo: the file in which Linux reports the available memory.
        free_bytes: returns the free disk space at a path, bytes.
    """
    environ = os.environ if environ is None else environ
    try:
        sdk = find_sdk(environ)
    except SetupError as error:
        sdk, missing = None, str(error)
    else:
        missing = ""
    return [
        _sdk(sdk, missing, environ),
        _acceleration(kvm),
        _avds(environ),
        *_appium(environ),
        _client(),
        _ports(count),
        _disk(avd_home(environ), count, free_bytes),
        _memory(meminfo, count),
    ]


def _sdk(sdk: Sdk | None, missing: str, environ: Mapping[str, str]) -> Finding:
    if sdk is None:
        what, _, mend = missing.partition("; ")
        return Finding("SDK", False, f"{what}.", mend)
    for tool, argument in ((sdk.adb, "version"), (sdk.emulator, "-version")):
        try:
            done = subprocess.run([str(tool), argument], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("SDK", False, f"{tool} cannot be run: {error}.", "reinstall it with sdkmanager.")
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            return Finding("SDK", False, f"{tool} fails: {' '.join(said)}", "reinstall it with sdkmanager.")
    if not (environ.get("ANDROID_HOME") or environ.get("ANDROID_SDK_ROOT")):
        says = f"{sdk.adb} is there, but Appium looks in ANDROID_HOME only, which is not set."
        return Finding("SDK", False, says, f"export ANDROID_HOME={sdk.adb.parent.parent}")
    return Finding("SDK", True, f"{sdk.adb}, {sdk.emulator}")


def _acceleration(kvm: Path) -> Finding:
    if sys.platform != "linux":
        return Finding("KVM", True, "not Linux; 'emulator -accel-check' tells whether acceleration works.")
    if not kvm.exists():
        return Finding(
            "KVM",
            False,
            f"{kvm} does not exist, so Android takes many minutes to boot.",
            "enable virtualisation in the BIOS (in a cloud: nested virtualisation), then 'sudo modprobe kvm'.",
        )
    if not os.access(kvm, os.R_OK | os.W_OK):
        return Finding(
            "KVM", False, f"no permission to open {kvm}.", "'sudo usermod -aG kvm $USER', then log in again."
        )
    return Finding("KVM", True, f"{kvm} can be opened")


def _avds(environ: Mapping[str, str]) -> Finding:
    home = avd_home(environ)
    names = sorted(path.stem for path in home.glob("*.ini")) if home.is_dir() else []
    if not names:
        return Finding(
            "AVD",
            False,
            f"no virtual device in {home}.",
            "make one: sdkmanager 'system-images;android-34;google_apis;x86_64', then "
            "avdmanager create avd -n phone -k 'system-images;android-34;google_apis;x86_64' -d pixel_6.",
        )
    return Finding("AVD", True, ", ".join(names))


def _appium(environ: Mapping[str, str]) -> list[Finding]:
    try:
        command, home = find_appium()
    except SetupError as error:
        return [
            Finding("Appium", False, str(error), "install Node.js 20 or later, then 'npm install -g appium'.")
        ]
    home = home or Path(environ.get("APPIUM_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".appium")
    found = [Finding("Appium", True, " ".join(command))]
    driver = home / "node_modules" / "appium-uiautomator2-driver" / "package.json"
    if driver.is_file():
        found.append(Finding("driver", True, str(driver.parent)))
    else:
        mend = f"APPIUM_HOME={home} {' '.join(command)} driver install uiautomator2"
        found.append(Finding("driver", False, f"UiAutomator2 is not in {home}.", mend))
    java = shutil.which("java", path=environ.get("PATH", "")) or environ.get("JAVA_HOME")
    mend = (
        "" if java else "install a JDK (17 or later) and set JAVA_HOME; the driver signs its helper with it."
    )
    return [*found, Finding("Java", bool(java), java or "not found.", mend)]


def _client() -> Finding:
    if importlib.util.find_spec("appium") is None:
        return Finding("client", False, "the Python client is not installed.", "pip install 'digiq[appium]'")
    return Finding("client", True, "Appium-Python-Client")


def _ports(count: int) -> Finding:
    taken: list[int] = []
    free = 0
    for index in range(64):
        ports = Ports.numbered(index)
        of_session = (8200 + index, 9200 + index, 9515 + index)
        busy = [p for p in (ports.console, ports.adb, ports.grpc, *of_session) if not port_is_free(p)]
        taken += busy
        free += not busy
        if free == count:
            beside = f"; in use: {', '.join(map(str, taken))}" if taken else ""
            return Finding("ports", True, f"free for {count}{beside}")
    return Finding(
        "ports", False, f"free for only {free} of {count} emulators.", "stop other emulators, or start fewer."
    )


def _disk(home: Path, count: int, free_bytes: Callable[[Path], int]) -> Finding:
    place = next(path for path in (home, *home.parents) if path.exists())
    free, needed = free_bytes(place) / 1e9, count * DISK_GB
    says = f"{free:.0f} GB free at {place}, {needed:.0f} needed for {count}"
    if free < needed:
        return Finding("disk", False, f"{says}.", "free some, or set ANDROID_AVD_HOME to a larger disk.")
    return Finding("disk", True, says)


def _memory(meminfo: Path, count: int) -> Finding:
    try:
        lines = dict(
            line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line
        )
        free = float(lines["MemAvailable"].split()[0]) / 1e6
    except (OSError, KeyError, ValueError):
        return Finding("memory", True, "unknown on this system")
    says = f"{free:.0f} GB available, {count * MEMORY_GB:.0f} needed for {count}"
    if free < count * MEMORY_GB:
        return Finding("memory", False, f"{says}.", "start fewer, or lower --config.memory-mb.")
    return Finding("memory", True, says)
