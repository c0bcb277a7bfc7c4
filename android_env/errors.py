"""Errors of devices and tasks."""


class AndroidEnvError(Exception):
    """A device or task fault; the message names what failed and the mend."""


class TaskError(AndroidEnvError):
    """A task file or task set that cannot be used."""
