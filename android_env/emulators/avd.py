"""The Android SDK on this machine, and the files of virtual devices (AVDs): cloning, locks, deletion.

Only clones made here, which carry a marker, are ever changed or deleted; the user's own AVDs are only read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from android_env.errors import SetupError
from android_env.faults import AvdBusy

MARKER = "cloned-by-digiq"
"""Name of the marker file in every clone."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Locks belong to a running emulator. Snapshots and the rest contain absolute paths and are recreated at the first boot.
_NOT_CLONED = (
    "*.lock",
    "snapshots",
    "tmpAdbCmds",
    "hardware-qemu.ini",
    "emulator-user.ini",
    "read-snapshot.txt",
)


@dataclass(frozen=True)
class Sdk:
    """Paths of the tools and the virtual devices."""

    adb: Path
    emulator: Path
    avd_home: Path

    def avd_dir(self, name: str) -> Path:
        """The directory of an AVD.

        Raises:
            SetupError: there is no AVD of this name.
        """
        ini = self.avd_home / f"{name}.ini"
        if not ini.is_file():
            known = ", ".join(sorted(path.stem for path in self.avd_home.glob("*.ini"))) or "none"
            raise SetupError(
                f"{ini}: there is no AVD {name!r} (there are: {known}); make one with avdmanager or Android Studio."
            )
        path = Path(_ini(ini).get("path", str(self.avd_home / f"{name}.avd")))
        if not path.is_dir():
            raise SetupError(f"{ini}: its path {path} is not a directory; create the AVD again.")
        return path


def find_sdk(environ: Mapping[str, str] | None = None) -> Sdk:
    """Finds the SDK by the environment variables that Android's own tools read, in the usual places, and on PATH.

    Raises:
        SetupError: adb or the emulator is not found.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME", "~")).expanduser()
    named = [Path(environ[key]) for key in ("ANDROID_HOME", "ANDROID_SDK_ROOT") if environ.get(key)]
    roots = [*named, home / "Android/Sdk", home / "Library/Android/sdk"]

    def tool(name: str, folder: str) -> Path:
        for root in roots:
            if os.access(root / folder / name, os.X_OK):
                return root / folder / name
        if found := shutil.which(name, path=environ.get("PATH", "")):
            return Path(found)
        raise SetupError(
            f"{name}: not found under ANDROID_HOME or on PATH; install the Android SDK's {folder} and set ANDROID_HOME."
        )

    return Sdk(tool("adb", "platform-tools"), tool("emulator", "emulator"), avd_home(environ))


def avd_home(environ: Mapping[str, str]) -> Path:
    """The directory in which Android's tools keep AVDs."""
    if environ.get("ANDROID_AVD_HOME"):
        return Path(environ["ANDROID_AVD_HOME"])
    if environ.get("ANDROID_USER_HOME"):
        return Path(environ["ANDROID_USER_HOME"]) / "avd"
    return Path(environ.get("HOME", "~")).expanduser() / ".android" / "avd"


def clone(sdk: Sdk, template: str, name: str) -> Path:
    """Copies an AVD with its installed apps and data, and returns the clone's directory.

    An existing clone of that name is replaced unless it is in use.

    Raises:
        SetupError: there is no such template, the name is not valid, or an AVD of that name is not a clone.
        AvdBusy: an emulator is using the template or the clone.
    """
    if not _NAME.fullmatch(name) or name == template:
        raise SetupError(
            f"{name!r} cannot name a clone of {template!r}; use letters, digits, '.', '_' and '-'."
        )
    source = sdk.avd_dir(template)
    if busy := _locks(source)[1]:
        raise AvdBusy(f"{busy[0]}: the AVD {template} is in use, so a copy of it would be inconsistent")
    if (sdk.avd_home / f"{name}.ini").exists() or (sdk.avd_home / f"{name}.avd").exists():
        remove_clone(sdk, name)
    target = sdk.avd_home / f"{name}.avd"
    _copy(source, target)
    (target / MARKER).write_text(f"{template}\n", encoding="utf-8")
    for image in target.glob("*.qcow2"):
        retarget_backing_file(image, source, target)
    config = target / "config.ini"
    if config.is_file():
        renamed = {"AvdId": name, "avd.ini.displayname": name}
        lines = (line.partition("=") for line in config.read_text(encoding="utf-8").splitlines())
        config.write_text(
            "".join(f"{k}={renamed.get(k.strip(), v)}\n" if s else f"{k}\n" for k, s, v in lines),
            encoding="utf-8",
        )
    ini = {**_ini(sdk.avd_home / f"{template}.ini"), "path": str(target), "path.rel": f"avd/{name}.avd"}
    (sdk.avd_home / f"{name}.ini").write_text(
        "".join(f"{key}={value}\n" for key, value in ini.items()), encoding="utf-8"
    )
    return target


def remove_clone(sdk: Sdk, name: str) -> None:
    """Deletes a clone; does nothing if there is none.

    Raises:
        SetupError: the AVD is not a clone made here.
        AvdBusy: an emulator is using it.
    """
    target = sdk.avd_home / f"{name}.avd"
    if target.exists():
        if target.is_symlink() or not (target / MARKER).is_file():
            raise SetupError(
                f"{target}: not a clone made by DigiQ, so it is left alone; choose another name."
            )
        if busy := _locks(target)[1]:
            raise AvdBusy(f"{busy[0]}: the clone {name} is in use")
        shutil.rmtree(target)
    (sdk.avd_home / f"{name}.ini").unlink(missing_ok=True)


def remove_stale_locks(directory: Path) -> list[Path]:
    """Removes the locks that a killed emulator left in a clone, and returns them.

    Raises:
        AvdBusy: a lock's process is running, or the lock is held; nothing is removed then.
        SetupError: the directory is not a clone made here.
    """
    if not (directory / MARKER).is_file():
        raise SetupError(f"{directory}: not a clone made by DigiQ, so its locks are left alone.")
    stale, busy = _locks(directory)
    if busy:
        raise AvdBusy(f"{busy[0]}: its emulator is running")
    for lock in stale:
        if lock.is_dir():
            shutil.rmtree(lock)
        else:
            lock.unlink(missing_ok=True)
    return stale


def retarget_backing_file(image: Path, source: Path, target: Path) -> bool:
    """Makes a copied QCOW2 overlay refer to the base image beside it instead of the one in the source directory.

    Returns:
        Whether the overlay referred to an image in the source directory.

    Raises:
        SetupError: the new name does not fit before the image's first data.
    """
    with image.open("r+b") as file:
        header = file.read(24)
        if len(header) < 24 or header[:4] != b"QFI\xfb":
            return False
        offset, size, cluster_bits = struct.unpack(">QII", header[8:24])
        if not offset:
            return False
        file.seek(offset)
        named = Path(os.fsdecode(file.read(size)))
        if named.parent.resolve() != source.resolve():
            return False
        new = os.fsencode(target / named.name)
        if offset + len(new) > 1 << cluster_bits:
            raise SetupError(
                f"{image}: {target / named.name} is too long a path; use a shorter ANDROID_AVD_HOME."
            )
        file.seek(16)
        file.write(struct.pack(">I", len(new)))
        file.seek(offset)
        file.write(new)
    return True


def _locks(directory: Path) -> tuple[list[Path], list[Path]]:
    """Locks whose emulator is gone, and locks whose emulator is running."""
    stale: list[Path] = []
    busy: list[Path] = []
    for lock in sorted(directory.glob("*.lock")):
        (busy if _held(lock) else stale).append(lock)
    return stale, busy


def _held(lock: Path) -> bool:
    file = lock / "pid" if lock.is_dir() else lock
    try:
        pid = int(re.sub(r"\D", "", file.read_text(errors="ignore")) or 0)
    except OSError:
        return False
    if pid:
        return process_runs(pid)
    if lock.is_dir():
        return False
    with file.open("rb") as handle:  # it names no process, so what counts is whether it is held
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def process_runs(pid: int) -> bool:
    """Whether a process has this id and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):  # ended, not yet waited for
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return True


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_CLONED), copy_function=_copy_file)


def _copy_file(source: str, target: str) -> str:
    # Images are sparse; a plain copy would write out gigabytes of holes.
    done = subprocess.run(
        ["cp", "-p", "--sparse=always", "--reflink=auto", source, target], capture_output=True, check=False
    )
    return target if done.returncode == 0 else shutil.copy2(source, target)


def _ini(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines())
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}
