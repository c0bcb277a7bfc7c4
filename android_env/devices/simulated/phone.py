"""`SimulatedPhone`: the embedded device, a sampled walk through the kernel's decision process."""

from __future__ import annotations

import copy
import random
from hashlib import blake2b
from typing import Literal

from android_env.actions import Action
from android_env.devices import Observation, Verdict
from android_env.devices.simulated import kernel
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.screen import SCREEN_HW
from android_env.devices.simulated.state import NOISE, AbstractAction, NoiseConfig, State
from android_env.errors import EpisodeError
from android_env.tasks.task import Task

SuccessRule = Literal["on_reach", "on_declare"]


def layout_seed_of(seed: int) -> int:
    """The layout that an episode with this seed has."""
    return int.from_bytes(blake2b(f"layout {seed}".encode(), digest_size=4).digest(), "big")


class SimulatedPhone:
    """A phone of 192 × 320 pixels that plays the built-in tasks; implements `Device` and `JudgesItself`.

    An episode is decided by its task, its seed and the actions. The seed fixes the layout and the sequence of
    chances; the theme of the phone goes with the layout, that of a shop with the shop.

    Args:
        noise: mishaps in force.
        success: `on_reach`: reaching the goal is success. `on_declare`: declaring it COMPLETE while it stands is.
        render: False leaves screenshots black, for agents that read the state (`display`) instead.
    """

    name = "simulated"
    screen_hw: tuple[int, int] = SCREEN_HW

    def __init__(
        self,
        *,
        noise: NoiseConfig = NOISE,
        success: SuccessRule = "on_reach",
        render: bool = True,
    ) -> None:
        if success not in ("on_reach", "on_declare"):
            raise ValueError(f"success is {success!r}; use 'on_reach' or 'on_declare'.")
        self.noise = noise
        self.success: SuccessRule = success
        self.render = render
        self._task: Task | None = None

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Starts an episode.

        Raises:
            TaskError: the task is of a family that this phone does not play.
        """
        self._state = kernel.start(task)
        self._task = task
        self._layout_seed = layout_seed_of(seed)
        self._chance = random.Random(f"noise {seed}")
        self._display: Display | None = None
        return self.observe()

    def execute(self, action: Action) -> None:
        """Executes one action; after the episode has been declared over nothing happens any more.

        Raises:
            EpisodeError: there was no reset.
        """
        self.execute_abstract(self.display.resolve(action))

    def execute_abstract(self, action: AbstractAction) -> None:
        """Executes an action whose place is already resolved (see `state.AbstractAction`)."""
        draw = self._chance.random()
        for p, after in kernel.outcomes(self.state, action, self.task, self.noise):
            self._state = after
            draw -= p
            if draw < 0:
                break
        self._display = None

    def observe(self) -> Observation:
        """What the phone shows now."""
        return self.display.observe(rendered=self.render)

    def verdict(self) -> Verdict | None:
        """Whether and how the episode has ended, by the phone's own knowledge."""
        return kernel.verdict(self.state, self.task, self.success)

    def clone(self) -> SimulatedPhone:
        """A phone in the same state with the same chances ahead; what happens to one does not touch the other."""
        twin = copy.copy(self)
        if self._task is not None:
            twin._chance = random.Random()
            twin._chance.setstate(self._chance.getstate())
        return twin

    def close(self) -> None:
        """Nothing to give back."""

    @property
    def task(self) -> Task:
        if self._task is None:
            raise EpisodeError("the phone has no episode yet; call reset(task, seed=...) first.")
        return self._task

    @property
    def state(self) -> State:
        """The kernel's state."""
        if self._task is None:
            raise EpisodeError("the phone has no episode yet; call reset(task, seed=...) first.")
        return self._state

    @property
    def layout_seed(self) -> int:
        """What places the elements in this episode."""
        if self._task is None:
            raise EpisodeError("the phone has no episode yet; call reset(task, seed=...) first.")
        return self._layout_seed

    @property
    def display(self) -> Display:
        """The current screen with its boxes."""
        state = self.state
        if self._display is None:
            self._display = Display(state, self.task, self._layout_seed)
        return self._display
