"""Episodes in memory: RLDS steps with the screenshot as PNG bytes."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from android_env.actions import Action

Box = tuple[float, float, float, float]
"""Top, left, height and width, as fractions of the screen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One RLDS step: an observation, the action taken there, and what followed.

    ``reward`` and ``discount`` are those of ``action``. At ``is_last`` there is no action and both are 0.
    """

    screenshot: bytes
    """PNG; imported ones may be JPEG or WebP."""
    goal: str
    activity: str = ""
    """Foreground activity or page; for human readers, never for learned agents."""
    ui_elements: str = "[]"
    """JSON list of the screen's elements; for matching and human readers, never for learned agents."""
    action: Action | None = None
    """None at the last step."""
    behavior_log_prob: float = math.nan
    """Log-probability of ``action`` under the behaviour policy; NaN where unknown."""
    reward: float = 0.0
    discount: float = 1.0
    is_first: bool = False
    is_last: bool = False
    is_terminal: bool = False
    extras: str = "{}"
    """JSON object of whatever else an import found, such as the agent's ``candidates`` and fields specific to the
    source."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """T actions, stored as T + 1 steps.

    Raises:
      ValueError: the steps are not an RLDS episode (order of flags, a missing action, a non-finite reward).
    """

    episode_id: str
    task_id: str = ""
    split: str = "train"
    outcome: str = ""
    """``success``, ``failure``, ``truncated``, ..."""
    policy: str = ""
    """The policy that acted."""
    device: str = ""
    screen_hw: tuple[int, int]
    """Height and width of the stored screenshots, in pixels."""
    seed: int = 0
    copy_of: str = ""
    """Id of the recorded episode that this one copies under another goal; empty for a recorded one. Copies come from
    labels; the store holds none."""
    extras: str = "{}"
    """JSON object of whatever else an import found about the whole episode, such as its ``app``."""
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError(f"episode {self.episode_id}: has no steps.")
        last = len(self.steps) - 1
        for t, step in enumerate(self.steps):
            if step.is_first != (t == 0) or step.is_last != (t == last):
                raise ValueError(
                    f"episode {self.episode_id}: step {t} of {last} has wrong is_first or is_last."
                )
            if (step.action is None) != (t == last):
                raise ValueError(
                    f"episode {self.episode_id}: step {t}: every step but the last must have an action."
                )
            if step.is_terminal and t != last:
                raise ValueError(f"episode {self.episode_id}: step {t} is terminal but not last.")
            if not math.isfinite(step.reward):
                raise ValueError(f"episode {self.episode_id}: step {t}: reward is {step.reward}.")
            if not 0.0 <= step.discount <= 1.0:
                raise ValueError(
                    f"episode {self.episode_id}: step {t}: discount {step.discount} is outside [0, 1]."
                )

    @property
    def num_actions(self) -> int:
        """T, the number of executed actions."""
        return len(self.steps) - 1

    @property
    def goal(self) -> str:
        return self.steps[0].goal

    @property
    def is_terminated(self) -> bool:
        """Whether the last observation is terminal; otherwise the episode was truncated."""
        return self.steps[-1].is_terminal

    @property
    def total_reward(self) -> float:
        return self.outline.total_reward

    @property
    def source_id(self) -> str:
        """Id of the recorded episode: this one's, or that of its original."""
        return self.copy_of or self.episode_id

    @property
    def outline(self) -> Outline:
        return Outline(
            episode_id=self.episode_id,
            task_id=self.task_id,
            split=self.split,
            outcome=self.outcome,
            copy_of=self.copy_of,
            goal=self.goal,
            rewards=tuple(step.reward for step in self.steps[:-1]),
            discounts=tuple(step.discount for step in self.steps[:-1]),
            is_terminated=self.is_terminated,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
    """An episode without its screens and actions: enough to count, split and reward it."""

    episode_id: str
    task_id: str = ""
    split: str = "train"
    outcome: str = ""
    copy_of: str = ""
    """As :attr:`Episode.copy_of`."""
    goal: str
    rewards: tuple[float, ...]
    """One per executed action."""
    discounts: tuple[float, ...]
    """One per executed action."""
    is_terminated: bool
    """As :attr:`Episode.is_terminated`."""

    @property
    def num_actions(self) -> int:
        """T, the number of executed actions."""
        return len(self.rewards)

    @property
    def total_reward(self) -> float:
        return sum(self.rewards)

    @property
    def source_id(self) -> str:
        """As :attr:`Episode.source_id`."""
        return self.copy_of or self.episode_id


def element_boxes(ui_elements: str) -> list[tuple[dict[str, Any], Box]]:
    """The elements of a screen that have a position, each with its box.

    Devices call the box ``bounds`` and published recordings ``yxhw``; both are the same four fractions of the screen.
    """
    found = []
    for element in json.loads(ui_elements or "[]"):
        box = element.get("bounds") or element.get("yxhw") or ()
        if len(box) == 4:
            found.append((element, tuple(map(float, box))))
    return found


def encode_png(screenshot: npt.NDArray[np.uint8]) -> bytes:
    """PNG bytes of a uint8 [H, W, 3] array; compressed fast, because episodes are many and read often."""
    buffer = io.BytesIO()
    Image.fromarray(screenshot).save(buffer, format="PNG", compress_level=2)
    return buffer.getvalue()


def stored_image(data: bytes, max_side: int) -> tuple[bytes, tuple[int, int]]:
    """An image file's bytes as stored in episodes, with height and width.

    PNG, JPEG and WebP bytes stay as they are if no side is longer than ``max_side`` pixels; anything else becomes PNG.

    Raises:
      ValueError: the bytes are not an image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) <= max_side and image.format in ("PNG", "JPEG", "WEBP"):
                image.load()
                return data, (image.height, image.width)
            small = shrunk(image.convert("RGB"), max_side)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image ({error})") from None
    return encode_png(np.asarray(small)), (small.height, small.width)


def shrunk(image: Image.Image, max_side: int) -> Image.Image:
    """The image, scaled down so that its longest side is at most ``max_side`` pixels."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)


def decode_png(data: bytes) -> npt.NDArray[np.uint8]:
    """The uint8 [H, W, 3] array of PNG, JPEG or WebP bytes."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
