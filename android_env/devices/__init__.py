"""What every device offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from android_env.actions import AITW_TYPES, Action, ActionType
from android_env.faults import FaultLog
from android_env.tasks import Task

Verdict = Literal["success", "failure"]
"""How an episode ends for a reason of its own; running out of steps is neither."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What can be seen of a device at one moment."""

    screenshot: np.ndarray
    """uint8[H, W, 3]."""
    goal: str
    activity: str
    """Foreground app and screen, as the device names it. Learned agents never read it."""
    ui_elements: str
    """JSON list of the elements on the screen: its accessibility tree, flat. Learned agents never read it; those that do
    say so (`reads_elements`)."""
    unread: bool = False
    """True where the elements could not be read, though the screenshot could; the list is then empty."""


@dataclass(frozen=True)
class StepReport:
    """How an action went, on a device that takes real time."""

    sent: Literal["executed", "maybe_executed", "nothing"]
    """`maybe_executed`: the command failed and was not sent again; the observation shows what came of it.
    `nothing`: the action is none for the device, such as declaring the task complete."""
    settle_s: float = 0.0
    """How long the device waited for the screen to stand still, seconds."""
    polls: int = 0
    """Screenshots taken for that."""
    timed_out: bool = False
    """True where the screen still moved when waiting ended."""
    faults: int = 0
    """Faults met, and mended, during the action."""
    act_s: float = 0.0
    """How long it took to carry the action out, before that wait, seconds; mending included."""
    notes: tuple[str, ...] = ()
    """What was unusual about what came of it: `black` (the app shows a black screen), `no_screenshot` (the app forbids
    them; the observation's is black), `rotated`, `unread` (no elements), `refused` (the device cannot do the action,
    for example has no such app), `new_window`, `dialog`."""


class Device(Protocol):
    """A phone, real or simulated. Any method may raise `android_env.errors.DeviceFault`."""

    name: str
    screen_hw: tuple[int, int]
    """Height and width of the screenshots, pixels."""

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Brings the device into the task's first state; equal seeds give equal episodes where the device can."""
        ...

    def execute(self, action: Action) -> None:
        """Executes one action and waits until the device has settled."""
        ...

    def observe(self) -> Observation:
        """What the device shows now; changes nothing."""
        ...

    def close(self) -> None:
        """Gives back what the device holds; it cannot be used after that."""
        ...


@runtime_checkable
class Reports(Protocol):
    """A device that says how its last action went."""

    report: StepReport


@runtime_checkable
class Does(Protocol):
    """A device that can do more than Android in the Wild's actions, or less."""

    actions: frozenset[ActionType]


def actions_of(device: Any) -> frozenset[ActionType]:
    """What a device can do; those of Android in the Wild where it does not say."""
    return device.actions if isinstance(device, Does) else AITW_TYPES


@runtime_checkable
class LogsFaults(Protocol):
    """A device that counts its faults."""

    @property
    def faults(self) -> FaultLog: ...


@runtime_checkable
class JudgesItself(Protocol):
    """A device that knows the truth about its tasks."""

    def verdict(self) -> Verdict | None:
        """Whether the episode has ended, and how; None while it runs."""
        ...
