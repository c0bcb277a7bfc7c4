"""Errors of devices, tasks and actions; the message says what to fix."""

from __future__ import annotations


class AndroidEnvError(Exception):
    """Base of all errors of this package."""


class ActionError(AndroidEnvError, ValueError):
    """An invalid action: an unknown type, or a point outside the screen."""


class TaskError(AndroidEnvError, ValueError):
    """A task, task file or task set that cannot be used: empty, damaged, or leaking test tasks into training."""


class EpisodeError(AndroidEnvError, RuntimeError):
    """A call out of order: `step` before `reset`, or after the episode has ended."""


class DeviceFault(AndroidEnvError, RuntimeError):
    """The device itself failed, so the episode says nothing about the agent."""


class SetupError(AndroidEnvError, RuntimeError):
    """Something that the device needs is not installed on this machine, or is unusable."""
