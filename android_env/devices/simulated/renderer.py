"""The simulated phone's display: `layout` says where, `hit_test` what a tap reaches, `render` paints the pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from android_env.devices.simulated.icons import icon_names
from android_env.devices.simulated.layout import (
    GESTURE_HEIGHT,
    NAV_HEIGHT,
    STATUS_HEIGHT,
    hit_test,
    layout,
    ui_elements,
    ui_elements_json,
)
from android_env.devices.simulated.screen import PANEL_ROLES, SCREEN_HW, Box, Screen
from android_env.devices.simulated.themes import Theme, readable_on
from android_env.devices.simulated.widgets import Canvas, draw_element, gradient

__all__ = ["hit_test", "icon_names", "layout", "render", "ui_elements", "ui_elements_json"]

HEIGHT, WIDTH = SCREEN_HW
_DIMMED = [round(value * 0.45) for value in range(256)] * 3
_VEILED = [round(140 + value * 0.45) for value in range(256)] * 3
_VEILED_DARK = [round(value * 0.4 + 24) for value in range(256)] * 3


def render(screen: Screen, boxes: Mapping[str, Box], theme: Theme) -> np.ndarray:
    """Paints a screen.

    Args:
        screen: what to show.
        boxes: where, from `layout`; elements without a box are left out.
        theme: the look.

    Returns:
        uint8 array [320, 192, 3], RGB, freshly allocated. Equal arguments give equal pixels.

    Raises:
        ValueError: an element names an icon that does not exist.
    """
    on_launcher = any(element.role == "launcher_icon" for element in screen.elements)
    canvas = Canvas(theme, gradient(*theme.wallpaper) if on_launcher else None)
    _bars(canvas, screen, boxes, on_launcher)
    for element in screen.elements:
        if element.id in boxes and element.role not in ("nav_button", "keyboard_key"):
            draw_element(canvas, element, boxes[element.id])
    for element in screen.elements:  # keys lie on the keyboard, wherever they stand in the sequence
        if element.id in boxes and element.role == "keyboard_key":
            draw_element(canvas, element, boxes[element.id])
    _overlay(canvas, screen, boxes)
    if screen.loading:
        _loading(canvas, boxes)
    _navigation(canvas, screen, boxes, on_launcher)
    return np.array(canvas.image)


def _bars(canvas: Canvas, screen: Screen, boxes: Mapping[str, Box], on_launcher: bool) -> None:
    theme = canvas.theme
    ground = theme.wallpaper[0] if on_launcher else theme.bar
    ink = readable_on(ground)
    if not on_launcher:
        canvas.rectangle((0, 0, STATUS_HEIGHT, WIDTH), ground)
    canvas.text("9:41", STATUS_HEIGHT / 2, 6, ink, width=50, bold=True, size=-3)
    canvas.icon("battery", 2, WIDTH - 20, 13, ink)
    canvas.icon("wifi", 2, WIDTH - 37, 13, ink)
    if "_url" in boxes:
        box = boxes["_url"]
        canvas.rectangle(box, theme.border)
        # One row of the border stays as the edge towards the page.
        canvas.rectangle(
            (box.y0 + (box.y0 > HEIGHT // 2), 0, box.y1 - (box.y0 < HEIGHT // 2), WIDTH), theme.surface
        )
    if "_title" in boxes:
        box, inner = boxes["_title"], boxes["_title_text"]
        canvas.rectangle(box, theme.bar)
        if theme.bar == theme.background:
            canvas.rectangle((box.y1 - 1, 0, box.y1, WIDTH), theme.border)
        middle = (box.y0 + box.y1) // 2
        canvas.text(screen.title, middle, inner.x0, theme.on_bar, width=inner.width, bold=True, size=1)


def _overlay(canvas: Canvas, screen: Screen, boxes: Mapping[str, Box]) -> None:
    if screen.modal:
        _veil(canvas, _DIMMED)
    if "_panel" in boxes:
        canvas.rounded(boxes["_panel"], canvas.theme.background, outline=canvas.theme.muted)
    panels_first = sorted(screen.overlay, key=lambda e: (e.role not in PANEL_ROLES, e.role == "toast"))
    for element in panels_first:
        if element.id in boxes:
            draw_element(canvas, element, boxes[element.id])


def _loading(canvas: Canvas, boxes: Mapping[str, Box]) -> None:
    """A veil, a spinner in the middle and a progress bar under the title."""
    theme = canvas.theme
    _veil(canvas, _VEILED_DARK if theme.dark else _VEILED)
    top = max(
        (boxes[name].y1 for name in ("_title", "_url") if name in boxes and boxes[name].y1 < HEIGHT // 2),
        default=STATUS_HEIGHT,
    )
    canvas.rectangle((top, 0, top + 5, WIDTH), theme.border)
    canvas.rectangle((top, 0, top + 5, WIDTH * 2 // 5), theme.accent)
    y, x, r = HEIGHT // 2, WIDTH // 2, 22
    canvas.rounded((y - 34, x - 34, y + 34, x + 34), theme.surface, 12, outline=theme.border)
    canvas.draw.ellipse((x - r, y - r, x + r, y + r), outline=theme.border, width=6)
    canvas.draw.arc((x - r, y - r, x + r, y + r), 270, 60, fill=theme.primary, width=6)


def _navigation(canvas: Canvas, screen: Screen, boxes: Mapping[str, Box], on_launcher: bool) -> None:
    theme = canvas.theme
    buttons = [e for e in screen.elements if e.role == "nav_button" and e.id in boxes]
    ground = theme.wallpaper[1] if on_launcher else ((12, 12, 14) if theme.dark else (255, 255, 255))
    height = NAV_HEIGHT if buttons else GESTURE_HEIGHT
    canvas.rectangle((HEIGHT - height, 0, HEIGHT, WIDTH), ground)
    for element in buttons:
        draw_element(canvas, element, boxes[element.id])
    if not buttons:
        canvas.rounded((HEIGHT - 6, WIDTH // 2 - 30, HEIGHT - 3, WIDTH // 2 + 30), readable_on(ground), 1)


def _veil(canvas: Canvas, table: list[int]) -> None:
    """Dims or lightens all but the status bar, through a look-up table of new values."""
    below = (0, STATUS_HEIGHT, WIDTH, HEIGHT)
    canvas.image.paste(canvas.image.crop(below).point(table), below)
