"""Devices from configuration: Android emulators through Appium, doubled; the safety list."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from android_env.actions import Action
from android_env.tasks import TaskSet, load_tasks
from android_env.testing.appium import AppiumDouble
from digiq.agents.agent import Agent
from digiq.agents.build import AgentConfig, DeviceConfig, build_agent, env_factory
from digiq.agents.devices.android import Android
from digiq.agents.rollout import plan_episodes, rollout
from digiq.config import load
from digiq.errors import ConfigError
from digiq.evaluation.evaluate import EvaluateConfig
from digiq.evaluation.evaluate import run as evaluate
from digiq.policies.base import Candidate

TASKS = load_tasks("webshop/train")
RULE = {"success_activity": "Home/*"}
RULED = TaskSet("home", tuple(dataclasses.replace(t, params={**t.params, **RULE}) for t in TASKS[:3]))


class Always:
    """A policy with one action."""

    def __init__(self, action):
        self.action = action

    def sample(self, inputs, n, rng, temperature=1.0):
        return [[Candidate(self.action, math.log(1.0))] * n for _ in inputs]


def on(fleet, **settings):
    """A device config for the fleet of this file."""
    return DeviceConfig(name="android", android=Android(fleet=str(fleet), **settings))


def test_episodes_on_a_fleet_are_judged_by_the_screen_and_use_no_more_devices_than_there_are(
    fleet, monkeypatch
):
    pytest.importorskip("appium", reason="pip install 'digiq[appium]'")
    monkeypatch.setattr("android_env.clock.SystemClock.sleep", lambda clock, seconds: None)
    with AppiumDouble() as appium:
        device = on(fleet, server=appium.url)
        make_env = env_factory(device, RULED)
        specs = plan_episodes(RULED, 5, seed=0)
        runs = list(rollout(Agent(Always(Action.home())), specs, make_env, batch_size=8))
        used = {
            s["capabilities"]["alwaysMatch"]["appium:udid"]
            for c, s in appium.commands
            if c == "session" and s
        }
        (once,) = rollout(
            build_agent(AgentConfig(kind="random"), device=device), specs[:1], make_env, batch_size=1
        )
        with pytest.raises(ConfigError, match="cannot act on device 'android'"):
            build_agent(AgentConfig(kind="oracle"), device=device)
        with pytest.raises(ConfigError, match=r"agent\.kind: 'oracle' cannot act on device 'android'"):
            EvaluateConfig(agent=AgentConfig(kind="oracle"), device=device)
    assert [run.outcome for run in runs] == ["success"] * 5
    for run in runs:
        assert [(report.sent, report.polls > 0) for report in run.reports] == [("executed", True)] * run.steps
    assert once.outcome in ("success", "truncated") and once.steps >= 1
    assert runs[0].episode.device == "android" and used == {"emulator-5650", "emulator-5652"}


def test_a_fleet_that_is_not_there_is_one_line(fleet, tmp_path):
    with pytest.raises(ConfigError, match="digiq devices start"):
        env_factory(on(tmp_path / "none.json"), RULED)
    with pytest.raises(ConfigError, match="success_activity"):
        env_factory(on(fleet), TASKS)
    rows = json.loads(fleet.read_text())
    fleet.write_text(json.dumps([{**row, "fault": "gone"} for row in rows]))
    make_env = env_factory(on(fleet, server="http://127.0.0.1:1"), RULED)
    runs = rollout(Agent(Always(Action.home())), plan_episodes(RULED, 2, 0), make_env)
    assert [run.outcome for run in runs] == ["infra_error"] * 2


def test_a_shell_on_the_phone_needs_a_setting(fleet, monkeypatch):
    servers = []

    class Server:
        def __init__(self, **options):
            servers.append(options)

    monkeypatch.setattr("android_env.appium.server.AppiumServer", Server)
    assert Android().allow_insecure == ()
    for allowed in ((), ("uiautomator2:adb_shell",)):
        env_factory(on(fleet, allow_insecure=allowed), RULED)
    assert servers == [{"allow_insecure": ()}, {"allow_insecure": ("uiautomator2:adb_shell",)}]


def test_the_safety_list_holds_on_every_device():
    make_env = env_factory(DeviceConfig(deny_texts=("secret",)), TASKS)
    env = make_env()
    env.reset(seed=0)
    assert "secret" in env.step(Action.type_text("my Secret"))[4]["refused"]
    with pytest.raises(ConfigError, match="not a regular expression"):
        env_factory(DeviceConfig(deny_texts=("(",)), TASKS)


def test_what_is_exact_on_the_simulated_phone_only_is_refused_elsewhere(tmp_path):
    config = EvaluateConfig(exact=True, device=DeviceConfig(name="android"))
    with pytest.raises(ConfigError, match="has no exact success"):
        evaluate(config, out=tmp_path / "out")


MINE = """
from android_env.devices.simulated.collector import SCRIPTED, draw

def oracle(device, rng):
    return draw(SCRIPTED["oracle"](device.display), rng)[0]

lazy = "no function"
"""


def test_a_script_of_ones_own_plays_from_the_command_line(tmp_path):
    """Imported from the directory that one stands in; its source is part of what the artefact is."""
    (tmp_path / "mine_script.py").write_text(MINE)
    command = [sys.executable, "-m", "digiq.cli", "evaluate", "--tasks", "webshop/train/1", "--episodes", "3"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    runs = {}
    for name in ("oracle", "lazy"):
        asked = [*command, "--agent.kind", f"mine_script:{name}", "--out", f"out/{name}"]
        runs[name] = subprocess.run(asked, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert runs["oracle"].returncode == 0, runs["oracle"].stderr
    manifest = json.loads((tmp_path / "out/oracle/manifest.json").read_text())
    assert manifest["counts"]["success"] == 3 and "code mine_script:oracle" in manifest["inputs"]
    assert (
        runs["lazy"].returncode != 0
        and "'mine_script:lazy': that is neither a function" in runs["lazy"].stderr
    )


def test_a_script_that_only_an_artefact_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "strange_script.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    read = load(AgentConfig, {"kind": "strange_script:oracle"}, recorded=True)
    with pytest.raises(ConfigError, match=r"an artefact names this code.*--trust-code"):
        build_agent(read)
