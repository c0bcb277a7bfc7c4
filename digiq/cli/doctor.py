"""``digiq doctor``: what this machine has and lacks, and how to fix it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from android_env.appium.chromium import find_browser
from android_env.appium.server import find_appium
from android_env.emulators.doctor import Finding
from android_env.errors import SetupError
from digiq.extras import EXTRAS
from digiq.processes import usable_cores

HELP = """usage: digiq doctor

Looks at this machine: Python, JAX and its devices, torch, memory, disk, the extras, and what real devices need. Says for
each thing that is missing how to mend it. Changes nothing. Exit status 1 if something is missing that every run needs.

'digiq devices doctor' checks in detail what Android emulators need."""

MEMORY_GB, DISK_GB = 3.0, 2.0
"""Upper bounds on the memory and disk space that the quickstart needs, with a margin."""
_NVIDIA = Path("/proc/driver/nvidia/version")


def main(arguments: list[str]) -> None:
    """Runs ``digiq doctor``."""
    if arguments:
        print(HELP)
        return
    needed = [python(), *jax_devices(), memory(), disk(Path.cwd())]
    print("Every run needs")
    for finding in needed:
        print(finding, flush=True)
    print("\nSome runs need")
    optional = []
    for finding in (*extras(), torch(), *reach()):
        optional.append(finding)
        print(finding, flush=True)
    wrong, lacking = (sum(not f.ok for f in found) for found in (needed, optional))
    verdict = f"{wrong} to mend." if wrong else "Ready for runs on the embedded phone: digiq run quickstart"
    if not wrong and not _has("vlm"):
        verdict = "Critics on features of your own can be trained; recipes need the extra 'vlm'."
    print(
        f"\n{verdict}"
        + (f" ({lacking} of the others {'is' if lacking == 1 else 'are'} missing.)" if lacking else "")
    )
    raise SystemExit(int(wrong > 0))


def python() -> Finding:
    """The Python interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", False, f"{version}; tested with 3.11 to 3.13.", "use one of these.")
    return Finding("Python", True, f"{version}, {len(usable_cores())} cores")


def jax_devices() -> Iterator[Finding]:
    """JAX, and whether it uses the accelerator that the machine has."""
    try:
        import jax

        devices = jax.devices()
    except (ImportError, RuntimeError) as error:
        first = " ".join(str(error).split())[:160]
        yield Finding("JAX", False, f"cannot be used: {first}.", "reinstall it, or set JAX_PLATFORMS=cpu.")
        return
    kinds = ", ".join(dict.fromkeys(d.device_kind for d in devices))
    says = f"{jax.__version__}, {len(devices)} × {kinds}"
    if all(d.platform == "cpu" for d in devices) and _NVIDIA.exists():
        asked = os.environ.get("JAX_PLATFORMS", "")
        mend = "unset JAX_PLATFORMS." if asked == "cpu" else "pip install 'jax[cuda12]'"
        yield Finding("JAX", True, f"{says}; this machine's NVIDIA GPU is not used.", mend)
        return
    yield Finding("JAX", True, says)


def memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """The available memory."""
    try:
        lines = dict(
            row.split(":", 1) for row in meminfo.read_text(encoding="utf-8").splitlines() if ":" in row
        )
        free = float(lines["MemAvailable"].split()[0]) / 1e6
    except (OSError, KeyError, ValueError):
        return Finding("memory", True, "unknown on this system")
    says = f"{free:.1f} GB available, {MEMORY_GB:g} needed for the quickstart"
    return Finding("memory", free >= MEMORY_GB, says, "" if free >= MEMORY_GB else "close other programs.")


def disk(place: Path) -> Finding:
    """The free disk space at the place of the runs."""
    free = shutil.disk_usage(place).free / 1e9
    says = f"{free:.0f} GB free here, {DISK_GB:g} needed for the quickstart"
    return Finding("disk", free >= DISK_GB, says, "" if free >= DISK_GB else "free some, or give --output.")


def extras() -> Iterator[Finding]:
    """Each extra, with those of its packages that are not installed."""
    by_extra: dict[str, list[str]] = {}
    for package, extra in EXTRAS.items():
        by_extra.setdefault(extra, []).append(package)
    for extra, packages in by_extra.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        says = f"lacks {', '.join(missing)}." if missing else ", ".join(packages)
        yield Finding(f"[{extra}]", not missing, says, f"pip install 'digiq[{extra}]'" if missing else "")


def torch() -> Finding:
    """torch, which runs the VLM, and whether it sees a GPU; finding out requires importing it."""
    if importlib.util.find_spec("torch") is None:
        return Finding("torch", False, "not installed, so no VLM runs.", "pip install 'digiq[vlm]'")
    import torch as found

    gpu = found.cuda.get_device_name(0) if found.cuda.is_available() else ""
    if not gpu and _NVIDIA.exists():
        mend = "install a CUDA build of torch; docs/install.md has the command."
        return Finding("torch", True, f"{found.__version__}; does not see this machine's NVIDIA GPU.", mend)
    return Finding("torch", True, f"{found.__version__}, {gpu or 'CPU'}")


def reach() -> Iterator[Finding]:
    """The requirements of real devices."""
    try:
        browser, driver = find_browser()
        yield Finding("Chromium", True, f"{browser}, {driver}")
    except SetupError as error:
        what, _, mend = str(error).partition("; ")
        yield Finding("Chromium", False, f"{what}.", mend)
    try:
        command, _ = find_appium()
        yield Finding("Appium", True, " ".join(command))
    except SetupError as error:
        what, _, mend = str(error).partition("; ")
        yield Finding("Appium", False, f"{what}.", mend)
    adb = shutil.which("adb")
    yield Finding(
        "adb",
        adb is not None,
        adb or "not on PATH.",
        "" if adb else "'digiq devices doctor' lists what is needed.",
    )


def _has(extra: str) -> bool:
    return all(importlib.util.find_spec(p) is not None for p, e in EXTRAS.items() if e == extra)
