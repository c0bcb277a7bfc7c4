"""MiniWoB++ in a browser.

`MiniWoB` serves the pages, reads their goals and judges them; `host` opens browsers on them; `scripts` has scripted
players.
"""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path
from typing import Any

from android_env.appium.chromium import script
from android_env.devices import Verdict
from android_env.errors import SetupError, TaskError
from android_env.faults import CommandFailed
from android_env.page_server import PageServer
from android_env.tasks.task import Task

READY_CAP_S = 10.0
"""How long a page may take until its problem is ready, seconds."""

_PAGE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

# The seed is in the URL, so that a page that is reopened (by back, or from home) restarts the same problem. Pages
# have their own time limit; the longest timeout that browsers support is 24 days. Images that appear only on a touched
# icon are preloaded: while one loads, the icon has no width, and the tap would land on its neighbour.
_HEAD = """
<meta name="viewport" content="width=device-width">
<style>#reward-display, #click-canvas, #sync-task-cover { display: none !important }</style>
<script>
addEventListener('load', async () => {
  const rules = [...document.styleSheets].flatMap(sheet => [...sheet.cssRules]);
  window.digiqImages = rules.flatMap(rule => [...rule.cssText.matchAll(/url\\("([^"]+)"\\)/g)].map(found => {
    const image = new Image();
    image.src = new URL(found[1], rule.parentStyleSheet.href || location.href);
    return image;
  }));
  await Promise.allSettled(digiqImages.map(image => image.decode()));
  await new Promise(done => setTimeout(done));  // the page's own handler of this event comes after this one
  core.EPISODE_MAX_TIME = 2 ** 31 - 1;
  Math.seedrandom(core.QueryString.seed);
  core.startEpisodeReal();
  window.digiqStarted = true;
});
</script>
"""

_HOME = """<!DOCTYPE html>
<html><head><title>Home</title><meta name="viewport" content="width=device-width">
<style>
body { margin: 0; background: #dfe6f0; font: 12px Arial; text-align: center }
a { display: inline-block; margin-top: 60px; padding: 24px 16px; border-radius: 16px; background: #3367d6; color: #fff;
  text-decoration: none }
</style></head><body><a hidden>Task</a><script>
addEventListener('pageshow', () => {
  const task = sessionStorage.task, link = document.querySelector('a');
  link.hidden = !task;
  if (task) link.href = task;
});
</script></body></html>
"""

_GOAL = """
if (!window.digiqStarted || !WOB_TASK_READY) return null;
const said = core.getUtterance();
return typeof said === 'string' ? said : said.utterance;
"""

_REWARD = "return window.WOB_DONE_GLOBAL ? WOB_RAW_REWARD_GLOBAL : null"


class MiniWoB:
    """The pages of the `miniwob` wheel, with a server of their own; implements `chromium.Pages`.

    The home page links to the running task. A page's reward, without its deduction for time, is the true outcome: 1 is
    success, and any other final reward is failure.

    Raises:
        SetupError: the `miniwob` wheel is not installed.
    """

    def __init__(self) -> None:
        self._root = html_folder()
        self._server = PageServer(self._root, pages={"/": _HOME}, head=_HEAD)
        self.home = f"{self._server.url}/"

    def url(self, task: Task, seed: int) -> str:
        """URL at which the task begins.

        Raises:
            TaskError: the task belongs to another family, or names no page of MiniWoB++.
        """
        page = task.params.get("page", "")
        if task.family != "miniwob":
            raise TaskError(
                f"task {task.task_id!r} is of family {task.family!r}; a browser plays 'miniwob' tasks only."
            )
        if not _PAGE.fullmatch(page) or not (self._root / "miniwob" / f"{page}.html").is_file():
            raise TaskError(
                f"task {task.task_id!r}: MiniWoB++ has no page {page!r}; see {self._root}/miniwob."
            )
        return f"{self._server.url}/miniwob/{page}.html?seed={int(seed)}"

    def goal(self, driver: Any) -> str:
        """The page's utterance.

        Raises:
            CommandFailed: the page does not become ready.
        """
        end = time.monotonic() + READY_CAP_S
        while True:
            said = script(driver, _GOAL)
            if isinstance(said, str) and said:
                return said
            if time.monotonic() > end:
                raise CommandFailed(f"the MiniWoB++ page gives {said!r} instead of its instruction")
            time.sleep(0.05)

    def verdict(self, driver: Any) -> Verdict | None:
        """Success or failure by the page's reward; None while the problem runs or another page is open."""
        reward = script(driver, _REWARD)
        if reward is None:
            return None
        return "success" if reward >= 1 else "failure"

    def close(self) -> None:
        """Stops serving."""
        self._server.close()


def page_names() -> list[str]:
    """Every page of the wheel that is a problem, in order.

    Raises:
        SetupError: the wheel is not installed.
    """
    return sorted(page.stem for page in (html_folder() / "miniwob").glob("*.html"))


def html_folder() -> Path:
    """Where the wheel keeps its pages.

    Raises:
        SetupError: it is not installed.
    """
    found = importlib.util.find_spec(
        "miniwob"
    )  # found, not imported: an import would load its own browser driver
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "html" / "miniwob").is_dir():
            return Path(place) / "html"
    raise SetupError("the MiniWoB++ pages are not installed; pip install 'digiq[miniwob]'.")
