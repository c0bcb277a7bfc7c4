"""The Chromium dialect: mobile web pages in a browser that pretends to be a phone.

Fingers and keys are W3C actions. A browser has no home screen, so home is a page; back never leaves it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from android_env.appium.device import Key, Pixel, command, decode_screenshot
from android_env.appium.fingers import DOWN, UP, finger, move, pause
from android_env.appium.server import free_port
from android_env.appium.settle import SettleConfig
from android_env.devices import Verdict
from android_env.errors import SetupError
from android_env.faults import BrowserGone, MalformedResponse
from android_env.tasks.task import Task

TAP_MS = 50
"""How long a tap stays down; Chromium's long press begins at 500."""
LONG_PRESS_MS = 1000
SWIPE_MS = 160
"""How long a swipe's way takes."""
REST_MS = 100
"""How long a swipe rests before it lifts, so that nothing runs on (a fling)."""
SWIPE_MOVES = 8
ENTER = "\ue007"
"""The enter key in W3C actions."""

SETTLE = SettleConfig(poll_s=0.05, stable_polls=1, cap_s=3.0, status_bar=0.0)
"""Pages answer at once, and there is no status bar."""


class Pages(Protocol):
    """Where tasks are pages."""

    home: str
    """URL of the home page."""

    def url(self, task: Task, seed: int) -> str:
        """Where the task begins; equal seeds give equal pages, whenever they are opened.

        Raises:
            TaskError: the task has no such page.
        """
        ...

    def goal(self, driver: Any) -> str:
        """What the open page asks for; waits until it stands."""
        ...

    def verdict(self, driver: Any) -> Verdict | None:
        """Whether the open page has ended the episode, and how."""
        ...


@dataclass(frozen=True)
class Viewport:
    """The pretended phone's screen."""

    height: int = 267
    """CSS pixels."""
    width: int = 160
    pixel_ratio: float = 1.2
    """Pixels of a screenshot for each CSS pixel."""

    @property
    def screen_hw(self) -> tuple[int, int]:
        """Height and width of the screenshots, pixels."""
        return int(self.height * self.pixel_ratio), int(self.width * self.pixel_ratio)


PHONE = Viewport()
"""As wide as a MiniWoB++ page, and drawn at 192 × 320 pixels."""


class Chromium:
    """How a browser is spoken to; one for each device, since it remembers the browser that the episode runs in.

    Args:
        pages: where tasks are.
        viewport: the screen.
        programs: paths of the browser and of its `chromedriver`; None looks for them on PATH.
        new_command_timeout_s: how long the agent may think before the server ends the session, seconds.

    Raises:
        SetupError: the browser or its driver is not installed.
    """

    name = "chromium"

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
        self._session: str | None = None  # the one in which the episode began

    def capabilities(self) -> dict[str, Any]:
        view = self.viewport
        metrics = {"height": view.height, "width": view.width, "pixelRatio": view.pixel_ratio}
        return {
            "platformName": "linux",
            "browserName": "chrome",
            "unhandledPromptBehavior": "dismiss",
            "appium:automationName": "Chromium",
            "appium:executable": self.driver,
            # Starting on a port, the server first kills whichever chromedriver was started for the same one.
            "appium:chromedriverPort": free_port(),
            "appium:autodownloadEnabled": False,
            "appium:newCommandTimeout": self.new_command_timeout_s,
            "goog:chromeOptions": {
                "binary": self.binary,
                # Chromium's own sandbox does not run as root, which containers often are.
                "args": [*ARGUMENTS, *(["--no-sandbox"] if _is_root() else [])],
                "mobileEmulation": {"deviceMetrics": {**metrics, "touch": True, "mobile": True}},
            },
        }

    def reset(self, driver: Any, task: Task, seed: int) -> str:
        """Opens the home page, forgets what pages have stored, and opens the task; returns what it asks for."""
        url = self.pages.url(task, seed)
        self._session = driver.session_id
        self._open(driver, self.pages.home)
        command(driver, "deleteAllCookies")
        script(
            driver, "localStorage.clear(); sessionStorage.clear(); sessionStorage.task = arguments[0]", url
        )
        self._open(driver, url)
        return self.pages.goal(driver)

    def probe(self, driver: Any) -> None:
        self._session = driver.session_id
        self._open(driver, self.pages.home)

    def wake(self, driver: Any) -> None:
        """A browser's display never sleeps."""

    def verdict(self, driver: Any) -> Verdict | None:
        self._same_browser(driver)
        return self.pages.verdict(driver)

    def tap(self, driver: Any, at: Pixel) -> None:
        self._finger(driver, self._move(at), DOWN, pause(TAP_MS), UP)

    def long_press(self, driver: Any, at: Pixel) -> None:
        self._finger(driver, self._move(at), DOWN, pause(LONG_PRESS_MS), UP)

    def swipe(self, driver: Any, start: Pixel, end: Pixel) -> None:
        (y0, x0), (y1, x1) = start, end
        shares = [step / SWIPE_MOVES for step in range(1, SWIPE_MOVES + 1)]
        way = [self._move((y0 + (y1 - y0) * s, x0 + (x1 - x0) * s), SWIPE_MS // SWIPE_MOVES) for s in shares]
        self._finger(driver, self._move(start), DOWN, *way, pause(REST_MS), UP)

    def type_text(self, driver: Any, text: str) -> None:
        self._keys(driver, plain(text))

    def press(self, driver: Any, key: Key) -> None:
        self._same_browser(driver)
        if key == "enter":
            self._keys(driver, ENTER)
        elif key == "home":
            self._open(driver, self.pages.home)
        elif command(driver, "getCurrentUrl") != self.pages.home:
            command(driver, "goBack")

    def open_app(self, driver: Any, name: str) -> None:
        """There are no apps: opens the home page."""
        self.press(driver, "home")

    def screenshot(self, driver: Any) -> np.ndarray:
        self._same_browser(driver)
        return decode_screenshot(command(driver, "screenshot"))

    def activity(self, driver: Any) -> str:
        """The page's path."""
        return f"chromium/{str(script(driver, 'return location.pathname')).lstrip('/') or 'home'}"

    def ui_elements(self, driver: Any) -> str:
        """The visible elements that have a text of their own or react to a tap, as JSON."""
        found = script(driver, ELEMENTS)
        if not isinstance(found, list):
            raise MalformedResponse(f"the page's elements are {str(found)[:60]!r}")
        return json.dumps(found, separators=(",", ":"), ensure_ascii=False)

    def _same_browser(self, driver: Any) -> None:
        # A new session is a new browser: what the episode did is gone, and to go on would be another episode.
        if self._session not in (None, driver.session_id):
            raise BrowserGone("the browser was started anew in the middle of the episode")

    def _open(self, driver: Any, url: str) -> None:
        command(driver, "get", {"url": url})

    def _move(self, to: tuple[float, float], ms: int = 0) -> dict[str, Any]:
        y, x = (round(value / self.viewport.pixel_ratio) for value in to)  # W3C counts CSS pixels
        return move((min(y, self.viewport.height - 1), min(x, self.viewport.width - 1)), ms)

    def _finger(self, driver: Any, *steps: Mapping[str, Any]) -> None:
        self._same_browser(driver)
        finger(driver, *steps)

    def _keys(self, driver: Any, characters: str) -> None:
        self._same_browser(driver)
        steps = [{"type": kind, "value": c} for c in characters for kind in ("keyDown", "keyUp")]
        if steps:
            command(driver, "actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})


ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-crash-reporter",
    "--disable-background-networking",
)
"""Of the browser's command line."""

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


def script(driver: Any, source: str, *arguments: Any) -> Any:
    """Runs JavaScript in the open page and returns its value."""
    return command(driver, "w3cExecuteScript", {"script": source, "args": list(arguments)})


def find_browser() -> tuple[str, str]:
    """The paths of Chromium, or Chrome, and of `chromedriver`, from PATH.

    Raises:
        SetupError: one of them is not there.
    """
    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    browser, driver = next(filter(None, browsers), None), shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "chromedriver" if browser else "chromium"
        raise SetupError(f"there is no {missing} on PATH; run 'make appium', or install it.")
    return browser, driver


def plain(text: str) -> str:
    """What of a text can be typed: line breaks and tabs, which would press keys, become spaces; W3C's key codes go."""
    return re.sub(
        r"[\ue000-\uf8ff\x00-\x08\x0e-\x1f\x7f]", "", re.sub(r"[\t\n\v\f\r\x85\u2028\u2029]+", " ", text)
    )


def _is_root() -> bool:
    return getattr(os, "geteuid", lambda: 1)() == 0
