"""Pages and a player of one's own, named on the command line, in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from android_env.tasks import Task, save_tasks

MINE = '''
import tempfile

from android_env.actions import Action
from android_env.appium.chromium import script
from android_env.page_server import PageServer

PAGE = """<!DOCTYPE html><html><head><meta name="viewport" content="width=device-width"></head><body>
<button style="margin: 90px 20px" onclick="window.bought = true">buy</button></body></html>"""
WHERE = """const box = document.querySelector('button').getBoundingClientRect();
return [(box.top + 9) / innerHeight, (box.left + 9) / innerWidth]"""


class Shop:
    def __init__(self):
        self._server = PageServer(tempfile.mkdtemp(), pages={"/": "home", "/shop": PAGE})
        self.home = self._server.url + "/"

    def url(self, task, seed):
        return self.home + task.params["page"]

    def goal(self, driver):
        return ""

    def verdict(self, driver):
        return "success" if script(driver, "return window.bought === true") else None

    def close(self):
        self._server.close()


def buyer(device, rng):
    return Action.tap(*device.ask(lambda driver: script(driver, WHERE)))
'''


def test_pages_and_a_player_of_ones_own(installed, tmp_path):
    (tmp_path / "mine_shop.py").write_text(MINE)
    save_tasks([Task("shop/1", "buy it", "shop", 1, "test", {"page": "shop"}, 3)], tmp_path / "tasks.json")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "digiq.cli", "evaluate", "--device.name", "web", "--tasks", "tasks.json"]
    command += ["--device.web.pages", "mine_shop:Shop", "--agent.kind", "mine_shop:buyer", "--repeats", "2"]
    done = subprocess.run(
        [*command, "--batch-size", "1", "--out", "out"],
        cwd=tmp_path,
        env={"APPIUM_HOME": str(root / ".appium"), **os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["success"] == manifest["counts"]["episodes"] == 2
    assert {"code mine_shop:Shop", "code mine_shop:buyer"} <= set(manifest["inputs"])
