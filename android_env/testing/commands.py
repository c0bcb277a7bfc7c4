"""`CommandDoubles`: an Android SDK whose `adb` and `emulator` are doubles, for tests of the life cycle.

Both are real programs in their own directory, with real processes, locks and logs, but no Android behind them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from android_env.emulators.avd import Sdk, find_sdk, process_runs

_COMMON = """\
import fcntl, json, os, signal, sys, time
HOME = {state!r}
def log(name):
    with open(HOME + "/calls.jsonl", "a") as file:
        file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
class State:
    def __enter__(self):
        self.lock = open(HOME + "/lock", "a"); fcntl.flock(self.lock, fcntl.LOCK_EX)
        with open(HOME + "/state.json") as file: self.all = json.load(file)
        return self.all
    def __exit__(self, *_):
        with open(HOME + "/state.json.new", "w") as file: json.dump(self.all, file)
        os.replace(HOME + "/state.json.new", HOME + "/state.json"); self.lock.close()
def taken(state, kind):
    left = state["faults"].get(kind, 0)
    if left: state["faults"][kind] = left - 1
    elif kind in state["rate"]["kinds"]:
        import random
        state["rate"]["draws"] += 1
        left = random.Random("{{seed}} {{draws}}".format(**state["rate"])).random() < state["rate"]["rate"]
    if left: state["shown"][kind] = state["shown"].get(kind, 0) + 1
    return bool(left)
def fail(text):
    sys.stderr.write(text + "\\n"); sys.exit(1)
def runs(pid):
    try: os.kill(pid, 0)
    except OSError: return False
    with open(f"/proc/{{pid}}/stat") as file: return file.read().rpartition(")")[2].split()[0] != "Z"
"""

_EMULATOR = """
log("emulator")
args = sys.argv[1:]
if args == ["-version"]: print("Android emulator version 35.1.4.0"); sys.exit()
if args == ["-accel-check"]: print("accel:\\n0\\nKVM (version 12) is installed and usable.\\naccel"); sys.exit()
def value(name): return args[args.index(name) + 1]
avd, ports = value("-avd"), value("-ports").split(",")
ini = os.path.join(os.environ["ANDROID_AVD_HOME"], avd + ".ini")
if not os.path.exists(ini): print("PANIC: Unknown AVD name [" + avd + "]"); sys.exit(1)
path = dict(line.strip().split("=", 1) for line in open(ini) if "=" in line)["path"]
lock = path + "/hardware-qemu.ini.lock"
serial = "emulator-" + ports[0]
def end(*_):
    with State() as state:
        mine = state["emulators"].get(serial)
        if mine and mine["pid"] == os.getpid(): del state["emulators"][serial]
    os.unlink(lock); os._exit(0)
signal.signal(signal.SIGTERM, end)
with State() as state:
    if taken(state, "start_fails"): print("FATAL: not enough memory to run this AVD"); sys.exit(1)
    if os.path.exists(lock): print("ERROR: Running multiple emulators with the same AVD is an experimental feature"); sys.exit(1)
    open(lock, "w").write(str(os.getpid()))
    print("INFO: boot of " + avd)
    stubborn = taken(state, "ignores_kill")
    state["emulators"][serial] = dict(state["phone"], pid=os.getpid(), avd=avd, path=path, stubborn=stubborn,
        polls=-1 if taken(state, "boot_hangs") else state["boot_polls"])
sys.stdout.flush()
while True: signal.pause()
"""

_ADB = """
log("adb")
args = sys.argv[1:]
if args[:1] == ["version"]: print("Android Debug Bridge version 1.0.41"); sys.exit()
with State() as state:
    if args[:1] == ["kill-server"]: sys.exit()
    if args[:1] == ["devices"]:
        print("List of devices attached")
        for serial, phone in state["emulators"].items(): print(serial + "\\tdevice")
        sys.exit()
    serial, args = args[1], args[2:]
    phone = state["emulators"].get(serial)
    if phone is None or not runs(phone["pid"]):
        port = serial.partition("-")[2]
        if args[0] == "emu": fail("error: could not connect to TCP port " + port + ": Connection refused")
        fail("error: device '" + serial + "' not found")
    if args[:2] == ["emu", "kill"]:
        if taken(state, "busy"): open(phone["path"] + "/multiinstance.lock", "w").write(str(os.getppid()))
        if not phone["stubborn"]: os.kill(phone["pid"], signal.SIGTERM)
        print("OK: killing emulator, bye bye"); sys.exit()
    if args[0] != "emu" and taken(state, "offline"): fail("error: device offline")
    if args[:3] == ["emu", "avd", "snapshot"]:
        verb, name = args[3:]
        file = phone["path"] + "/snapshots/" + name
        shown = ("package", "size", "clock", "packages")
        if verb == "save":
            if taken(state, "save_fails"): print("KO: not enough disk"); sys.exit()
            os.makedirs(os.path.dirname(file), exist_ok=True)
            json.dump({key: phone[key] for key in shown}, open(file, "w"))
        elif not os.path.exists(file) or taken(state, "load_fails"):
            print("KO: Device 'cache' does not have the requested snapshot '" + name + "'"); sys.exit()
        else:
            phone.update(json.load(open(file)))
            for key, value in (("package", "com.android.crash"), ("size", "100x100"), ("clock", 0)):
                if taken(state, "wrong_" + key): phone[key] = value
        print("OK"); sys.exit()
    command = " ".join(args[1:])
    if command.startswith("getprop sys.boot_completed"):
        if phone["polls"] > 0: phone["polls"] -= 1
        print("" if phone["polls"] else 1)
    elif command == "pm list packages": print("\\n".join("package:" + name for name in phone["packages"]))
    elif command == "pm path android": print("package:/system/framework/framework-res.apk")
    elif command == "dumpsys window displays":
        print("  mFocusedApp=ActivityRecord{1f2 u0 " + phone["package"] + "/.Main t7}")
        print("  mCurrentFocus=Window{8ab u0 " + phone["package"] + "/" + phone["package"] + ".Main}")
    elif command == "wm size": print("Physical size: " + phone["size"])
    elif command.startswith("date"): print(int(phone["clock"]))
    elif command.startswith("am start"): phone["package"] = command.split()[-1]
    elif not command.startswith(("svc ", "settings ")): fail("/system/bin/sh: " + command + ": not found")
"""


class CommandDoubles:
    """An SDK of doubles under `root`, with one AVD called `template`; as a context manager, it ends what still runs.

    Args:
        root: an empty directory.
        boot_polls: how often a boot must be polled before it is complete.
    """

    FAULTS = (
        "start_fails",
        "boot_hangs",
        "ignores_kill",
        "busy",
        "offline",
        "save_fails",
        "load_fails",
        "wrong_package",
        "wrong_size",
        "wrong_clock",
    )

    def __init__(self, root: Path, *, boot_polls: int = 2) -> None:
        self.root = root
        self.avd_home = root / "avd"
        self._state = root / "state"
        self._state.mkdir(parents=True)
        phone: dict[str, Any] = {
            "package": "com.android.launcher3",
            "size": "1080x2400",
            "clock": 1_700_000_000,
        }
        phone["packages"] = ["android", "com.android.settings"]
        state = {"emulators": {}, "faults": {}, "shown": {}, "boot_polls": boot_polls, "phone": phone}
        state["rate"] = {"rate": 0.0, "kinds": [], "seed": 0, "draws": 0}
        (self._state / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for folder, name, body in (("platform-tools", "adb", _ADB), ("emulator", "emulator", _EMULATOR)):
            program = root / "sdk" / folder / name
            program.parent.mkdir(parents=True)
            # -I -S: the doubles need only the standard library, and start faster without the rest.
            head = f"#!{sys.executable} -IS\n"
            program.write_text(head + _COMMON.format(state=str(self._state)) + body, encoding="utf-8")
            program.chmod(0o755)
        self.make_avd("template")

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that make the doubles the machine's SDK."""
        return {
            "HOME": str(self.root),
            "PATH": os.environ.get("PATH", ""),
            "ANDROID_HOME": str(self.root / "sdk"),
            "ANDROID_AVD_HOME": str(self.avd_home),
        }

    @property
    def sdk(self) -> Sdk:
        return find_sdk(self.environ)

    @property
    def calls(self) -> list[list[str]]:
        """Every command line that was run, in order; the first word is the program's name."""
        with contextlib.suppress(FileNotFoundError):
            return [
                json.loads(line)
                for line in (self._state / "calls.jsonl").read_text(encoding="utf-8").splitlines()
            ]
        return []

    @property
    def running(self) -> dict[str, dict[str, Any]]:
        """The running emulators, by serial."""
        with self._locked() as state:
            return dict(state["emulators"])

    @property
    def faults(self) -> Counter[str]:
        """How often each kind of fault was produced."""
        with self._locked() as state:
            return Counter(state["shown"])

    def make_avd(self, name: str) -> Path:
        """Makes an AVD, with an overlay that refers to its base image as real ones do."""
        directory = self.avd_home / f"{name}.avd"
        (directory / "snapshots" / "default_boot").mkdir(parents=True)
        (directory / "config.ini").write_text(
            f"AvdId={name}\navd.ini.displayname={name}\nhw.lcd.width=1080\n", encoding="utf-8"
        )
        base = directory / "userdata-qemu.img"
        base.write_bytes(b"data" * 100)
        named = os.fsencode(base)
        overlay = b"QFI\xfb" + (3).to_bytes(4, "big") + (112).to_bytes(8, "big")
        overlay += len(named).to_bytes(4, "big") + (16).to_bytes(4, "big")
        overlay = overlay.ljust(112, b"\0") + named
        (directory / "userdata-qemu.img.qcow2").write_bytes(overlay.ljust(1 << 16, b"\0") + b"user data")
        ini = f"avd.ini.encoding=UTF-8\npath={directory}\npath.rel=avd/{name}.avd\ntarget=android-34\n"
        (self.avd_home / f"{name}.ini").write_text(ini, encoding="utf-8")
        return directory

    def inject(self, kind: str, times: int = 1) -> None:
        """Makes the next `times` occasions fail in a way from `FAULTS`; `busy`: another emulator takes the clone.

        Raises:
            ValueError: the kind is unknown.
        """
        self._check(kind)
        with self._locked() as state:
            state["faults"][kind] = times

    def inject_at_rate(self, rate: float, *, seed: int, kinds: Sequence[str]) -> None:
        """Makes each later occasion for one of `kinds` fail with this probability; 0 stops that.

        Raises:
            ValueError: the kind is unknown.
        """
        for kind in kinds:
            self._check(kind)
        with self._locked() as state:
            state["rate"] = {"rate": rate, "kinds": list(kinds), "seed": seed, "draws": 0}

    def set_phone(self, **fields: Any) -> None:
        """Changes fields of every running phone: `package`, `size`, `clock`, `packages`."""
        with self._locked() as state:
            for phone in state["emulators"].values():
                phone.update(fields)

    def end(self, pid: int) -> None:
        """Kills an emulator, as a crash would, and waits until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while process_runs(pid):
            time.sleep(0.001)

    def close(self) -> None:
        """Ends the emulators that are still running."""
        for phone in self.running.values():
            self.end(phone["pid"])

    def __enter__(self) -> CommandDoubles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, kind: str) -> None:
        if kind not in self.FAULTS:
            raise ValueError(f"cannot inject {kind!r}; use one of: {', '.join(self.FAULTS)}.")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        path = self._state / "state.json"
        with (self._state / "lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(path.read_text(encoding="utf-8"))
            yield state
            new = path.with_suffix(".json.new")
            new.write_text(json.dumps(state), encoding="utf-8")
            new.replace(path)
