"""``digiq devices``: checks this machine, and starts emulators."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from android_env.emulators.avd import MARKER
from android_env.emulators.emulator import EmulatorConfig
from android_env.errors import AndroidEnvError
from digiq.errors import ConfigError, DigiQError

HELP = """usage: digiq devices COMMAND [options]

  doctor   says what this machine lacks for Android emulators, and how to mend it
  start    brings emulators up and keeps them, until it is stopped with Ctrl-C

  digiq devices doctor --count 4
  digiq devices start --avd phone --count 4

digiq devices COMMAND --help lists the options."""


@dataclasses.dataclass(frozen=True)
class DoctorOptions:
    """Reports what this machine lacks for Android emulators behind Appium, and how to fix it."""

    count: int = 1
    """Emulators that are to run at the same time."""


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """Starts emulators, each on a clone of one virtual device (AVD), and keeps them running until Ctrl-C."""

    avd: str = ""
    """The AVD to clone; it is only read. Empty: the only one there is."""
    count: int = 1
    """Emulators that run at the same time."""
    run_dir: Path = Path("runs/devices")
    """Folder for logs and for ``fleet.json``, the file that ``--device.android.fleet`` takes."""
    remove: bool = False
    """Delete the clones at the end; if kept, they are not reused, as the next start clones afresh."""
    config: EmulatorConfig = dataclasses.field(default_factory=EmulatorConfig)


def main(arguments: list[str]) -> None:
    """Runs ``digiq devices COMMAND``."""
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(HELP)
        return
    if command not in ("doctor", "start"):
        raise DigiQError(f"unknown command 'devices {command}'; use 'doctor' or 'start'.")
    options_of: dict[str, Any] = {"doctor": DoctorOptions, "start": StartOptions}
    from digiq.cli.stage import parse

    try:
        options = parse(options_of[command], arguments[1:], program=f"digiq devices {command}")
    except ValueError as error:
        raise ConfigError(f"digiq devices {command}: {error}") from None
    if options.count < 1:
        raise ConfigError(f"digiq devices {command}: --count is {options.count}; use at least 1.")
    if command == "doctor":
        raise SystemExit(doctor(options))
    try:
        start(options)
    except AndroidEnvError as error:
        raise DigiQError(f"digiq devices start: {error}") from None


def doctor(options: DoctorOptions) -> int:
    """Prints every finding; returns the exit status of the process, 0 if there is nothing to fix."""
    from android_env.emulators.doctor import examine

    findings = examine(options.count)
    print("\n".join(map(str, findings)))
    wrong = sum(not finding.ok for finding in findings)
    print(f"\n{wrong} to mend." if wrong else "\nNothing is missing: 'digiq devices start' can run.")
    return int(wrong > 0)


def start(options: StartOptions, wait: Callable[[], Any] = lambda: time.sleep(2.0)) -> None:
    """Starts the fleet and restarts emulators that end, until Ctrl-C or SIGTERM.

    Args:
      options: see :class:`StartOptions`.
      wait: waits between two checks of the fleet.

      Raises:
        AndroidEnvError: there is no SDK or AVD, or no emulator came up.
    """
    from android_env.emulators.avd import find_sdk
    from android_env.emulators.fleet import Fleet, Member

    sdk = find_sdk()
    fleet = Fleet(
        sdk, options.avd or _only_avd(sdk.avd_home), options.count, options.run_dir, config=options.config
    )

    def tell(member: Member) -> None:
        state = "up" if member.fault is None else f"given up: {member.fault}"
        print(f"{member.emulator.serial}  {member.emulator.name}  {state}", flush=True)

    with _interrupted_by_sigterm():
        try:
            print(f"Booting {options.count}; logs are in {options.run_dir}.", flush=True)
            fleet.start(tell)
            print(
                f"{len(fleet.healthy)} up. Use them with: --device.name android --device.android.fleet {options.run_dir}/fleet.json"
            )
            print("Ctrl-C stops them.", flush=True)
            while fleet.healthy:
                wait()
                fleet.supervise()
            raise DigiQError(f"every emulator has been given up; see {options.run_dir}/faults.jsonl.")
        except KeyboardInterrupt:
            print("Stopping.", file=sys.stderr, flush=True)
        finally:
            fleet.close(remove=options.remove)


def _only_avd(home: Path) -> str:
    names = sorted(p.stem for p in home.glob("*.ini") if not (home / f"{p.stem}.avd" / MARKER).exists())
    if len(names) != 1:
        found = ", ".join(names) or "none; 'digiq devices doctor' says how to make one"
        raise ConfigError(f"digiq devices start: name an AVD with --avd (there are: {found}).")
    return names[0]


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
