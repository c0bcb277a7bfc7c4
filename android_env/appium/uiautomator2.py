"""The UiAutomator2 dialect: Android emulators and phones.

Fingers are W3C actions. A tap is too short to be a long press, and a swipe moves at once, so it is never one either.
A swipe rests before it lifts; this prevents a fling, and equal swipes scroll equally far.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from android_env.appium.device import Key, Pixel, command, decode_screenshot, extension
from android_env.appium.fingers import DOWN, UP, finger, move, pause
from android_env.errors import TaskError
from android_env.faults import AppRefused, CommandFailed, MalformedResponse, classify
from android_env.tasks.task import Task

TAP_MS = 60
"""How long a tap stays down, ms; Android's long press begins at 400."""
LONG_PRESS_MS = 1000
SWIPE_MS = 300
"""How long a swipe moves, ms."""
REST_MS = 200
"""How long a swipe rests before it lifts, ms; Android considers a finger stopped after 40."""
SWIPE_MOVES = 10
DOUBLE_TAP_MS = 100
"""Pause between the two taps, ms; Android requires 40 to 300."""

_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")
"""The package names that are allowed. The driver passes them to the phone's shell, so nothing else may pass."""
KEYCODES: Mapping[Key, int] = {"home": 3, "back": 4, "enter": 66, "recents": 187}
WAKEUP = 224
"""The key code that switches the display on, and does nothing if it is on already."""
HELPERS = ("io.appium.settings", "io.appium.uiautomator2.server", "io.appium.uiautomator2.server.test")
"""Appium's own apps, which a session installs on the phone if they are missing."""
TERMINATE_MS = 5000
"""How long an app may take to end, ms. With the driver's default of 500 ms, slow apps cause an error."""
APPS: Mapping[str, str] = {
    "browser": "com.android.chrome",
    "calculator": "com.google.android.calculator",
    "calendar": "com.google.android.calendar",
    "camera": "com.android.camera2",
    "chrome": "com.android.chrome",
    "clock": "com.google.android.deskclock",
    "contacts": "com.google.android.contacts",
    "dialer": "com.google.android.dialer",
    "files": "com.google.android.documentsui",
    "gmail": "com.google.android.gm",
    "maps": "com.google.android.apps.maps",
    "messages": "com.google.android.apps.messaging",
    "phone": "com.google.android.dialer",
    "photos": "com.google.android.apps.photos",
    "play store": "com.android.vending",
    "settings": "com.android.settings",
    "youtube": "com.google.android.youtube",
}
"""Packages on Google's emulator images, by the names under their icons. Other apps are found by the last part of their
package."""


@dataclass(frozen=True)
class UiAutomator2:
    """The dialect of an Android device.

    Concurrent sessions each need their own `udid` and ports; `numbered` assigns the ports.

    Raises:
        ValueError: two of the ports are the same.
    """

    udid: str
    """The name in `adb devices`, for example `emulator-5554`."""
    system_port: int = 8200
    """The port on this machine through which the helper on the phone is reached."""
    mjpeg_port: int = 9200
    chromedriver_port: int = 9515
    new_command_timeout_s: int = 3600
    """How long the agent may think before the server ends the session, seconds; 0: no limit."""
    wait_for_idle_ms: int = 0
    """How long the helper itself waits for an idle screen, ms; settling does that better."""
    capabilities_besides: Mapping[str, Any] = field(default_factory=dict)
    """Further capabilities, for example `{"appium:adbPort": 5038}`; they take precedence over this class's own."""
    name: str = "android"
    apps: Mapping[str, str] = field(default_factory=dict)
    """Packages by app name, in lower case; they take precedence over `APPS`."""

    def __post_init__(self) -> None:
        if len({self.system_port, self.mjpeg_port, self.chromedriver_port}) < 3:
            raise ValueError(f"{self.udid}: system_port, mjpeg_port and chromedriver_port must differ.")

    @classmethod
    def numbered(cls, index: int, udid: str, **fields: Any) -> UiAutomator2:
        """The dialect of the device with this index, from 0 to 99; no two indices share a port.

        Raises:
            ValueError: the index is out of that range.
        """
        if not 0 <= index < 100:
            raise ValueError(f"device index {index} is not in 0..99; the ports of two devices would clash.")
        ports = {
            "system_port": 8200 + index,
            "mjpeg_port": 9200 + index,
            "chromedriver_port": 9515 + index,
        }
        return cls(udid, **{**ports, **fields})

    def capabilities(self) -> dict[str, Any]:
        return {
            "platformName": "Android",
            "appium:automationName": "UiAutomator2",
            "appium:udid": self.udid,
            "appium:systemPort": self.system_port,
            "appium:mjpegServerPort": self.mjpeg_port,
            "appium:chromedriverPort": self.chromedriver_port,
            "appium:newCommandTimeout": self.new_command_timeout_s,
            "appium:settings[waitForIdleTimeout]": self.wait_for_idle_ms,
            # adb's server is shared by everyone on this machine.
            "appium:suppressKillServer": True,
            "appium:noReset": True,
            "appium:disableWindowAnimation": True,
            "appium:skipLogcatCapture": True,
            **self.capabilities_besides,
        }

    def reset(self, driver: Any, task: Task, seed: int) -> None:
        """Goes to the home screen; for a task with a `package` parameter, then starts that app afresh.

        Raises:
            TaskError: that parameter is not a package name.
        """
        package = task.params.get("package")
        if package and not _PACKAGE.fullmatch(package):
            raise TaskError(
                f"task {task.task_id!r}: package {package!r} is not a package name such as com.android.settings."
            )
        self.press(driver, "home")
        if package:
            extension(driver, "mobile: terminateApp", appId=package, timeout=TERMINATE_MS)
            extension(driver, "mobile: activateApp", appId=package)

    def probe(self, driver: Any) -> None:
        self.press(driver, "home")

    def wake(self, driver: Any) -> None:
        extension(driver, "mobile: pressKey", keycode=WAKEUP)

    def tap(self, driver: Any, at: Pixel) -> None:
        finger(driver, move(at), DOWN, pause(TAP_MS), UP)

    def long_press(self, driver: Any, at: Pixel) -> None:
        finger(driver, move(at), DOWN, pause(LONG_PRESS_MS), UP)

    def swipe(self, driver: Any, start: Pixel, end: Pixel) -> None:
        finger(driver, move(start), DOWN, *_way(start, end), pause(REST_MS), UP)

    def double_tap(self, driver: Any, at: Pixel) -> None:
        tap = (DOWN, pause(TAP_MS), UP)
        finger(driver, move(at), *tap, pause(DOUBLE_TAP_MS), *tap)

    def drag(self, driver: Any, start: Pixel, end: Pixel) -> None:
        finger(driver, move(start), DOWN, pause(LONG_PRESS_MS), *_way(start, end), pause(REST_MS), UP)

    def type_text(self, driver: Any, text: str) -> None:
        # A line break would press enter.
        extension(driver, "mobile: type", text=" ".join(text.splitlines()))

    def press(self, driver: Any, key: Key) -> None:
        extension(driver, "mobile: pressKey", keycode=KEYCODES[key])

    def open_app(self, driver: Any, name: str) -> None:
        """Opens an app by its package or its name: from `apps`, from `APPS`, or the last part of an installed package.

        Raises:
            AppRefused: the phone has no such app.
        """
        extension(driver, "mobile: activateApp", appId=self.package(driver, name))

    def package(self, driver: Any, name: str) -> str:
        """The package of the app with this name.

        Raises:
            AppRefused: no installed app has this name.
        """
        wanted = " ".join(name.split()).lower()
        if _PACKAGE.fullmatch(name.strip()):
            return name.strip()
        known = {**APPS, **self.apps}.get(wanted)
        if wanted in self.apps:
            return self.apps[wanted]
        try:
            listed = extension(driver, "mobile: listApps")
        except Exception as error:
            if not isinstance(classify(error), CommandFailed):
                raise
            listed = [known] if known else []  # older drivers cannot list apps; the map's entry is then tried
        installed = sorted(map(str, listed)) if isinstance(listed, (dict, list)) else []
        if known in installed:
            return str(known)
        short = wanted.replace(" ", "")
        found = [p for p in installed if p.rpartition(".")[2].lower() == short and _PACKAGE.fullmatch(p)]
        if not found:
            raise AppRefused(f"no installed app is called {name!r}", begun=False)
        return min(found, key=len)

    def screenshot(self, driver: Any) -> np.ndarray:
        return decode_screenshot(command(driver, "screenshot"))

    def activity(self, driver: Any) -> str:
        """`package/activity` in the foreground."""
        names = (
            extension(driver, f"mobile: getCurrent{what}") or "unknown" for what in ("Package", "Activity")
        )
        return "/".join(map(str, names))

    def ui_elements(self, driver: Any) -> str:
        """The visible elements that have a text, a description or react to a tap, as JSON."""
        size = re.fullmatch(r"(\d+)x(\d+)", str(driver.caps.get("deviceScreenSize")))
        screen_hw = (int(size[2]), int(size[1])) if size else None
        return elements_of(command(driver, "getPageSource"), screen_hw)


def _way(start: Pixel, end: Pixel) -> list[dict[str, Any]]:
    """The finger's moves from one pixel to another."""
    shares = [step / SWIPE_MOVES for step in range(1, SWIPE_MOVES + 1)]
    (y0, x0), (y1, x1) = start, end
    return [
        move((round(y0 + (y1 - y0) * s), round(x0 + (x1 - x0) * s)), SWIPE_MS // SWIPE_MOVES) for s in shares
    ]


def elements_of(source: Any, screen_hw: tuple[int, int] | None = None) -> str:
    """The elements of a UiAutomator2 page source: a JSON list of objects with `text`, `role`, `id` and `bounds`.

    `bounds` are top, left, height and width as fractions of the screen; `role` is the last part of the class name.

    Args:
        source: the XML.
        screen_hw: the screen's size, pixels; None takes the source's own size, which may exclude the system bars.

    Raises:
        MalformedResponse: it is not a page source.
    """
    try:
        root = ElementTree.fromstring(_NO_XML.sub("", source).encode())
        size = screen_hw or (float(root.attrib["height"]), float(root.attrib["width"]))
        if screen_hw and root.get("rotation") in ("1", "3"):
            size = (min(screen_hw), max(screen_hw))
        found = [_element(node, *size) for node in root.iter() if "bounds" in node.attrib and _counts(node)]
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, ElementTree.ParseError):
        raise MalformedResponse(f"the page source cannot be read: {str(source)[:60]!r}") from None
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


_NO_XML = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]"
    r"|&#(?:[0-8]|1[124-9]|2\d|3[01]|x0*(?:[0-8bcefBCEF]|1[0-9a-fA-F])|5529[6-9]|55[3-9]\d\d|5[67]\d{3}"
    r"|xd[89a-f][0-9a-f]{2});",
    re.IGNORECASE,
)
"""Characters that XML 1.0 does not allow, literally or as references, but that apps put into their texts."""


def _counts(node: ElementTree.Element) -> bool:
    shown = node.get("displayed", "true") == "true"
    return shown and bool(node.get("text") or node.get("content-desc") or node.get("clickable") == "true")


def _element(node: ElementTree.Element, height: float, width: float) -> dict[str, Any]:
    x0, y0, x1, y1 = map(int, re.findall(r"-?\d+", node.attrib["bounds"]))
    bounds = (y0 / height, x0 / width, (y1 - y0) / height, (x1 - x0) / width)
    return {
        "text": node.get("text") or node.get("content-desc") or "",
        "role": node.get("class", node.tag).rpartition(".")[2],
        "id": node.get("resource-id", ""),
        "bounds": [round(value, 4) for value in bounds],
    }
