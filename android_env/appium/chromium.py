"""The Chromium dialect: mobile web pages in a browser that emulates a phone.

Fingers and keys are W3C actions. A browser has no home screen, so home is a page, which back never leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from android_env.actions import ActionType
from android_env.appium import dialogs
from android_env.appium.device import Key, Pixel, command, decode_screenshot
from android_env.appium.fingers import DOWN, UP, finger, move, pause
from android_env.appium.server import free_port
from android_env.appium.settle import SettleConfig
from android_env.devices import Verdict
from android_env.errors import SetupError
from android_env.faults import BrowserGone, MalformedResponse, ServerSlow, classify
from android_env.tasks.task import Task

TAP_MS = 50
"""How long a tap stays down, ms; Chromium's long press begins at 500."""
LONG_PRESS_MS = 1000
SWIPE_MS = 160
"""How long a swipe moves, ms."""
REST_MS = 100
"""How long a swipe rests before it lifts, ms; this prevents a fling."""
SWIPE_MOVES = 8
WINDOWS_AT_ONCE = 3
"""How many windows may close themselves, one after the other, during one read."""
DOUBLE_TAP_MS = 80
"""Pause between the two taps, ms."""
PAGE_CAP_MS = 20_000
"""How long a requested page may take to load, ms, for example at the start of an episode."""
SCRIPT_CAP_MS = 5000
"""How long a script may take, ms; it fails on a page that is busy for longer, as in an endless loop."""
ENTER = "\ue007"
"""The enter key in W3C actions."""

SETTLE = SettleConfig(poll_s=0.05, stable_polls=1, cap_s=3.0, status_bar=0.0)
"""The default for pages: they react at once, and there is no status bar."""


class Pages(Protocol):
    """A source of tasks that are web pages."""

    home: str
    """URL of the home page."""

    def url(self, task: Task, seed: int) -> str:
        """URL at which the task begins; equal seeds give equal pages, whenever they are opened.

        Raises:
            TaskError: the task has no such page.
        """
        ...

    def goal(self, driver: Any) -> str:
        """The goal that the open page states; waits until the page is ready."""
        ...

    def verdict(self, driver: Any) -> Verdict | None:
        """Whether the open page has ended the episode, and how."""
        ...


@dataclass(frozen=True)
class Viewport:
    """The emulated phone's screen."""

    height: int = 267
    """CSS pixels."""
    width: int = 160
    pixel_ratio: float = 1.2
    """Screenshot pixels per CSS pixel."""

    @property
    def screen_hw(self) -> tuple[int, int]:
        """Height and width of the screenshots, pixels."""
        return int(self.height * self.pixel_ratio), int(self.width * self.pixel_ratio)


PHONE = Viewport()
"""The default: as wide as a MiniWoB++ page, and drawn at 192 × 320 pixels."""


class Chromium:
    """The dialect of a browser. Each device needs its own, because it remembers the browser that the episode runs in.

    Args:
        pages: the source of the tasks.
        viewport: the screen.
        programs: paths of the browser and its `chromedriver`; None looks for them on PATH.
        new_command_timeout_s: how long the agent may think before the server ends the session, seconds.

    Raises:
        SetupError: the browser or its driver is not installed.
    """

    name = "chromium"
    actions = frozenset(ActionType) - {ActionType.OPEN_APP, ActionType.RECENT_APPS}
    never_sleeps = True
    """Whether a black screen is always real, since the display never switches off."""
    switches: tuple[str, ...] = ()
    """Further arguments of the browser's command line."""

    def __init__(
        self,
        pages: Pages,
        *,
        viewport: Viewport = PHONE,
        programs: tuple[str, str] | None = None,
        new_command_timeout_s: int = 3600,
    ) -> None:
        self.pages = pages
        self.viewport = viewport
        self.binary, self.driver = programs or find_browser()
        self.new_command_timeout_s = new_command_timeout_s
        self._session: str | None = None  # the session in which the episode began
        self._windows: tuple[str, ...] = ()  # in the order in which they opened; the last one is shown
        self._seen: np.ndarray | None = None  # the last screenshot, without any dialog
        self._dialog: str | None = None  # the text of the open dialog
        self._typed = ""
        self._slow = 0  # screenshots in a row that timed out
        self._notes: set[str] = set()

    def capabilities(self) -> dict[str, Any]:
        view = self.viewport
        metrics = {"height": view.height, "width": view.width, "pixelRatio": view.pixel_ratio}
        return {
            "platformName": "linux",
            "browserName": "chrome",
            # Dialogs are left to the agent, which sees them drawn and taps their buttons.
            "unhandledPromptBehavior": "ignore",
            # A page that never loads must not block the browser; code that needs a page waits for it.
            "pageLoadStrategy": "none",
            "timeouts": {"pageLoad": PAGE_CAP_MS, "script": SCRIPT_CAP_MS},
            "appium:automationName": "Chromium",
            "appium:executable": self.driver,
            # Before it starts a chromedriver on a port, the server kills any that was started for that port.
            "appium:chromedriverPort": free_port(),
            "appium:autodownloadEnabled": False,
            "appium:newCommandTimeout": self.new_command_timeout_s,
            "goog:chromeOptions": {
                "binary": self.binary,
                # Chromium's own sandbox does not work as root, which containers often run as.
                "args": [*ARGUMENTS, *self.switches, *(["--no-sandbox"] if _is_root() else [])],
                "mobileEmulation": {"deviceMetrics": {**metrics, "touch": True, "mobile": True}},
            },
        }

    def reset(self, driver: Any, task: Task, seed: int) -> str:
        """Opens the task in a browser without traces of earlier episodes; returns the goal that the page states.

        Closes windows and dialogs, and deletes everything that pages of any origin have stored: cookies, local storage,
        databases, service workers and caches.
        """
        url = self.pages.url(task, seed)
        self._forget(driver)
        self._open(driver, self.pages.home)
        script(driver, "sessionStorage.task = arguments[0]", url)
        self._open(driver, url)
        return self.pages.goal(driver)

    def _forget(self, driver: Any) -> None:
        self._session = driver.session_id
        self._seen, self._notes = None, set()
        self._close_dialogs(driver)
        self._one_window(driver)
        self._open(driver, "about:blank")  # so that no page writes while storage is cleared
        self._clear(driver)

    def probe(self, driver: Any) -> None:
        self._session = driver.session_id
        self._close_dialogs(driver)
        self._open(driver, self.pages.home)

    def remarks(self) -> tuple[str, ...]:
        notes, self._notes = tuple(self._notes), set()
        return notes

    def wake(self, driver: Any) -> None:
        """A browser's display never sleeps."""

    def verdict(self, driver: Any) -> Verdict | None:
        self._same_browser(driver)
        try:
            return None if self._dialog is not None else self.pages.verdict(driver)
        except Exception as error:
            if type(error).__name__ != "UnexpectedAlertPresentException" or not self._met(driver):
                raise
            return None

    def tap(self, driver: Any, at: Pixel) -> None:
        if self._dialog is not None:
            button = dialogs.button_at(at, self._screen_hw)
            if button is not None:
                self._answer(driver, button)
            return
        self._finger(driver, self._move(at), DOWN, pause(TAP_MS), UP)

    def long_press(self, driver: Any, at: Pixel) -> None:
        self._finger(driver, self._move(at), DOWN, pause(LONG_PRESS_MS), UP)

    def double_tap(self, driver: Any, at: Pixel) -> None:
        tap = (DOWN, pause(TAP_MS), UP)
        self._finger(driver, self._move(at), *tap, pause(DOUBLE_TAP_MS), *tap)

    def swipe(self, driver: Any, start: Pixel, end: Pixel) -> None:
        self._finger(driver, self._move(start), DOWN, *self._way(start, end), pause(REST_MS), UP)

    def drag(self, driver: Any, start: Pixel, end: Pixel) -> None:
        hold = pause(LONG_PRESS_MS)
        self._finger(driver, self._move(start), DOWN, hold, *self._way(start, end), pause(REST_MS), UP)

    def _way(self, start: Pixel, end: Pixel) -> list[dict[str, Any]]:
        (y0, x0), (y1, x1) = start, end
        shares = [step / SWIPE_MOVES for step in range(1, SWIPE_MOVES + 1)]
        return [self._move((y0 + (y1 - y0) * s, x0 + (x1 - x0) * s), SWIPE_MS // SWIPE_MOVES) for s in shares]

    def type_text(self, driver: Any, text: str) -> None:
        if self._dialog is not None:
            self._typed += plain(text)
        elif not self._pick(driver, plain(text)):
            self._keys(driver, plain(text))

    def press(self, driver: Any, key: Key) -> None:
        self._same_browser(driver)
        if self._dialog is not None or self._met(driver):
            self._answer(driver, key == "enter")
            if key in ("enter", "back"):
                return
        if key == "enter":
            self._keys(driver, ENTER)
        elif key == "home":
            self._one_window(driver)
            self._open(driver, self.pages.home)
        elif key == "back":
            self._back(driver)

    def _back(self, driver: Any) -> None:
        first = len(self._windows) > 1 and int(self._ask(driver, "return history.length") or 0) <= 1
        if first:  # as on a phone, back on a new tab's first page closes the tab
            command(driver, "close")
            self._follow(driver)
        elif command(driver, "getCurrentUrl") != self.pages.home:
            command(driver, "goBack")

    def open_app(self, driver: Any, name: str) -> None:
        """There are no apps: opens the home page."""
        self.press(driver, "home")

    def screenshot(self, driver: Any) -> np.ndarray:
        """The newest window; an open dialog, which the browser draws outside the page, is drawn on top."""
        self._same_browser(driver)
        try:
            self._follow(driver)
            # On a page in an endless loop a screenshot would block for very long; a script fails sooner.
            self._ask(driver, "return true")
            taken = self._in_window(driver, lambda: command(driver, "screenshot"))
            self._seen = shown = decode_screenshot(taken)
            self._dialog, self._slow = None, 0
            return shown
        except Exception as error:
            # Two in a row mean an endless loop in the page, not a busy machine; the page can only be left.
            self._slow = self._slow + 1 if isinstance(classify(error), ServerSlow) else 0
            if self._slow > 1:
                self._slow = 0
                self._interrupt(driver)
                told = str(getattr(error, "msg", None) or error)
                raise BrowserGone(f"the page no longer answers ({told})") from error
            if type(error).__name__ != "UnexpectedAlertPresentException" or not self._met(driver):
                raise
        below = np.full((*self._screen_hw, 3), 255, np.uint8) if self._seen is None else self._seen
        return dialogs.draw(below, self._dialog or "", self._typed)

    def activity(self, driver: Any) -> str:
        """The page's path."""
        path = None if self._dialog is not None else self._ask(driver, "return location.pathname")
        if self._dialog is not None:
            return "chromium/dialog"
        return f"chromium/{str(path).lstrip('/') or 'home'}"

    def ui_elements(self, driver: Any) -> str:
        """The visible elements that have a text of their own or react to a tap, as JSON."""
        found = None if self._dialog is not None else self._ask(driver, ELEMENTS)
        if self._dialog is not None:
            return json.dumps(dialogs.elements(self._dialog, self._screen_hw), ensure_ascii=False)
        if not isinstance(found, list):
            raise MalformedResponse(f"the page's elements cannot be read: {str(found)[:60]!r}")
        return json.dumps(found, separators=(",", ":"), ensure_ascii=False)

    def _same_browser(self, driver: Any) -> None:
        # A new session is a new browser without the episode's state; going on would be another episode.
        if self._session not in (None, driver.session_id):
            raise BrowserGone("the browser was restarted in the middle of the episode")

    @property
    def _screen_hw(self) -> tuple[int, int]:
        return self.viewport.screen_hw

    def _open(self, driver: Any, url: str) -> None:
        """Goes to a page and waits until it is loaded.

        Raises:
            ServerSlow: it does not load in time.
        """
        # Mark the page that is still open, so that it is not mistaken for the new load.
        with contextlib.suppress(Exception):
            script(driver, "window.digiqLeft = true")
        command(driver, "get", {"url": url})
        end = time.monotonic() + PAGE_CAP_MS / 1000
        while script(driver, STANDS) is not True:
            if time.monotonic() > end:
                raise ServerSlow(f"{url} did not load within {PAGE_CAP_MS / 1000:g} s")
            time.sleep(0.02)

    def _ask(self, driver: Any, source: str, *arguments: Any) -> Any:
        """A script's result; None if a dialog has intervened.

        No script runs while a page is loading; a page that does not arrive is given up, as a user would do.
        """
        self._same_browser(driver)
        try:
            try:
                found = self._in_window(driver, lambda: script(driver, source, *arguments))
            except Exception as error:
                if type(error).__name__ != "TimeoutException":
                    raise
                command(driver, "executeCdpCommand", {"cmd": "Page.stopLoading", "params": {}})
                found = script(driver, source, *arguments)
        except Exception as error:
            if type(error).__name__ != "UnexpectedAlertPresentException" or not self._met(driver):
                raise
            return None
        if found is None:  # the protocol's answer if a dialog opened while the script ran
            self._met(driver)
        return found

    def _met(self, driver: Any) -> bool:
        """Whether a dialog is open; notes one that the page has opened by itself."""
        try:
            text = str(command(driver, "w3cGetAlertText") or "")
        except Exception as error:
            if type(error).__name__ not in ("NoAlertPresentException", "NoSuchWindowException"):
                raise
            return False
        if self._dialog is None:
            self._typed = ""
            self._notes.add("dialog")
        self._dialog = text
        return True

    def _interrupt(self, driver: Any) -> None:
        """Stops the page's scripts: a browser with a busy page takes half a minute to close."""
        with contextlib.suppress(Exception):
            command(driver, "executeCdpCommand", {"cmd": "Runtime.terminateExecution", "params": {}})

    def _in_window(self, driver: Any, call: Callable[[], Any]) -> Any:
        """Makes a read-only call; if the window closes itself meanwhile, repeats it in the window below."""
        for _ in range(WINDOWS_AT_ONCE):
            try:
                return call()
            except Exception as error:
                if type(error).__name__ != "NoSuchWindowException":
                    raise
            time.sleep(0.05)  # a closing window stays listed for a moment
            self._follow(driver)
        return call()

    def _follow(self, driver: Any) -> None:
        """Switches to a new window, or back from a closed one."""
        found = command(driver, "w3cGetWindowHandles")
        if not isinstance(found, list) or not found:
            raise BrowserGone("the browser's last window was closed")
        kept = tuple(window for window in self._windows if window in found)
        new = tuple(window for window in found if window not in kept)
        if self._windows and new:
            self._notes.add("new_window")
        shown, self._windows = self._windows[-1:], (*kept, *new)
        if shown != self._windows[-1:]:
            try:
                command(driver, "switchToWindow", {"handle": self._windows[-1]})
            except Exception as error:  # it has just closed itself; the next read comes here again
                if type(error).__name__ != "NoSuchWindowException":
                    raise

    def _one_window(self, driver: Any) -> None:
        found = command(driver, "w3cGetWindowHandles")
        windows = [str(window) for window in found] if isinstance(found, list) else []
        for window in windows[1:]:
            command(driver, "switchToWindow", {"handle": window})
            command(driver, "close")
            self._close_dialogs(driver)  # a page may ask for confirmation before it is left
        if windows:
            command(driver, "switchToWindow", {"handle": windows[0]})
        self._windows = tuple(windows[:1])

    def _clear(self, driver: Any) -> None:
        for name, parameters in _CLEARING:
            command(driver, "executeCdpCommand", {"cmd": name, "params": parameters})

    def _close_dialogs(self, driver: Any) -> None:
        """Closes all dialogs, since a page may open one after another."""
        self._dialog = None
        for _ in range(20):
            try:
                command(driver, "w3cDismissAlert")
            except Exception as error:
                if type(error).__name__ in ("NoAlertPresentException", "NoSuchWindowException"):
                    return
                raise

    def _answer(self, driver: Any, accept: bool) -> None:
        if accept and self._typed:
            with contextlib.suppress(Exception):  # only a prompt takes text
                command(driver, "w3cSetAlertValue", {"text": self._typed})
        command(driver, "w3cAcceptAlert" if accept else "w3cDismissAlert")
        self._dialog, self._typed = None, ""

    def _pick(self, driver: Any, text: str) -> bool:
        """Sets a focused date, time or colour field; on a phone these open pickers and take no keys."""
        self._same_browser(driver)
        return self._ask(driver, _PICK, text) is True

    def _move(self, to: tuple[float, float], ms: int = 0) -> dict[str, Any]:
        y, x = (round(value / self.viewport.pixel_ratio) for value in to)  # W3C counts CSS pixels
        return move((min(y, self.viewport.height - 1), min(x, self.viewport.width - 1)), ms)

    def _finger(self, driver: Any, *steps: Mapping[str, Any]) -> None:
        self._same_browser(driver)
        try:
            finger(driver, *steps)
        except Exception as error:  # the action has opened a dialog
            if type(error).__name__ != "UnexpectedAlertPresentException":
                raise

    def _keys(self, driver: Any, characters: str) -> None:
        self._same_browser(driver)
        steps = [{"type": kind, "value": c} for c in characters for kind in ("keyDown", "keyUp")]
        if steps:
            try:
                command(driver, "actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})
            except Exception as error:
                if type(error).__name__ != "UnexpectedAlertPresentException":
                    raise


ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-crash-reporter",
    "--disable-background-networking",
)
"""Arguments of the browser's command line."""

ELEMENTS = """
const [width, height] = [innerWidth, innerHeight], found = [];
for (const e of document.body ? document.body.querySelectorAll('*') : []) {
  const box = e.getBoundingClientRect();
  const [top, left] = [Math.max(box.top, 0), Math.max(box.left, 0)];
  const [h, w] = [Math.min(box.bottom, height) - top, Math.min(box.right, width) - left];
  if (h <= 0 || w <= 0 || getComputedStyle(e).visibility !== 'visible') continue;
  const own = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join(' ');
  const taps = e.matches('a, button, input, textarea, select, label, [onclick], [role=button]');
  const text = (own.trim() || (e.type === 'password' ? '' : e.value) || e.alt || '').toString();
  if (!taps && !own.trim()) continue;
  const role = e.tagName.toLowerCase() + (e.tagName === 'INPUT' ? '_' + e.type : '');
  const bounds = [top / height, left / width, h / height, w / width].map(v => Math.round(v * 1e4) / 1e4);
  found.push({text: text.replace(/\\s+/g, ' ').trim().slice(0, 200), role: role, id: e.id, bounds: bounds});
}
return found;
"""


STANDS = "return !window.digiqLeft && document.readyState === 'complete'"
"""Script that asks whether the requested page has loaded."""
_CLEARING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Network.clearBrowserCookies", {}),
    ("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"}),
)
"""Commands of the browser's debugging protocol that delete what pages have stored."""
_PICK = """
const e = document.activeElement, text = arguments[0].trim();
const kinds = ['date', 'time', 'month', 'week', 'datetime-local', 'color', 'range'];
if (!e || e.tagName !== 'INPUT' || !kinds.includes(e.type) || e.disabled || e.readOnly) return false;
let value = text;
const american = text.match(/^(\\d{1,2})\\/(\\d{1,2})\\/(\\d{4})$/);
const digits = text.match(/^(\\d{2})(\\d{2})(\\d{4})$/);
if (e.type === 'date' && (american || digits)) {
  const [, month, day, year] = american || digits;
  value = `${year}-${month.padStart(2, '0')}-${day.padStart(2, '0')}`;
}
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(e, value);
e.dispatchEvent(new Event('input', {bubbles: true}));
e.dispatchEvent(new Event('change', {bubbles: true}));
return true;
"""
"""Dates are read as ISO dates, or as month/day/year, the order on an American phone."""


def script(driver: Any, source: str, *arguments: Any) -> Any:
    """Runs JavaScript in the open page and returns its value."""
    return command(driver, "w3cExecuteScript", {"script": source, "args": list(arguments)})


def find_browser() -> tuple[str, str]:
    """The paths of Chromium, or Chrome, and of `chromedriver`, from PATH.

    Raises:
        SetupError: one of them is missing.
    """
    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    browser, driver = next(filter(None, browsers), None), shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "chromedriver" if browser else "chromium"
        raise SetupError(f"{missing} is not on PATH; run 'make appium', or install it.")
    return browser, driver


def plain(text: str) -> str:
    """The text as it can be typed: line breaks and tabs, which press keys, become spaces; W3C key codes are dropped."""
    return re.sub(
        r"[\ue000-\uf8ff\x00-\x08\x0e-\x1f\x7f]", "", re.sub(r"[\t\n\v\f\r\x85\u2028\u2029]+", " ", text)
    )


def _is_root() -> bool:
    return getattr(os, "geteuid", lambda: 1)() == 0
