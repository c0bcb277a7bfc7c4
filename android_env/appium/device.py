"""`AppiumDevice`: a device behind an Appium server.

A `Dialect` holds what differs between kinds of devices: capabilities, gestures, keys. Waiting, reading and recovery
are the same for all of them and are implemented here.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from android_env.actions import Action, ActionType
from android_env.appium.settle import SETTLE, SettleConfig, Settled, same_screen, settle
from android_env.clock import Clock, SystemClock
from android_env.devices import Observation, StepReport, Verdict
from android_env.errors import EpisodeError
from android_env.faults import (
    CAPS,
    AppNotResponding,
    CommandFailed,
    FaultEvent,
    FaultLog,
    MalformedResponse,
    Recovery,
    Rung,
    ScreenshotBlack,
    ScreenshotFailed,
    WrongScreenSize,
    classify,
    kind_of,
)
from android_env.tasks.task import Task

T = TypeVar("T")
Key = Literal["back", "home", "enter", "recents"]
Pixel = tuple[int, int]
"""(y, x), from the top left corner of the screenshot."""

_KEYS: Mapping[ActionType, Key] = {
    ActionType.PRESS_BACK: "back",
    ActionType.PRESS_HOME: "home",
    ActionType.PRESS_ENTER: "enter",
    ActionType.RECENT_APPS: "recents",
}


class Dialect(Protocol):
    """The commands of one kind of device. `driver` is an `appium.webdriver.Remote` with an open session."""

    @property
    def name(self) -> str: ...

    def capabilities(self) -> dict[str, Any]:
        """The capabilities that a new session requests."""
        ...

    def reset(self, driver: Any, task: Task, seed: int) -> str | None:
        """Brings the device to the task's initial state; returns the goal if the device words it, else None."""
        ...

    def tap(self, driver: Any, at: Pixel) -> None: ...

    def long_press(self, driver: Any, at: Pixel) -> None: ...

    def double_tap(self, driver: Any, at: Pixel) -> None: ...

    def swipe(self, driver: Any, start: Pixel, end: Pixel) -> None: ...

    def drag(self, driver: Any, start: Pixel, end: Pixel) -> None:
        """A long press that then moves and lifts elsewhere."""
        ...

    def type_text(self, driver: Any, text: str) -> None:
        """Types into the focused field; never presses enter."""
        ...

    def press(self, driver: Any, key: Key) -> None: ...

    def open_app(self, driver: Any, name: str) -> None: ...

    def screenshot(self, driver: Any) -> np.ndarray:
        """uint8[H, W, 3]."""
        ...

    def activity(self, driver: Any) -> str: ...

    def ui_elements(self, driver: Any) -> str: ...


@runtime_checkable
class KnowsTruth(Protocol):
    """A dialect whose device knows the true outcome of its tasks."""

    def verdict(self, driver: Any) -> Verdict | None:
        """Whether the episode has ended, and how; None while it runs."""
        ...


@runtime_checkable
class Proves(Protocol):
    """A dialect that can verify that its device works, and can tell a black screen from a display that is off."""

    def probe(self, driver: Any) -> None:
        """Opens something that has nothing to do with any task; raises if that fails."""
        ...

    def wake(self, driver: Any) -> None:
        """Switches the display on if it is off; does nothing else."""
        ...


@runtime_checkable
class Remarks(Protocol):
    """A dialect that reports notes on the last action."""

    def remarks(self) -> tuple[str, ...]:
        """Notes for `StepReport.notes`; each is reported once."""
        ...


@runtime_checkable
class Listens(Protocol):
    """A dialect whose tasks may ask for an answer."""

    def answered(self, text: str) -> None:
        """Receives the agent's answer; nothing happens on the screen."""
        ...


_BLACK_LOOKS = 2
"""How often the display is woken and read again before a black screen is accepted."""
_ELEMENT_READS = 3
"""How often the elements are requested before the observation does without them."""


class AppiumDevice:
    """A device behind an Appium server; implements `Device` and `Reports`.

    Args:
        url: where the server listens, for example `http://127.0.0.1:4723`.
        dialect: the commands of this kind of device.
        settle: when a screen counts as settled.
        timeout_s: how long an answer may take, seconds.
        restore: puts the phone into a task's initial state from outside, for example by loading a snapshot; a new
            session is opened afterwards. None: the dialect's own reset is enough.
        repairs: what the rungs beyond a new session do; see `faults.Recovery`. NEW_SESSION may name what to do before
            the new session, for example restarting the server.
        caps: how often each rung may be taken.
        screen_hw: height and width of the screenshots, pixels; None asks the device.
        clock: the clock that measures waiting.
        log: where faults are counted and written.
        on_close: called when the device is closed, to release what it shares with other devices.
        recovery: further options of `faults.Recovery`.

    Raises:
        DeviceFault: `screen_hw` is None and the device does not answer.
    """

    def __init__(
        self,
        url: str,
        dialect: Dialect,
        *,
        settle: SettleConfig = SETTLE,
        timeout_s: float = 120.0,
        restore: Callable[[Task, int], Any] | None = None,
        repairs: Mapping[Rung, Callable[[], Any]] | None = None,
        caps: Mapping[Rung, int] = CAPS,
        screen_hw: tuple[int, int] | None = None,
        clock: Clock | None = None,
        log: FaultLog | None = None,
        on_close: Callable[[], Any] | None = None,
        recovery: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = dialect.name
        self.actions: frozenset[ActionType] = getattr(dialect, "actions", frozenset(ActionType))
        self.url = url
        self.dialect = dialect
        self.settle = settle
        self.timeout_s = timeout_s
        self.report = StepReport("nothing")
        self._restore = restore
        self._on_close = on_close
        self._clock = clock or SystemClock()
        self._driver: Any = None
        self._task: Task | None = None
        self.goal = ""
        self._shown: np.ndarray | None = None  # the screenshot that the agent saw last
        self._fresh: np.ndarray | None = None  # settled, not yet observed
        self._playing = False  # the agent may have acted, so the screen may be its doing
        self._notes: set[str] = set()
        self._forbidden = ""  # the screen that forbids screenshots
        given = dict(repairs or {})
        self._before_session = given.pop(Rung.NEW_SESSION, None)
        beyond = {rung: self._dropping_session(repair) for rung, repair in given.items()}
        self.recovery = Recovery(
            {Rung.NEW_SESSION: self._new_session, **beyond},
            device=self.name,
            caps=caps,
            clock=self._clock,
            log=log,
            **(recovery or {}),
        )
        self.screen_hw = screen_hw or self.recovery.reset(self._measure)

    @property
    def faults(self) -> FaultLog:
        """The faults so far, and what was done about each."""
        return self.recovery.log

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Brings the device into the task's initial state, climbing the whole ladder if necessary.

        Raises:
            TaskRefused, AppRefused: the device works but cannot begin this task.
            Quarantined: the device could not be repaired and has been given up.
        """
        self._task = task
        self._playing, self._forbidden = False, ""
        works = self._works if isinstance(self.dialect, Proves) else None
        observation = self.recovery.reset(lambda: self._begin(task, seed), works=works)
        self._playing = True
        return observation

    def execute(self, action: Action) -> None:
        """Executes one action and waits for the screen to settle; `report` says how it went.

        Raises:
            EpisodeError: `reset` was not called.
            DeviceFault: the episode cannot continue.
        """
        if self._task is None:
            raise EpisodeError("the device has no episode yet; call reset(task, seed=...) first.")
        self.report = StepReport("nothing")
        self._notes = set()
        if action.type is ActionType.ANSWER and isinstance(self.dialect, Listens):
            self.dialect.answered(action.text)
        if action.ends_episode or action.type is ActionType.ANSWER:
            return
        before = self._shown
        faults = self.faults.kinds.total()
        start = self._clock.now()
        sent = self.recovery.act(
            lambda: self._send(action),
            lambda: before is not None and same_screen(before, self._take(), self.settle),
        )
        act_s = self._clock.now() - start
        settled = self._settled_somehow()
        faults = self.faults.kinds.total() - faults
        if sent == "refused":
            self._notes.add("refused")
        if isinstance(self.dialect, Remarks):
            self._notes |= set(self.dialect.remarks())
        self.report = StepReport(
            "nothing" if sent == "refused" else sent,
            settled.wait_s,
            settled.polls,
            settled.timed_out,
            faults,
            act_s,
            tuple(sorted(self._notes)),
        )

    def observe(self) -> Observation:
        """What the device currently shows."""
        if self._fresh is None and self._playing:
            self._settled_somehow()
        observation = self.recovery.read(self._look)
        if observation.unread and "unread" not in self.report.notes:
            self.report = dataclasses.replace(self.report, notes=(*self.report.notes, "unread"))
        return observation

    def ask(self, question: Callable[[Any], T]) -> T:
        """Calls `question` with the driver; it may only read, since it is called again after gentle repairs.

        Raises:
            DeviceFault: there was no answer.
        """
        return self.recovery.read(lambda: question(self._connected()))

    def close(self) -> None:
        """Ends the session."""
        self._end_session()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _end_session(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            with contextlib.suppress(Exception):  # the server, or the session, may be gone
                driver.quit()

    def _measure(self) -> tuple[int, int]:
        height, width = self.dialect.screenshot(self._connected()).shape[:2]
        return height, width

    def _begin(self, task: Task, seed: int) -> Observation:
        if self._restore is not None:
            self._end_session()  # the session's helpers on the phone do not survive restoring
            self._restore(task, seed)
        self.goal = self.dialect.reset(self._connected(), task, seed) or task.goal
        self._shown = None
        self._settled()
        return self._look()

    def _connected(self) -> Any:
        if self._driver is None:
            self._driver = connect(self.url, self.dialect.capabilities(), timeout_s=self.timeout_s)
        return self._driver

    def _new_session(self) -> None:
        self._end_session()
        if self._before_session is not None:
            self._before_session()
        self._connected()

    def _dropping_session(self, repair: Callable[[], Any]) -> Callable[[], None]:
        def dropping() -> None:
            self._end_session()
            repair()

        return dropping

    def _works(self) -> None:
        """Raises a fault unless a new session can show something that has nothing to do with any task."""
        self._new_session()
        driver = self._connected()
        assert isinstance(self.dialect, Proves)
        self.dialect.probe(driver)
        if not self.dialect.screenshot(driver).any():
            raise ScreenshotBlack("the screenshot is black")

    def _take(self) -> np.ndarray:
        screenshot = self.dialect.screenshot(self._connected())
        shape = screenshot.shape[:2]
        if shape == self.screen_hw[::-1] and shape != self.screen_hw:
            self._notes.add("rotated")  # an app may rotate the screen; taps are fractions of the rotated one
        elif shape != self.screen_hw:
            raise WrongScreenSize(f"the screenshot is {shape}, but the screen is {self.screen_hw}")
        return screenshot

    def _settled(self) -> Settled:
        if self._forbidden and self._in_front() == self._forbidden:
            return self._without()
        self._forbidden = ""
        try:
            settled = settle(self._take, self.settle, self._clock)
        except Exception as error:
            fault = classify(error)
            # The app itself forbids screenshots, so asking again would not help.
            if self._playing and isinstance(fault, ScreenshotFailed) and "secure" in str(error).lower():
                return self._without()
            raise
        for _ in range(_BLACK_LOOKS):
            if settled.screenshot.any():
                break
            if isinstance(self.dialect, Proves):
                self.dialect.wake(self._connected())
            self._clock.sleep(self.settle.poll_s)
            settled = dataclasses.replace(settled, screenshot=self._take(), polls=settled.polls + 1)
        else:
            # Black even after waking. The agent may have opened a black app, if Android says which app it is.
            real = self._playing or getattr(self.dialect, "never_sleeps", False)
            if not (real and self._in_front()):
                raise ScreenshotBlack("the screenshot is black")
            self._notes.add("black")
        self._fresh = settled.screenshot
        return settled

    def _settled_somehow(self) -> Settled:
        """As `_settled`, with repairs; an app that forbids screenshots gives a black screen, not a fault."""
        try:
            return self.recovery.read(self._settled)
        except ScreenshotFailed:
            if not (self._playing and self._in_front()):
                raise
            self.recovery.forgive()
            return self._without()

    def _without(self) -> Settled:
        self._forbidden = self._in_front()
        self._notes.add("no_screenshot")
        self._fresh = np.zeros((*self.screen_hw, 3), np.uint8)
        return Settled(self._fresh, 0.0, 1, False)

    def _in_front(self) -> str:
        """The foreground app and screen, as a second signal besides the screenshot; empty if unknown."""
        try:
            found = self.dialect.activity(self._connected())
        except Exception as error:
            if classify(error) is None:
                raise
            return ""
        return "" if "unknown" in found.split("/") else found

    def _look(self) -> Observation:
        assert self._task is not None
        if self._fresh is None:
            self._settled()
        screenshot = self._fresh
        assert screenshot is not None
        driver = self._connected()
        activity = self.dialect.activity(driver)
        elements = self._elements(driver)
        self._shown, self._fresh = screenshot, None
        return Observation(screenshot, self.goal, activity, elements or "[]", unread=elements is None)

    def _elements(self, driver: Any) -> str | None:
        """The elements; None if they cannot be read although the device answers, since few agents need them."""
        for _ in range(_ELEMENT_READS):
            try:
                return self.dialect.ui_elements(driver)
            except Exception as error:
                fault = classify(error)
                if not isinstance(fault, (MalformedResponse, AppNotResponding, CommandFailed)):
                    raise
                self.faults.kinds[fault.kind] += 1
                self.faults.add(FaultEvent(self.name, kind_of(fault), str(fault), "read", "left_out"))
                if isinstance(fault, AppNotResponding):  # another try would take just as long
                    break
        return None

    def _send(self, action: Action) -> None:
        driver, dialect = self._connected(), self.dialect
        match action.type:
            case ActionType.DUAL_POINT if action.is_tap:
                dialect.tap(driver, self._pixel(action.touch_yx))
            case ActionType.DUAL_POINT:
                dialect.swipe(driver, self._pixel(action.touch_yx), self._pixel(action.lift_yx))
            case ActionType.LONG_PRESS:
                dialect.long_press(driver, self._pixel(action.touch_yx))
            case ActionType.DOUBLE_TAP:
                dialect.double_tap(driver, self._pixel(action.touch_yx))
            case ActionType.DRAG:
                dialect.drag(driver, self._pixel(action.touch_yx), self._pixel(action.lift_yx))
            case ActionType.TYPE:
                dialect.type_text(driver, action.text)
            case ActionType.OPEN_APP:
                dialect.open_app(driver, action.text)
            case (
                ActionType.PRESS_BACK
                | ActionType.PRESS_HOME
                | ActionType.PRESS_ENTER
                | ActionType.RECENT_APPS
            ):
                dialect.press(driver, _KEYS[action.type])
            case _:  # WAIT: settling follows anyway
                pass

    def _pixel(self, point: tuple[float, float]) -> Pixel:
        (y, x) = point
        height, width = self.screen_hw if self._shown is None else self._shown.shape[:2]
        return min(int(y * height), height - 1), min(int(x * width), width - 1)


def connect(url: str, capabilities: Mapping[str, Any], *, timeout_s: float) -> Any:
    """Opens a session; the HTTP client never retries a request by itself.

    Raises:
        ModuleNotFoundError: the Appium client is not installed; the message says how to get it.
    """
    try:
        from appium import webdriver
        from appium.options.common import AppiumOptions
        from appium.webdriver.appium_connection import AppiumConnection
        from appium.webdriver.client_config import AppiumClientConfig
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the Appium client is not installed; pip install 'digiq[appium]'."
        ) from None
    config = AppiumClientConfig(
        url,
        timeout=timeout_s,  # type: ignore[arg-type]  # urllib3 takes fractions of a second
        init_args_for_pool_manager={"init_args_for_pool_manager": {"retries": False}},
    )
    # The client stores the key that identifies a session request on the connection's class. Threads would overwrite
    # each other's key, and two devices would get the same session. A class per connection prevents that.
    connection = type("Connection", (AppiumConnection,), {"extra_headers": {}})(client_config=config)
    connection.add_command("executeCdpCommand", "POST", "/session/$sessionId/goog/cdp/execute")
    options = AppiumOptions().load_capabilities(dict(capabilities))
    return webdriver.Remote(connection, options=options)


def command(driver: Any, name: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """Runs one command of the protocol and returns its value.

    The client takes an unreadable answer for success; this function does not.

    Raises:
        MalformedResponse: the answer does not follow the protocol.
    """
    answer = driver.execute(name, dict(parameters or {}))
    value = answer.get("value") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or "status" in answer:  # the client adds it if the answer was not JSON
        raise MalformedResponse(f"{name} was answered with {str(value)[:80]!r}")
    return value


def extension(driver: Any, script: str, **arguments: Any) -> Any:
    """Runs an extension command such as `mobile: pressKey`; see `command`."""
    return command(driver, "w3cExecuteScript", {"script": script, "args": [arguments]})


def decode_screenshot(value: Any) -> np.ndarray:
    """The uint8[H, W, 3] screenshot of a base64 PNG.

    Raises:
        ScreenshotFailed: the value is empty.
        MalformedResponse: it is not a PNG.
    """
    from PIL import Image

    if not value:
        raise ScreenshotFailed("the screenshot is empty")
    try:
        with Image.open(io.BytesIO(base64.b64decode(value, validate=True))) as image:
            return np.asarray(image.convert("RGB"))
    except (binascii.Error, OSError, TypeError, ValueError, SyntaxError):
        raise MalformedResponse(f"the screenshot is not a PNG: {str(value)[:40]!r}") from None
