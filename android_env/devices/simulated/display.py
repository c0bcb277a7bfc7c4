"""Where kernel and renderer meet: what a state looks like under one layout, and which element an action touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from android_env.actions import Action, ActionType
from android_env.devices import Observation
from android_env.devices.simulated import kernel
from android_env.devices.simulated.renderer import hit_test, layout, render, ui_elements_json
from android_env.devices.simulated.screen import SCREEN_HW, Box, InertBox, Screen
from android_env.devices.simulated.state import AbstractAction, State
from android_env.devices.simulated.themes import (
    FINAL_SITE_THEMES,
    SYSTEM_THEMES,
    TEST_SITE_THEMES,
    TRAIN_SITE_THEMES,
    TUNE_SITE_THEMES,
    Theme,
)
from android_env.tasks.task import Task
from android_env.tasks.webshop import FINAL_SITES, TEST_SITES, TRAIN_SITES, TUNE_SITES

SITE_THEMES: dict[str, Theme] = {
    **dict(zip(TRAIN_SITES, TRAIN_SITE_THEMES, strict=False)),
    **dict(zip(TEST_SITES, TEST_SITE_THEMES, strict=False)),
    **dict(zip(TUNE_SITES, TUNE_SITE_THEMES, strict=False)),
    **dict(zip(FINAL_SITES, FINAL_SITE_THEMES, strict=True)),
}
"""The look of each shop; a test site wears one that no training site wears; tuning and final sites wear their own."""

_NO_TEXT = {
    ActionType.PRESS_BACK: "back",
    ActionType.PRESS_HOME: "home",
    ActionType.PRESS_ENTER: "enter",
    ActionType.STATUS_TASK_COMPLETE: "complete",
    ActionType.STATUS_TASK_IMPOSSIBLE: "impossible",
}

BLANK = np.zeros((*SCREEN_HW, 3), np.uint8)
"""What a phone that does not render shows."""
BLANK.setflags(write=False)


@dataclass(frozen=True)
class Display:
    """One state of one task under one layout."""

    state: State
    task: Task
    layout_seed: int

    @cached_property
    def screen(self) -> Screen:
        return kernel.screen(self.state, self.task)

    @cached_property
    def boxes(self) -> Mapping[str, Box]:
        """Pixel boxes of the elements that fit on the screen."""
        return layout(self.screen, layout_seed=self.layout_seed)

    @cached_property
    def reachable(self) -> tuple[str, ...]:
        """Ids of the elements that a tap on their middle reaches."""
        return tuple(
            name
            for name, box in self.boxes.items()
            if not isinstance(box, InertBox) and hit_test(self.boxes, *box.center) == name
        )

    @property
    def theme(self) -> Theme:
        return SITE_THEMES.get(self.screen.app) or SYSTEM_THEMES[self.layout_seed % len(SYSTEM_THEMES)]

    def element_at(self, y: float, x: float) -> str | None:
        """The element under (y, x), fractions of the screen; None where nothing reacts."""
        height, width = SCREEN_HW
        return hit_test(self.boxes, min(y * height, height - 1), min(x * width, width - 1))

    def resolve(self, action: Action) -> AbstractAction:
        """The abstract action that a concrete one is here; extension actions are taps on nothing."""
        if action.type is ActionType.DUAL_POINT:
            if action.is_tap:
                return ("tap", self.element_at(*action.touch_yx))
            return ("swipe", action.swipe_direction)
        if action.type is ActionType.TYPE:
            return ("type", action.text)
        name = _NO_TEXT.get(action.type)
        return (name,) if name else ("tap", None)

    def point(self, element: str, y: float = 0.5, x: float = 0.5) -> Action:
        """A tap inside an element's box, at (y, x) as fractions of the box."""
        box = self.boxes[element]
        height, width = SCREEN_HW
        return Action.tap((box.y0 + y * box.height) / height, (box.x0 + x * box.width) / width)

    def concrete(self, action: AbstractAction) -> Action:
        """A concrete action for an abstract one: the middle of the element; the status bar for a tap on nothing.

        Raises:
            KeyError: the element is not on the screen.
        """
        match action:
            case ("tap", None):
                return Action.tap(0.02, 0.5)
            case ("tap", element):
                return self.point(element)
            case ("swipe", direction):
                return Action.swipe(direction)
            case ("type", text):
                return Action.type_text(text)
        return Action(next(kind for kind, name in _NO_TEXT.items() if name == action[0]))

    def observe(self, *, rendered: bool = True) -> Observation:
        """What can be seen; a black screenshot if not `rendered`."""
        return Observation(
            screenshot=render(self.screen, self.boxes, self.theme) if rendered else BLANK,
            goal=self.task.goal,
            activity=f"{self.screen.app}/{self.screen.template}",
            ui_elements=ui_elements_json(self.screen, self.boxes),
        )
