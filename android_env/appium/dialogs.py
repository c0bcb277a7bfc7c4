"""A browser's dialogs (`alert`, `confirm`, `prompt`), drawn onto the page; the browser itself draws them outside it."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

_LINES = 6
"""The most lines of text that are shown."""


def _box(screen_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The dialog's top, left, bottom and right, pixels."""
    height, width = screen_hw
    return height // 4, width // 20, height // 4 + height * 2 // 5, width - width // 20


def _buttons(screen_hw: tuple[int, int]) -> dict[bool, tuple[int, int, int, int]]:
    """The boxes of OK (True) and Cancel (False)."""
    _, left, bottom, right = _box(screen_hw)
    tall, middle = screen_hw[0] // 10, (left + right) // 2
    return {False: (bottom - tall, left, bottom, middle), True: (bottom - tall, middle, bottom, right)}


def button_at(at: tuple[int, int], screen_hw: tuple[int, int]) -> bool | None:
    """True if OK is at this pixel (y, x), False if Cancel is, None if neither."""
    for accept, (top, left, bottom, right) in _buttons(screen_hw).items():
        if top <= at[0] < bottom and left <= at[1] < right:
            return accept
    return None


def draw(below: np.ndarray, text: str, typed: str = "") -> np.ndarray:
    """The page, uint8[H, W, 3], darkened, with the dialog and the text typed into it drawn on top."""
    from PIL import Image, ImageDraw, ImageFont

    screen_hw = (below.shape[0], below.shape[1])
    image = Image.fromarray((below // 2).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    size = max(8, screen_hw[1] // 16)
    font = ImageFont.load_default(size)
    top, left, bottom, right = _box(screen_hw)
    pen.rounded_rectangle((left, top, right, bottom), radius=size // 2, fill=(255, 255, 255))
    across = max(8, int((right - left) / (0.6 * size)))
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, across) or [""]][:_LINES]
    lines += [f"> {typed}"[-across:]] if typed else []
    pen.multiline_text((left + size, top + size), "\n".join(lines), fill=(0, 0, 0), font=font, spacing=2)
    for accept, (y0, x0, y1, x1) in _buttons(screen_hw).items():
        middle = ((x0 + x1) // 2, (y0 + y1) // 2)
        pen.text(middle, "OK" if accept else "Cancel", fill=(30, 90, 200), font=font, anchor="mm")
    return np.asarray(image)


def elements(text: str, screen_hw: tuple[int, int]) -> list[dict[str, Any]]:
    """The dialog's elements, in the format of `Observation.ui_elements`."""
    boxes = {
        "": _box(screen_hw),
        **{("OK" if ok else "Cancel"): box for ok, box in _buttons(screen_hw).items()},
    }
    return [
        {
            "text": name or text,
            "role": "button" if name else "dialog",
            "id": "",
            "bounds": _bounds(box, screen_hw),
        }
        for name, box in boxes.items()
    ]


def _bounds(box: tuple[int, int, int, int], screen_hw: tuple[int, int]) -> list[float]:
    (top, left, bottom, right), (height, width) = box, screen_hw
    fractions = (top / height, left / width, (bottom - top) / height, (right - left) / width)
    return [round(value, 4) for value in fractions]
