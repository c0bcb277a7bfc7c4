"""MobileGym: a phone in a browser, with tasks, and judges of its state (https://github.com/Purewhiter/mobilegym).

None of its code is included. `checkout` runs the tasks of a folder that the user names, `World` serves the simulator
that was built there, `Phone` is the dialect of a browser that shows it, and `host` opens such browsers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from android_env.actions import ActionType
from android_env.appium.chromium import Chromium, Viewport, script
from android_env.appium.device import Key
from android_env.devices import Verdict
from android_env.devices.mobilegym.checkout import READY, Checkout, Episode, Simulator
from android_env.errors import EpisodeError, SetupError
from android_env.faults import AppRefused, CommandFailed, ServerSlow
from android_env.page_server import PageServer
from android_env.tasks.task import Task

SCREEN = Viewport(height=800, width=360, pixel_ratio=0.8)
"""The simulator's layout, drawn at 288 × 640 pixels."""
CALL_CAP_S = 20.0
READY_CAP_S = 60.0
"""How long the simulator may take to start, seconds."""
POLL_S = 0.03

_CALL = """
const [source, argument] = arguments;
const answer = window.digiqAnswer = {};
(async () => {
  try {
    const made = (0, eval)('(' + source + ')');
    const value = await (typeof made === 'function' ? made(argument) : made);
    answer.value = JSON.stringify(value === undefined ? null : value);
  } catch (error) {
    answer.error = String(error);
  }
})();
"""
_ANSWER = "return window.digiqAnswer || {error: 'the page has gone'}"
KEYS: Mapping[Key, str] = {
    "back": "() => { window.__OS__.handleBack(); }",
    "home": "() => { window.__OS__.goHome(); }",
    "recents": "() => { window.__OS__.showRecents(); }",
}
_APPS = "() => (window.__SIM__.getState().os.installedApps || []).map(({id, name}) => ({id, name}))"


class InPage:
    """The simulator in the browser's open page; implements `checkout.Simulator`."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def call(self, source: str, argument: Any = None, *, cap_s: float = CALL_CAP_S) -> Any:
        """See `checkout.Simulator`. Scripts have a time limit, so long calls are polled."""
        script(self._driver, _CALL, source, argument)
        end = time.monotonic() + cap_s
        while True:
            answer = script(self._driver, _ANSWER)
            if "error" in answer:
                raise CommandFailed(f"the simulator says: {answer['error'][:200]}")
            if "value" in answer:
                return json.loads(answer["value"])
            if time.monotonic() > end:
                raise ServerSlow(f"the simulator did not answer within {cap_s:g} s")
            time.sleep(POLL_S)


class World:
    """A checkout and its simulator, which is served here unless `url` is given.

    Implements `host.ServedPages`, and what `Phone` needs.

    Args:
        checkout: the tasks and judges.
        url: where the simulator is served; if empty, the checkout's `dist`, which its `npm run build` makes, is served
            on the loopback interface.

    Raises:
        SetupError: the simulator was not built.
    """

    def __init__(self, checkout: Checkout, url: str = "") -> None:
        self.checkout = checkout
        self._server: PageServer | None = None
        if not url:
            dist = built(checkout)
            index = (dist / "index.html").read_text(encoding="utf-8")
            media = checkout.folder / "mobilegym-data"
            self._server = PageServer(dist, pages={"/": index}, folders={"cdn": media})
            url = f"{self._server.url}/"
        self.home = url

    def url(self, task: Task, seed: int) -> str:
        """All tasks begin on the same page."""
        return self.home

    def begin(self, driver: Any, task: Task, seed: int) -> Episode:
        """Waits for the simulator and sets the task up in it."""
        simulator = self.simulator(driver)
        end = time.monotonic() + READY_CAP_S
        while simulator.call(READY) is not True:
            if time.monotonic() > end:
                raise ServerSlow(f"the simulator did not start within {READY_CAP_S:g} s")
            time.sleep(POLL_S)
        return self.checkout.begin(task, seed, simulator)

    def passed(self, driver: Any, episode: Episode) -> bool:
        """The verdict of MobileGym's judge; see `Checkout.passed`."""
        return self.checkout.passed(episode, self.simulator(driver))

    def simulator(self, driver: Any) -> Simulator:
        """The simulator in the open page."""
        return InPage(driver)

    def goal(self, driver: Any) -> str:
        """Empty, since the page itself states no goal."""
        return ""

    def verdict(self, driver: Any) -> None:
        """None, since the page does not end episodes."""

    def close(self) -> None:
        """Stops serving."""
        if self._server is not None:
            self._server.close()


def built(checkout: Checkout) -> Path:
    """The folder of a checkout's built simulator.

    Raises:
        SetupError: the simulator was not built.
    """
    dist = checkout.folder / "dist"
    if not (dist / "index.html").is_file():
        raise SetupError(f"{dist} holds no simulator; run 'npm install' and 'npm run build' in the checkout.")
    return dist


class Phone(Chromium):
    """The simulator's phone: fingers and keys are the browser's; buttons are those of the simulated system.

    Args:
        world: the checkout and its simulator.
        viewport: the screen.
        programs: as in `Chromium`.
    """

    name = "mobilegym"
    actions = frozenset(ActionType)
    # Swipes are for the simulator; as a browser gesture, a swipe would go back and leave the page.
    switches = ("--overscroll-history-navigation=0",)

    def __init__(
        self, world: World, *, viewport: Viewport = SCREEN, programs: tuple[str, str] | None = None
    ) -> None:
        super().__init__(world, viewport=viewport, programs=programs)
        self.world = world
        self.episode: Episode | None = None

    def reset(self, driver: Any, task: Task, seed: int) -> str:
        """Sets the task up on a new page of a browser without traces of earlier episodes; returns the task's goal."""
        self.episode = None
        url = self.world.url(task, seed)
        self._forget(driver)
        self._open(driver, url)
        self.episode = self.world.begin(driver, task, seed)
        return self.episode.goal

    def answered(self, text: str) -> None:
        if self.episode is not None:
            self.episode.answer = text

    def passed(self, driver: Any) -> bool:
        """Whether MobileGym's judge considers the running task done.

        Raises:
            EpisodeError: no task is running.
            JudgeError: it has no answer.
        """
        self._same_browser(driver)
        if self.episode is None:
            raise EpisodeError("no episode of MobileGym is under way; call reset(task, seed=...) first.")
        if not self._here(driver):  # the agent may have followed a link out of the simulator
            return False
        return self.world.passed(driver, self.episode)

    def verdict(self, driver: Any) -> Verdict | None:
        return "success" if self.passed(driver) else None

    def press(self, driver: Any, key: Key) -> None:
        self._same_browser(driver)
        if self._dialog is not None or key == "enter":
            super().press(driver, key)
        elif not self._here(driver):
            self._notes.add("left_simulator")
            self._open(driver, self.world.home)
        else:
            self.world.simulator(driver).call(KEYS[key])

    def _here(self, driver: Any) -> bool:
        """Whether the open page is the simulator and has started."""
        return self.world.simulator(driver).call(READY) is not False

    def open_app(self, driver: Any, name: str) -> None:
        """Opens an app by its id or by the name under its icon.

        Raises:
            AppRefused: there is no app of that name.
        """
        self._same_browser(driver)
        simulator = self.world.simulator(driver)
        wanted = name.strip().casefold()
        for app in simulator.call(_APPS):
            if wanted in (str(app["id"]).casefold(), str(app["name"]).casefold()):
                simulator.call("id => { window.__OS__.openApp(id); }", app["id"])
                return
        raise AppRefused(f"the phone has no app called {name!r}", begun=False)

    def activity(self, driver: Any) -> str:
        """The foreground app and its route."""
        if self._dialog is not None:
            return f"{self.name}/dialog"
        route = self._ask(driver, "return window.__OS__?.getAppRoute?.() || null")
        return (
            f"{route['app']}{route.get('path') or '/'}"
            if isinstance(route, dict) and route.get("app")
            else "home/"
        )
