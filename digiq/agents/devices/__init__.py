"""Kinds of devices, one file each: a frozen config with the kind's settings, and what is to be known of it.

To add one: write its file, and add its line to :data:`DEVICES`.
"""

from digiq.agents.devices.base import DeviceKind, Script
from digiq.tables import Table

DEVICES = Table(
    "device",
    __name__,
    simulated="Simulated",
    chromium="Chromium",
    android="Android",
    replay="Replay",
    android_world="AndroidWorld",
    mobilegym="MobileGym",
    web="Web",
)
"""Name of a kind, which is its file's, and the class in there."""

__all__ = ["DEVICES", "DeviceKind", "Script"]
