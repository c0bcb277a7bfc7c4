"""A fleet of doubled emulators."""

from __future__ import annotations

import pytest

from android_env.emulators.emulator import EmulatorConfig
from android_env.emulators.fleet import Fleet
from android_env.testing.commands import CommandDoubles


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """A running fleet of two, as `digiq devices start` leaves it for others; yields its file."""
    config = EmulatorConfig(poll_s=0.05, clock_slack_s=1e12)
    with CommandDoubles(tmp_path / "sdk", boot_polls=1) as doubles:
        for key, value in doubles.environ.items():
            monkeypatch.setenv(key, value)
        with Fleet(doubles.sdk, "template", 2, tmp_path / "run", config=config, first=48) as kept:
            kept.start()
            yield tmp_path / "run/fleet.json"
