"""Kinds of devices, one file each: a frozen config with the kind's settings and properties.

To add a kind, write its file and add its line to :data:`DEVICES`.
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
"""The name of each kind, which is that of its file, and its class."""

__all__ = ["DEVICES", "DeviceKind", "Script"]
