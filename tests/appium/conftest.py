"""A real Appium server and a real browser, shared by the tests of one process; without them the tests are skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from android_env.appium.chromium import PHONE, SETTLE, Chromium, find_browser
from android_env.appium.device import AppiumDevice
from android_env.appium.server import AppiumServer
from android_env.devices.miniwob.host import MiniWoBHost
from android_env.errors import SetupError
from android_env.faults import Rung
from android_env.page_server import PageServer
from android_env.tasks import Task


@pytest.fixture(scope="session")
def installed() -> None:
    try:
        AppiumServer()
        find_browser()
    except SetupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def server(installed: None) -> Iterator[AppiumServer]:
    with AppiumServer() as server:
        yield server


@pytest.fixture(scope="session")
def miniwob(installed: None) -> Iterator[AppiumDevice]:
    """A device that plays MiniWoB++."""
    device = MiniWoBHost().open()
    yield device
    device.close()


def group(leader: int) -> list[int]:
    """Processes of a group that are not dead, by /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == leader and state not in "ZX":
            found.append(int(entry.parent.name))
    return found


def gone(leader: int) -> bool:
    """Whether the group has ended; processes that were killed take a moment to go."""
    end = time.monotonic() + 30
    while group(leader) and time.monotonic() < end:
        time.sleep(0.05)
    return not group(leader)


class OnePage:
    """Pages with one task: `page.html` of a folder."""

    def __init__(self, url: str) -> None:
        self.home = f"{url}/home.html"
        self._url = url

    def url(self, task: Task, seed: int) -> str:
        return f"{self._url}/page.html?{seed}"

    def goal(self, driver: Any) -> str:
        return "do it"

    def verdict(self, driver: Any) -> None:
        return None


HEAD = "<!DOCTYPE html><html><head><meta name='viewport' content='width=device-width'><style>body{margin:0}</style>"
TASK = Task("web/1", "do it", "web", 1, "train")


@pytest.fixture(scope="session")
def browser(
    server: AppiumServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], AppiumDevice]]:
    """Calling it with a page's body resets a device to that page."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "home.html").write_text(f"{HEAD}</head><body style='background:#00f'>home</body></html>")
    with PageServer(folder) as pages:
        device = AppiumDevice(
            server.url,
            Chromium(OnePage(pages.url)),
            settle=SETTLE,
            screen_hw=PHONE.screen_hw,
            repairs={Rung.NEW_SESSION: server.start, Rung.LOAD_SNAPSHOT: server.start},
        )
        count = iter(range(10**6))

        def show(body: str) -> AppiumDevice:
            _write(folder / "page.html", body)
            device.reset(TASK, seed=next(count))  # a URL of its own: pages are cached
            return device

        yield show
        device.close()


def _write(path: Path, body: str) -> None:
    path.write_text(f"{HEAD}</head><body>{body}</body></html>")
