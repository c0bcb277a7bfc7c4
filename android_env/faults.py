"""Faults of the devices, by kind, and the ladder of repairs.

A fault says nothing about the agent. Each kind names the gentlest rung that can repair it; if a rung does not help, the
next one is tried. Only re-reading and a new session leave the phone's state alone, so only these two are used during an
episode. The others wait for the next `reset`, and the caller runs the episode again from its seed.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from android_env.clock import Clock, SystemClock
from android_env.errors import DeviceFault

T = TypeVar("T")
Blame = Literal["device", "task"]
logger = logging.getLogger("android_env.faults")


class Rung(IntEnum):
    """The repairs, gentlest first."""

    RETRY_READ = 0
    """Ask again; nothing on the phone changes."""
    NEW_SESSION = 1
    """Open a new session with the server, restarting the server if it has died; the phone stays as it is."""
    LOAD_SNAPSHOT = 2
    """Restore the phone to its saved state."""
    REBOOT = 3
    """Stop the emulator and start it again."""
    REBUILD = 4
    """Delete the emulator and recreate it from its template."""
    QUARANTINE = 5
    """Give the device up."""


class Fault(DeviceFault):
    """A typed fault.

    Args:
        message: what happened, as the server or the tool reports it.
        begun: False if the answer proves that the command was never begun.
    """

    kind: ClassVar[str] = "fault"
    rung: ClassVar[Rung] = Rung.NEW_SESSION
    """The gentlest rung that can repair it."""
    mend: ClassVar[str] = "see the server's log."
    blame: ClassVar[Blame] = "device"
    """Whether the device or the task is to blame."""

    def __init__(self, message: str, *, begun: bool = True) -> None:
        super().__init__(f"{' '.join(message.split()).rstrip('.')}; {self.mend}")
        self.begun = begun


class TaskRefused(Fault):
    """The device works by every other sign but does not begin this task."""

    kind, rung, blame = "task_refused", Rung.RETRY_READ, "task"
    mend = "see what the task asks of the device; try it on a second device to tell whether the task or the device is to blame."


class AppRefused(Fault):
    """The app is not installed, or has nothing that can be started."""

    kind, rung, blame = "app_refused", Rung.RETRY_READ, "task"
    mend = "check the package's name, and that every device has the app."


class AdbOffline(Fault):
    """adb sees the device but cannot communicate with it."""

    kind, rung = "adb_offline", Rung.LOAD_SNAPSHOT
    mend = "check 'adb devices'; the shared adb server is never restarted from here."


class SessionLost(Fault):
    """The server no longer knows the session."""

    kind, rung = "session_lost", Rung.NEW_SESSION
    mend = "raise new_command_timeout_s if the agent thinks for longer than that."


class InstrumentationDead(Fault):
    """The helper on the phone that carries out commands has died."""

    kind, rung = "instrumentation_dead", Rung.NEW_SESSION
    mend = "a new session starts it again; if it keeps dying, see logcat."


class PortBusy(Fault):
    """A port of the session is in use."""

    kind, rung = "port_busy", Rung.NEW_SESSION
    mend = (
        "an earlier session may still be ending; see what listens there, and give each device its own ports."
    )


class AppNotResponding(Fault):
    """The foreground app keeps its main thread busy (ANR)."""

    kind, rung = "app_not_responding", Rung.RETRY_READ
    mend = "the app's state is reset when the snapshot is loaded."


class EmulatorDead(Fault):
    """The emulator's process has ended, or adb no longer lists it."""

    kind, rung = "emulator_dead", Rung.REBOOT
    mend = "see the emulator's log; 'digiq devices doctor' checks memory, disk and KVM."


class BrowserGone(Fault):
    """The browser that the episode ran in has ended, and the page's state with it."""

    kind, rung = "browser_gone", Rung.LOAD_SNAPSHOT
    mend = "the episode can be run again from its seed in a new browser."


class BootTimeout(Fault):
    """Android did not boot in time."""

    kind, rung = "boot_timeout", Rung.REBUILD
    mend = "raise boot_cap_s, or check with 'digiq devices doctor' that KVM is in use."


class AvdBusy(Fault):
    """Another emulator is using the virtual device's files."""

    kind, rung = "avd_busy", Rung.QUARANTINE
    mend = "stop that emulator, or clone the AVD under another name."


class ScreenshotFailed(Fault):
    """No screenshot could be taken."""

    kind, rung = "screenshot_failed", Rung.RETRY_READ
    mend = "secure windows and sleeping displays cannot be captured."


class ScreenshotBlack(Fault):
    """Every pixel of the screenshot is black."""

    kind, rung = "screenshot_black", Rung.RETRY_READ
    mend = "the display may be asleep, or the emulator's GPU mode may not render without a window."


class SettleTimeout(Fault):
    """The screen never settled."""

    kind, rung = "settle_timeout", Rung.RETRY_READ
    mend = "raise settle.cap_s, or set allow_moving for apps that never stop moving."


class WrongScreenSize(Fault):
    """The screenshot's size differs from that of the device's screen."""

    kind, rung = "wrong_screen_size", Rung.LOAD_SNAPSHOT
    mend = "lock the phone's rotation and leave its resolution alone."


class SnapshotMissing(Fault):
    """The saved state is missing, or does not load."""

    kind, rung = "snapshot_missing", Rung.REBUILD
    mend = "the rebuilt device saves a new one."


class FingerprintMismatch(Fault):
    """After loading, the phone does not show what was saved."""

    kind, rung = "fingerprint_mismatch", Rung.REBOOT
    mend = "the snapshot may come from another version of the emulator."


class ServerDead(Fault):
    """The server does not answer at all."""

    kind, rung = "server_dead", Rung.NEW_SESSION
    mend = "start Appium, or see why it ended in its log."


class ServerSlow(Fault):
    """The server did not answer in time."""

    kind, rung = "server_slow", Rung.RETRY_READ
    mend = "raise timeout_s, or run fewer devices on this machine."


class MalformedResponse(Fault):
    """The server's answer cannot be read."""

    kind, rung = "malformed_response", Rung.RETRY_READ
    mend = "check that the address is Appium's and not a proxy's."


class CommandFailed(Fault):
    """The server refused or failed a command in a way that no other kind covers."""

    kind, rung = "command_failed", Rung.NEW_SESSION
    mend = "see the server's log for this command."


class JudgeError(Fault):
    """The judge gave no verdict."""

    kind, rung = "judge_error", Rung.RETRY_READ
    mend = "the episode's recording can be judged again."


class Quarantined(Fault):
    """The device has been given up."""

    kind, rung = "quarantined", Rung.QUARANTINE
    mend = "its faults are in the log; start another device."


def kind_of(error: BaseException) -> str:
    """The name of a fault's kind; `fault` if it has none."""
    return error.kind if isinstance(error, Fault) else "fault"


KINDS: dict[str, type[Fault]] = {cls.kind: cls for cls in Fault.__subclasses__()}
"""Every kind of fault by its name."""


@dataclass(frozen=True)
class _Rule:
    fault: type[Fault]
    message: str
    """Regular expression searched in the exception's text, case-insensitively."""
    exceptions: frozenset[str] = frozenset()
    """Names of the exception classes to which the rule applies; empty: any of the client's."""
    begun: bool = True


# First match wins. Exceptions are matched by name, so that the client need not be installed.
_RULES: tuple[_Rule, ...] = (
    _Rule(SessionLost, "", frozenset({"InvalidSessionIdException"}), begun=False),
    _Rule(
        ServerDead,
        "",
        frozenset({"NewConnectionError", "ConnectionRefusedError", "NameResolutionError"}),
        begun=False,
    ),
    _Rule(ServerDead, "connection refused|failed to establish a new connection", begun=False),
    _Rule(ServerSlow, "", frozenset({"ReadTimeoutError", "ConnectTimeoutError", "TimeoutError"})),
    _Rule(
        ServerDead, "", frozenset({"ProtocolError", "MaxRetryError", "ConnectionError", "RemoteDisconnected"})
    ),
    _Rule(MalformedResponse, "", frozenset({"DecodeError", "JSONDecodeError", "UnicodeDecodeError"})),
    _Rule(
        AppRefused,
        r"cannot (be )?activated?\b|cannot activate|is it installed|is not installed|activity class .*does not exist"
        r"|no launcher activity|unable to launch the app",
    ),
    _Rule(
        PortBusy,
        r"port #?\S+ is (busy|occupied|in use|already in use)|local port .* is busy|address already in use"
        r"|systemPort \S+ is occupied|mjpegServerPort \S+ is occupied|chromedriverPort \S+ is occupied",
        begun=False,
    ),
    _Rule(
        AppNotResponding,
        r"keeps the main thread busy|root node of the active window|isn't responding|waiting for the root|"
        r"waiting for the active window|application not responding",
    ),
    _Rule(AdbOffline, r"device (\S+ )?(is )?offline|device unauthorized|adb ping failed|device is not ready"),
    _Rule(
        EmulatorDead,
        r"device '?\S+'? (was )?not found|no devices/emulators found|could not find a connected android device|was not in the list of connected devices",
    ),
    _Rule(InstrumentationDead, "instrumentation process is not running", begun=False),
    _Rule(
        InstrumentationDead,
        "instrumentation process|uiautomation not connected|socket hang up|could not proxy command to the remote server",
    ),
    _Rule(ScreenshotFailed, "", frozenset({"ScreenshotException"})),
    _Rule(ScreenshotFailed, "screenshot"),
    _Rule(MalformedResponse, "valid w3c session creation response"),
    _Rule(ServerSlow, "", frozenset({"TimeoutException"})),
    _Rule(CommandFailed, "", frozenset({"WebDriverException", "HTTPError"})),
)


def classify(error: BaseException) -> DeviceFault | None:
    """The fault for an exception of the client or its HTTP library.

    Returns:
        The fault, or the exception itself if it is a fault; None otherwise, so that a bug stays a bug.
    """
    if isinstance(error, DeviceFault):
        return error
    names = {cls.__name__ for cls in type(error).__mro__}
    modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    ours = modules & {"selenium", "appium", "urllib3", "http", "json"}
    if not ours and not isinstance(error, OSError):
        return None
    text = " ".join(str(getattr(error, "msg", None) or error).split())
    reason = getattr(error, "reason", None)  # urllib3 wraps the cause
    if isinstance(reason, BaseException):
        names |= {cls.__name__ for cls in type(reason).__mro__}
    for rule in _RULES:
        if rule.exceptions and not rule.exceptions & names:
            continue
        if re.search(rule.message, text, re.IGNORECASE):
            return rule.fault(f"{type(error).__name__}: {text[:300]}", begun=rule.begun)
    return None


@dataclass(frozen=True)
class FaultEvent:
    """One line of a `FaultLog`."""

    device: str
    kind: str
    message: str
    step: str
    """What was under way: `read`, `act`, `reset` or `judge`."""
    done: str
    """What was done about it: a rung's name, `raised`, `maybe_executed`, `refused`, or `left_out` for something missing
    from the observation."""

    def __str__(self) -> str:
        return f"{self.device}: {self.kind} during {self.step}, {self.done.lower()}: {self.message}"


@dataclass
class FaultLog:
    """Counts faults and rungs, and logs each in one line to the logger `android_env.faults`.

    Args:
        path: JSONL file to which every event is appended; None keeps them in memory only.
    """

    path: Path | None = None
    events: list[FaultEvent] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault occurred; one fault may have several events."""
    done: Counter[str] = field(default_factory=Counter)
    """How often each rung was taken; also counts `raised` and `maybe_executed`."""

    def add(self, event: FaultEvent) -> None:
        """Keeps, logs and writes one event."""
        self.events.append(event)
        self.done[event.done] += 1
        logger.warning("%s", event)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event.__dict__, ensure_ascii=False) + "\n")


CAPS: Mapping[Rung, int] = {
    Rung.RETRY_READ: 2,
    Rung.NEW_SESSION: 2,
    Rung.LOAD_SNAPSHOT: 2,
    Rung.REBOOT: 1,
    Rung.REBUILD: 1,
}
"""How often each rung is taken for one command or one reset before the next rung is tried."""

Sent = Literal["executed", "maybe_executed", "refused"]
"""What is known of a mutating action; `refused`: the device answered that it cannot be done, for example because the
app is not installed."""


class Recovery:
    """Runs calls to one device and repairs its faults by the ladder.

    A device is given up only on evidence against the device itself: no rung makes it work on anything. If it works
    otherwise but refuses a task, the task is to blame.

    Args:
        repairs: what each rung from NEW_SESSION on does; missing rungs are skipped. QUARANTINE's is called when the
            device is given up.
        device: the device's name in log lines.
        caps: see `CAPS`.
        strikes: after more than this many episodes in a row ended by faults, the device is repaired by REBOOT; after
            more than twice as many, by REBUILD; after more than three times as many, it is given up.
        reset_cap_s: longest time that one reset may spend on repairs, seconds; a device that has not recovered by then
            is given up. The call that is running at that moment is waited for.
        probation_s: how long after it was given up a device may be tried again by a reset, seconds; each failure
            doubles it.
        revived: called when a device that was given up works again.
        clock: the clock that measures time limits.
        log: where events are counted and written.
    """

    def __init__(
        self,
        repairs: Mapping[Rung, Callable[[], Any]],
        *,
        device: str = "device",
        caps: Mapping[Rung, int] = CAPS,
        strikes: int = 5,
        reset_cap_s: float = 1800.0,
        probation_s: float = 300.0,
        revived: Callable[[], Any] = lambda: None,
        clock: Clock | None = None,
        log: FaultLog | None = None,
    ) -> None:
        self.repairs = dict(repairs)
        self.device = device
        self.caps = caps
        self.strikes = strikes
        self.reset_cap_s = reset_cap_s
        self.probation_s = probation_s
        self.log = FaultLog() if log is None else log
        self.quarantined = False
        self._revived = revived
        self._clock = clock or SystemClock()
        self._pending: DeviceFault | None = None
        self._struck = 0
        self._given_up_at: float | None = None

    def reset(self, call: Callable[[], T], *, works: Callable[[], Any] | None = None) -> T:
        """Runs the call that begins an episode, with every rung allowed; first repairs what ended the last one.

        Args:
            call: begins the episode.
            works: does something on the device that has nothing to do with any task, and raises a fault if that fails.
                It is called before the phone is rebooted for a fault that does not by itself point to the device.

        Raises:
            TaskRefused: the device works but does not begin this episode.
            AppRefused: the device does not begin this episode because it does not have the app.
            Quarantined: no rung has helped, or faults ended too many episodes in a row.
        """
        start = self._clock.now()
        on_probation = self.quarantined
        if on_probation and self._given_up_at is not None:
            if start - self._given_up_at < self.probation_s:
                raise Quarantined(f"{self.device} is in quarantine")
            self.quarantined = False
            self._struck = 0
        fault, self._pending = self._pending, None
        self._struck = self._struck + 1 if fault else 0
        taken: Counter[Rung] = Counter()
        lowest = Rung.NEW_SESSION if fault else Rung.RETRY_READ
        if fault is not None and self._struck > self.strikes:
            if self._struck > 3 * self.strikes:
                self._give_up(fault)
            if self._struck % self.strikes == 1:
                lowest = Rung.REBOOT if self._struck <= 2 * self.strikes else Rung.REBUILD
        while True:
            try:
                if fault is not None:
                    lowest = self._climb(fault, lowest, taken)
                result = call()
            except Quarantined:
                raise
            except Exception as error:
                fault = self._fault(error)
                if isinstance(fault, AppRefused):
                    self._say(fault, "reset", "raised")
                    raise fault from None
                if self._clock.now() - start > self.reset_cap_s:
                    self._give_up(fault)
                if works is not None and _rung(fault) <= Rung.NEW_SESSION:
                    next_rung = self._next(fault, lowest, taken)
                    if next_rung is None or next_rung >= Rung.REBOOT:
                        fault = self._refused_or(fault, works)
            else:
                if on_probation:
                    self._revived()
                return result

    def _refused_or(self, fault: DeviceFault, works: Callable[[], Any]) -> DeviceFault:
        """Raises `TaskRefused` if the device works; else returns the fault that shows that it does not."""
        try:
            works()
        except Exception as error:
            return self._fault(error)
        self._say(fault, "reset", "raised")
        raise TaskRefused(f"{kind_of(fault)}: {fault}") from fault

    def read(self, call: Callable[[], T]) -> T:
        """Runs a call that changes nothing; after a fault, makes gentle repairs and runs it again.

        Raises:
            DeviceFault: these did not help, or the fault needs a repair that ends the episode, which `reset` makes.
        """
        taken: Counter[Rung] = Counter()
        while True:
            try:
                return call()
            except Exception as error:
                fault = self._fault(error)
                self._mend_gently(fault, "read", taken)

    def act(self, send: Callable[[], Any], unchanged: Callable[[], bool]) -> Sent:
        """Sends an action that changes the phone; after a fault, it is never blindly sent again.

        After a fault the session is repaired and the screen read again. The action is sent once more only if the answer
        proved that it was never begun and the screen still shows what the agent saw.

        Args:
            send: sends the action.
            unchanged: reads the screen; True if it is what the agent saw.

        Raises:
            DeviceFault: the fault needs a repair that ends the episode, or the screen can no longer be read.
        """
        taken: Counter[Rung] = Counter()
        for resent in (False, True):
            try:
                send()
                return "executed"
            except Exception as error:
                fault = classify(error)
                if isinstance(fault, Fault) and fault.blame == "task":  # the agent's mistake, not a fault
                    self._say(fault, "act", "refused")
                    return "refused"
                fault = self._fault(error)
                self._mend_gently(fault, "act", taken)
                never_begun = isinstance(fault, Fault) and not fault.begun
                if self.read(unchanged) and never_begun and not resent:
                    continue
                self._say(fault, "act", "maybe_executed")
                break
        return "maybe_executed"

    def forgive(self) -> None:
        """Withdraws the last raised fault: the episode itself caused it, so the next reset has nothing to repair."""
        self._pending = None

    def _mend_gently(self, fault: DeviceFault, step: str, taken: Counter[Rung]) -> None:
        rung = _rung(fault)
        while rung <= Rung.NEW_SESSION:
            able = rung is Rung.RETRY_READ or rung in self.repairs
            if able and taken[rung] < self.caps.get(rung, 0):
                taken[rung] += 1
                self._say(fault, step, rung.name)
                try:
                    if rung in self.repairs:
                        self.repairs[rung]()
                    return
                except Exception as error:
                    fault = self._fault(error)
                    rung = max(rung, _rung(fault))
                    continue
            rung = Rung(rung + 1)
        self._pending = fault
        self._say(fault, step, "raised")
        raise fault

    def _climb(self, fault: DeviceFault, lowest: Rung, taken: Counter[Rung]) -> Rung:
        """Takes the lowest remaining rung and returns it."""
        rung = self._next(fault, lowest, taken)
        if rung is None:
            return self._give_up(fault)
        taken[rung] += 1
        self._say(fault, "reset", rung.name)
        if rung in self.repairs:
            self.repairs[rung]()
        return rung

    def _next(self, fault: DeviceFault, lowest: Rung, taken: Counter[Rung]) -> Rung | None:
        for rung in Rung:
            left = taken[rung] < self.caps.get(rung, 0)
            able = rung is Rung.RETRY_READ or rung in self.repairs
            if rung >= max(lowest, _rung(fault)) and left and able:
                return rung
        return None

    def _give_up(self, fault: DeviceFault) -> Any:
        if self._given_up_at is not None:
            self.probation_s *= 2
        self.quarantined, self._given_up_at = True, self._clock.now()
        self._say(fault, "reset", Rung.QUARANTINE.name)
        if Rung.QUARANTINE in self.repairs:
            self.repairs[Rung.QUARANTINE]()
        raise Quarantined(f"{self.device} was given up after {kind_of(fault)} ({fault})") from fault

    def _fault(self, error: Exception) -> DeviceFault:
        fault = classify(error)
        if fault is None:
            raise error
        self.log.kinds[kind_of(fault)] += 1
        return fault

    def _say(self, fault: DeviceFault, step: str, done: str) -> None:
        self.log.add(FaultEvent(self.device, kind_of(fault), str(fault), step, done))


def _rung(fault: DeviceFault) -> Rung:
    return fault.rung if isinstance(fault, Fault) else Rung.NEW_SESSION
