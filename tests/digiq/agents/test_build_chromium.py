"""Devices play the tasks that they know, and say so of others."""

from __future__ import annotations

import pytest

from android_env.errors import SetupError
from android_env.tasks import load_tasks
from digiq.agents.build import DeviceConfig, env_factory
from digiq.errors import ConfigError


@pytest.mark.parametrize(
    ("device", "tasks", "message"),
    [
        ("chromium", "webshop/test", "does not play task 'webshop/.*it plays: miniwob"),
        ("simulated", "miniwob", "does not play task 'miniwob/.*it plays: webshop, general"),
    ],
)
def test_tasks_of_another_device_are_refused(device, tasks, message):
    with pytest.raises(ConfigError, match=message):
        env_factory(DeviceConfig(name=device), load_tasks(tasks))


def test_a_browser_that_is_not_installed_is_said_before_anything_runs(monkeypatch):
    def missing():
        raise SetupError("there is no chromium on PATH; run 'make appium'.")

    monkeypatch.setattr("android_env.devices.miniwob.host.find_browser", missing)
    monkeypatch.setattr("android_env.devices.miniwob.host.AppiumServer", lambda: None)
    with pytest.raises(ConfigError, match=r"device.name: .chromium. cannot start: .*make appium"):
        env_factory(DeviceConfig(name="chromium"), load_tasks("miniwob"))
