"""The interface that every device implements, and its optional extensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from android_env.actions import AITW_TYPES, Action, ActionType
from android_env.faults import FaultLog
from android_env.tasks import Task

Verdict = Literal["success", "failure"]
"""How an episode terminates; running out of steps is neither."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What can be seen of a device at one moment."""

    screenshot: np.ndarray
    """uint8[H, W, 3]."""
    goal: str
    activity: str
    """Foreground app and screen, as the device names them. Learned agents never read it."""
    ui_elements: str
    """JSON list of the elements on the screen: its accessibility tree, flattened. Learned agents do not read it, except
    those that say so (`reads_elements`)."""
    unread: bool = False
    """True if the elements could not be read, although the screenshot could; the list is then empty."""


@dataclass(frozen=True)
class StepReport:
    """How an action went on a device that runs in real time."""

    sent: Literal["executed", "maybe_executed", "nothing"]
    """`maybe_executed`: the command failed and was not sent again; the observation shows its effect, if any.
    `nothing`: the action is not one for the device, such as declaring the task complete."""
    settle_s: float = 0.0
    """How long the device waited for the screen to settle, seconds."""
    polls: int = 0
    """Screenshots taken during that wait."""
    timed_out: bool = False
    """Whether the screen was still changing when the wait ended."""
    faults: int = 0
    """Faults that occurred during the action and were repaired."""
    act_s: float = 0.0
    """How long the action itself took, before that wait, seconds; repairs included."""
    notes: tuple[str, ...] = ()
    """What was unusual about the result: `black` (the app shows a black screen), `no_screenshot` (the app forbids
    screenshots; the observation's is black), `rotated`, `unread` (no elements), `refused` (the device cannot do the
    action, for example because it has no such app), `new_window`, `dialog`."""


class Device(Protocol):
    """A phone, real or simulated. Any method may raise `android_env.errors.DeviceFault`."""

    name: str
    screen_hw: tuple[int, int]
    """Height and width of the screenshots, pixels."""

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Brings the device into the task's initial state; where possible, equal seeds give equal episodes."""
        ...

    def execute(self, action: Action) -> None:
        """Executes one action and waits until the device has settled."""
        ...

    def observe(self) -> Observation:
        """What the device currently shows; changes nothing."""
        ...

    def close(self) -> None:
        """Releases the device's resources; it cannot be used afterwards."""
        ...


@runtime_checkable
class Reports(Protocol):
    """A device that reports how its last action went."""

    report: StepReport


@runtime_checkable
class Does(Protocol):
    """A device that supports more, or fewer, actions than those of Android in the Wild."""

    actions: frozenset[ActionType]


def actions_of(device: Any) -> frozenset[ActionType]:
    """The actions that a device supports; those of Android in the Wild if it does not say."""
    return device.actions if isinstance(device, Does) else AITW_TYPES


@runtime_checkable
class LogsFaults(Protocol):
    """A device that counts its faults."""

    @property
    def faults(self) -> FaultLog: ...


@runtime_checkable
class JudgesItself(Protocol):
    """A device that knows the true outcome of its tasks."""

    def verdict(self) -> Verdict | None:
        """Whether the episode has ended, and how; None while it runs."""
        ...
