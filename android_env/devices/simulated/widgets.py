"""Drawing primitives and one painter a role: what turns an `Element` in a `Box` into pixels.

`Canvas` owns the image and knows the theme; `draw_element` dispatches on the role. Text is set in at most two sizes a
font, so that a small vision model meets few glyph shapes, and is shortened with an ellipsis where it does not fit.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from zlib import crc32

from PIL import Image, ImageDraw, ImageFont

from android_env.devices.simulated.icons import icon_mask, icon_names
from android_env.devices.simulated.layout import KEY_HEIGHT, LINE_HEIGHT
from android_env.devices.simulated.screen import PANEL_ROLES, SCREEN_HW, Box, Element
from android_env.devices.simulated.themes import Color, Theme, readable_on, shade

__all__ = ["Canvas", "TextRun", "draw_element", "icon_names", "record_text"]

HEIGHT, WIDTH = SCREEN_HW
_FONT_FILES = {
    "condensed": ("DejaVuSansCondensed.ttf", "DejaVuSansCondensed-Bold.ttf", 15),
    "roboto": ("Roboto-Regular.ttf", "Roboto-Bold.ttf", 16),
    "mono": ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", 13),
}
_SMALL = -2  # second lines and captions, relative to the body size
_LARGE = 2


@lru_cache(maxsize=64)
def _font(family: str, bold: bool, size_change: int) -> ImageFont.FreeTypeFont:
    regular, heavy, size = _FONT_FILES[family]
    data = (files("android_env.devices.simulated") / "fonts" / (heavy if bold else regular)).read_bytes()
    return ImageFont.truetype(BytesIO(data), size + size_change, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=16384)
def _fitted(text: str, family: str, bold: bool, size_change: int, width: int, keep_end: bool) -> str:
    """`text`, shortened to `width` pixels: the end is cut, or with `keep_end` the beginning."""
    font = _font(family, bold, size_change)
    if font.getlength(text) <= width:
        return text
    for cut in range(1, len(text)):
        short = "…" + text[cut:] if keep_end else text[:-cut].rstrip() + "…"
        if font.getlength(short) <= width:
            return short
    return ""


@lru_cache(maxsize=16384)
def _weight_that_fits(text: str, family: str, bold: bool, size_change: int, width: int) -> tuple[bool, int]:
    """The boldest, largest setting in which `text` takes at most `width` pixels; the smallest if none does."""
    for choice in ((bold, size_change), (False, size_change)):
        if _font(family, *choice).getlength(text) <= width:
            return choice
    return False, min(size_change, -1)


@lru_cache(maxsize=8192)
def _wrapped(text: str, family: str, bold: bool, size_change: int, width: int, most: int) -> tuple[str, ...]:
    """`text` broken at spaces into at most `most` lines of `width` pixels; the last is shortened if need be."""
    font = _font(family, bold, size_change)
    columns = len(text)
    while columns > 1 and any(font.getlength(line) > width for line in textwrap.wrap(text, columns)):
        columns -= 1
    lines = textwrap.wrap(text, max(columns, 1))
    if len(lines) > most:
        lines[most - 1] = " ".join(lines[most - 1 :])
    return tuple(_fitted(line, family, bold, size_change, width, False) for line in lines[:most])


@lru_cache(maxsize=4096)
def _text_mask(text: str, family: str, bold: bool, size_change: int) -> tuple[Image.Image, int, int]:
    """Opacity of a line of text, and where its ink's left and top lie from the pen's start on the ascender line."""
    font = _font(family, bold, size_change)
    x0, y0, x1, y1 = (int(v) for v in font.getbbox(text))
    image = Image.new("L", (max(x1 - x0, 1), max(y1 - y0, 1)), 0)
    ImageDraw.Draw(image).text((-x0, -y0), text, font=font, fill=255)
    return image, x0, y0


@lru_cache(maxsize=64)
def _corner_mask(radius: int) -> Image.Image:
    """Opacity of a disc's upper left quarter; the other corners are its transposes."""
    image = Image.new("L", (radius * 4, radius * 4), 0)
    ImageDraw.Draw(image).ellipse((0, 0, radius * 8 - 1, radius * 8 - 1), fill=255)
    return image.resize((radius, radius), Image.Resampling.BOX)


@lru_cache(maxsize=64)
def _corner_masks(radius: int) -> tuple[Image.Image, ...]:
    quarter = _corner_mask(radius)
    flip = Image.Transpose
    return (
        quarter,
        quarter.transpose(flip.FLIP_LEFT_RIGHT),
        quarter.transpose(flip.FLIP_TOP_BOTTOM),
        quarter.transpose(flip.ROTATE_180),
    )


@lru_cache(maxsize=64)
def gradient(top: Color, bottom: Color) -> Image.Image:
    """A screen-sized vertical blend; shared, copy it before drawing on it."""
    column = Image.new("RGB", (1, HEIGHT))
    for y in range(HEIGHT):
        share = y / (HEIGHT - 1)
        column.putpixel((0, y), tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True)))
    return column.resize((WIDTH, HEIGHT))


@dataclass(frozen=True)
class TextRun:
    """A line of text as drawn: the column of each character's middle, and the row of the line's, in pixels."""

    text: str
    columns: tuple[float, ...]
    row: float


_recorder: ContextVar[list[TextRun] | None] = ContextVar("_recorder", default=None)


@contextmanager
def record_text() -> Iterator[list[TextRun]]:
    """Lists every line of text drawn inside the block, in drawing order: labels for models that learn to read."""
    runs: list[TextRun] = []
    token = _recorder.set(runs)
    try:
        yield runs
    finally:
        _recorder.reset(token)


class Canvas:
    """An RGB image of the screen's size with the few strokes that widgets are made of, in one theme.

    It starts as a copy of `ground`, or filled with the theme's background.
    """

    def __init__(self, theme: Theme, ground: Image.Image | None = None) -> None:
        self.theme = theme
        self.image = ground.copy() if ground else Image.new("RGB", (WIDTH, HEIGHT), theme.background)
        self.draw = ImageDraw.Draw(self.image)

    def ink_at(self, y: int, x: int) -> Color:
        """White or near-black, whichever reads on what is already drawn at (y, x)."""
        r, g, b = self.image.crop((x, y, x + 1, y + 1)).tobytes()
        return readable_on((r, g, b))

    def rectangle(self, box: tuple[int, int, int, int], color: Color) -> None:
        """Fills a box given as (y0, x0, y1, x1), half open."""
        y0, x0, y1, x1 = box
        self.image.paste(color, (x0, y0, x1, y1))

    def rounded(
        self,
        box: tuple[int, int, int, int],
        color: Color,
        radius: int | None = None,
        outline: Color | None = None,
    ) -> None:
        """Fills a box with smooth corners, inside a one-pixel outline if given."""
        y0, x0, y1, x1 = box
        radius = min(self.theme.radius if radius is None else radius, (y1 - y0) // 2, (x1 - x0) // 2)
        if outline:
            self.rounded(box, outline, radius)
            y0, x0, y1, x1, radius = y0 + 1, x0 + 1, y1 - 1, x1 - 1, radius - 1
        if radius < 1:
            self.rectangle((y0, x0, y1, x1), color)
            return
        paste = self.image.paste
        paste(color, (x0 + radius, y0, x1 - radius, y1))
        paste(color, (x0, y0 + radius, x0 + radius, y1 - radius))
        paste(color, (x1 - radius, y0 + radius, x1, y1 - radius))
        corners = ((x0, y0), (x1 - radius, y0), (x0, y1 - radius), (x1 - radius, y1 - radius))
        for (x, y), mask in zip(corners, _corner_masks(radius), strict=True):
            paste(color, (x, y, x + radius, y + radius), mask)

    def icon(self, name: str, y: int, x: int, size: int, color: Color) -> None:
        """Draws a pictogram with its upper left corner at (y, x)."""
        self.image.paste(color, (x, y, x + size, y + size), icon_mask(name, size))

    def text(
        self,
        text: str,
        y: float,
        x: float,
        color: Color,
        *,
        width: int,
        bold: bool = False,
        size: int = 0,
        align: str = "left",
        keep_end: bool = False,
    ) -> int:
        """Writes one line centred on row `y` from column `x`, in at most `width` pixels.

        `size` is relative to the font's body size. What does not fit is set lighter, then smaller, then shortened.
        Returns the column where the text ends.
        """
        family = self.theme.font
        bold, size = _weight_that_fits(text, family, bold, size, width)
        text = _fitted(text, family, bold, size, width, keep_end)
        if not text:
            return int(x + (width // 2 if align == "center" else 0))
        font = _font(family, bold, size)
        length = int(font.getlength(text))
        if align == "center":
            x += (width - length) / 2
        elif align == "right":
            x += width - length
        mask, left, above = _text_mask(text, family, bold, size)
        ascent = font.getmetrics()[0]
        # The middle of a line lies between the baseline and the capitals' top (about 0.72 of the size up).
        top = round(y - ascent + font.size * 0.36) + above
        start = int(x) + left
        self.image.paste(color, (start, top, start + mask.width, top + mask.height), mask)
        if (runs := _recorder.get()) is not None:
            edges = [int(x) + font.getlength(text[:i]) for i in range(len(text) + 1)]
            columns = tuple((a + b) / 2 for a, b in pairwise(edges))
            runs.append(TextRun(text, columns, y))
        return int(x) + length

    def lines(
        self,
        text: str,
        y: float,
        x: int,
        color: Color,
        *,
        width: int,
        most: int,
        bold: bool = False,
        size: int = 0,
        align: str = "left",
    ) -> int:
        """Writes a paragraph whose first line is centred on row `y`; returns how many lines it took."""
        lines = _wrapped(text, self.theme.font, bold, size, width, most)
        for index, line in enumerate(lines):
            self.text(line, y + index * LINE_HEIGHT, x, color, width=width, bold=bold, size=size, align=align)
        return len(lines)


def tile_color(theme: Theme, name: str) -> tuple[Color, Color]:
    """Ground and ink of an icon's tile or a picture, the same for a name wherever it appears in the theme."""
    value = crc32(f"{theme.name} {name}".encode())
    ground = shade(value % 360, 0.6, (0.36, 0.44, 0.52)[value // 360 % 3])
    return ground, readable_on(ground)


def draw_element(canvas: Canvas, element: Element, box: Box) -> None:
    """Draws `element` into `box` (y0, x0, y1, x1), whatever its role."""
    _PAINTERS[element.role](canvas, element, box)


def _launcher_icon(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    side = max(24, min(42, box.height - 20))
    y, x = box.y0 + 2, (box.x0 + box.x1 - side) // 2
    ground, ink = tile_color(theme, e.icon or e.text)
    radius = {"circle": side // 2, "rounded": side // 4, "square": 2, "bare": 0}[theme.icons]
    if theme.icons == "bare":
        ink = readable_on(theme.wallpaper[0])
        glyph = side - 4
    else:
        c.rounded((y, x, y + side, x + side), ground, radius)
        glyph = side - (14 if theme.icons == "circle" else 10)
    if e.icon:
        c.icon(e.icon, y + (side - glyph) // 2, x + (side - glyph) // 2, glyph, ink)
    elif e.text:
        c.text(e.text[0].upper(), y + side / 2, x, ink, width=side, bold=True, size=_LARGE, align="center")
    ink = readable_on(theme.wallpaper[0])
    c.text(e.text, y + side + 10, box.x0, ink, width=box.width, size=-1, bold=True, align="center")


def _field_ground(c: Canvas, box: tuple[int, int, int, int], focused: bool, radius: int) -> None:
    theme = c.theme
    edge = theme.primary if focused else theme.border
    y0, x0, y1, x1 = box
    if theme.fields == "underlined":
        c.rectangle(box, theme.surface)
        c.rectangle((y1 - (3 if focused else 2), x0, y1, x1), edge)
    else:
        c.rounded(box, edge, radius)
        inset = 2 if focused else (1 if theme.fields == "outlined" else 0)
        c.rounded((y0 + inset, x0 + inset, y1 - inset, x1 - inset), theme.surface, max(radius - inset, 0))


def _content(c: Canvas, e: Element, y: float, x: int, width: int) -> None:
    """A field's content or, in grey, its hint; with the caret when focused."""
    focused = "focused" in e.flags
    shown = "•" * len(e.text) if "password" in e.flags else e.text
    end = x
    if shown:
        end = c.text(shown, y, x, c.theme.text, width=width - 3, bold=True, keep_end=focused)
    elif e.detail:
        c.text(e.detail, y, x + (4 if focused else 0), c.theme.muted, width=width - 4)
    if focused:
        c.rectangle((round(y) - 9, end + 1, round(y) + 9, end + 3), c.theme.primary)


def _url_bar(c: Canvas, e: Element, box: Box) -> None:
    _field_ground(c, box, "focused" in e.flags, min(box.height // 2, c.theme.radius * 2))
    y = (box.y0 + box.y1) // 2
    if e.text and "focused" not in e.flags:
        c.icon("lock", y - 6, box.x0 + 7, 12, c.theme.muted)
    else:
        c.icon("globe", y - 7, box.x0 + 6, 14, c.theme.muted)
    _content(c, e, y, box.x0 + 23, box.width - 29)


def _search_box(c: Canvas, e: Element, box: Box) -> None:
    _field_ground(c, box, "focused" in e.flags, c.theme.radius + 4)
    y = (box.y0 + box.y1) // 2
    c.icon("search", y - 8, box.x0 + 6, 16, c.theme.primary)
    _content(c, e, y, box.x0 + 26, box.width - 32)


def _text_field(c: Canvas, e: Element, box: Box) -> None:
    _field_ground(c, box, "focused" in e.flags, c.theme.radius)
    _content(c, e, (box.y0 + box.y1) // 2, box.x0 + 8, box.width - 14)


def _button(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    if "disabled" in e.flags:
        ground, ink, edge = theme.border, theme.muted, theme.border
    elif "primary" in e.flags:
        ground, ink, edge = theme.primary, theme.on_primary, theme.primary
    elif theme.buttons == "outlined":
        ground, ink, edge = theme.background, theme.primary, theme.primary
    else:
        ground, ink, edge = theme.surface, theme.text, theme.border
    c.rounded(box, ground, outline=edge)
    y = (box.y0 + box.y1) // 2
    if not e.text:
        size = min(18, box.height - 8)
        if e.icon:
            c.icon(e.icon, y - size // 2, (box.x0 + box.x1 - size) // 2, size, ink)
        return
    left = box.x0 + 4
    if e.icon:
        c.icon(e.icon, y - 8, box.x0 + 7, 16, ink)
        left = box.x0 + 24
    c.text(e.text, y, left, ink, width=box.x1 - 4 - left, bold=True, align="center")


def _icon_button(c: Canvas, e: Element, box: Box) -> None:
    size = 20
    y, x = (box.y0 + box.y1 - size) // 2, (box.x0 + box.x1 - size) // 2
    # It stands on a bar or on the page: take whichever ink reads on what is already there.
    ink = c.ink_at(box.y0 + 1, box.x0 + 1)
    if e.icon:
        c.icon(e.icon, y, x, size, ink)
    else:
        c.text(e.text, y + size / 2, box.x0, ink, width=box.width, bold=True, align="center")


def _link(c: Canvas, e: Element, box: Box) -> None:
    y = (box.y0 + box.y1) // 2
    end = c.text(e.text, y, box.x0 + 3, c.theme.primary, width=box.width - 4, bold=True)
    c.rectangle((y + 8, box.x0 + 3, y + 9, end), c.theme.primary)


def _row_ground(c: Canvas, box: Box) -> Color:
    """A row's ground in the theme's list style; returns its colour."""
    theme = c.theme
    if theme.rows == "card":
        c.rounded(box, theme.surface, outline=theme.border)
        return theme.surface
    if theme.rows == "divider":
        c.rectangle((box.y1 - 1, box.x0, box.y1, box.x1), theme.border)
    return theme.background


def _two_lines(c: Canvas, e: Element, box: Box, left: int, right: int, detail_color: Color) -> None:
    middle = (box.y0 + box.y1) // 2
    if e.detail:
        c.text(e.text, middle - 8, left, c.theme.text, width=right - left, bold=True)
        c.text(e.detail, middle + 9, left, detail_color, width=right - left, size=-1)
    else:
        c.text(e.text, middle, left, c.theme.text, width=right - left, bold=True)


def _list_row(c: Canvas, e: Element, box: Box) -> None:
    _row_ground(c, box)
    left, middle = box.x0 + 7, (box.y0 + box.y1) // 2
    if e.icon:
        ground, ink = tile_color(c.theme, e.icon)
        c.rounded(
            (middle - 12, left - 2, middle + 12, left + 22), ground, 12 if c.theme.icons == "circle" else 4
        )
        c.icon(e.icon, middle - 8, left + 2, 16, ink)
        left += 29
    if "selected" in e.flags:
        c.icon("check", middle - 6, box.x1 - 18, 12, c.theme.primary)
    else:
        c.icon("chevron", middle - 5, box.x1 - 14, 10, c.theme.muted)
    _two_lines(c, e, box, left, box.x1 - 16, c.theme.muted)


def _result_row(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    _row_ground(c, box)
    middle, left = (box.y0 + box.y1) // 2, box.x0 + 7
    top = middle - 8 if e.detail else middle
    c.text(e.text, top, left, theme.primary, width=box.width - 12, bold=True)
    if e.detail:
        c.text(e.detail, middle + 9, left, theme.muted, width=box.width - 12, size=-1)


def _product_row(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    _row_ground(c, box)
    height, side = min(box.height - 6, 50), 32
    y, x = (box.y0 + box.y1 - height) // 2, box.x0 + 3
    ground, ink = tile_color(theme, e.icon or e.text)
    c.rounded((y, x, y + height, x + side), ground, min(theme.radius, 6))
    if e.icon:
        glyph = side - 6
        c.icon(e.icon, y + (height - glyph) // 2, x + 3, glyph, ink)
    left = x + side + 6
    top = (box.y0 + box.y1) // 2
    bottom_line = bool(e.detail) or e.role == "sponsored_row"
    if bottom_line:
        top -= 9
    c.text(e.text, top, left, theme.text, width=box.x1 - 4 - left, bold=True)
    if e.role == "sponsored_row":
        c.rounded((top + 10, left, top + 26, left + 24), theme.accent, 3)
        c.text("Ad", top + 18, left, theme.on_accent, width=24, bold=True, size=-1, align="center")
        left += 29
    if e.detail:
        c.text(e.detail, top + 18, left, theme.primary, width=box.x1 - 4 - left, bold=True)


def _toggle(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    _row_ground(c, box)
    middle, on = (box.y0 + box.y1) // 2, "on" in e.flags
    left = box.x0 + 7
    if e.icon:
        c.icon(e.icon, middle - 9, left, 18, theme.primary)
        left += 25
    _two_lines(c, e, box, left, box.x1 - 44, theme.muted)
    y, x = middle - 10, box.x1 - 40
    if on:
        c.rounded((y, x, y + 20, x + 35), theme.primary, 10)
        c.rounded((y + 3, x + 18, y + 17, x + 32), theme.on_primary, 7)
    else:
        c.rounded((y, x, y + 20, x + 35), theme.muted, 10)
        c.rounded((y + 2, x + 2, y + 18, x + 33), theme.background, 8)
        c.rounded((y + 5, x + 5, y + 15, x + 15), theme.muted, 5)


def _checkbox(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    _row_ground(c, box)
    middle = (box.y0 + box.y1) // 2
    y, x = middle - 9, box.x0 + 6
    if "on" in e.flags:
        c.rounded((y, x, y + 18, x + 18), theme.primary, 3)
        c.icon("check", y + 3, x + 3, 12, theme.on_primary)
    else:
        c.rounded((y, x, y + 18, x + 18), theme.muted, 3)
        c.rounded((y + 2, x + 2, y + 16, x + 16), theme.background, 2)
    _two_lines(c, e, box, box.x0 + 31, box.x1 - 4, theme.muted)


def _tab(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    selected = "selected" in e.flags
    c.rectangle(box, theme.surface)
    c.rectangle((box.y1 - 1, box.x0, box.y1, box.x1), theme.border)
    ink = theme.primary if selected else theme.muted
    y = (box.y0 + box.y1) // 2
    if e.icon and not e.text:
        c.icon(e.icon, y - 9, (box.x0 + box.x1) // 2 - 9, 18, ink)
    else:
        c.text(e.text, y, box.x0 + 1, ink, width=box.width - 2, bold=selected, align="center")
    if selected:
        c.rectangle((box.y1 - 4, box.x0 + 3, box.y1, box.x1 - 3), theme.primary)


def _banner(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    c.rounded(box, theme.accent)
    left, middle = box.x0 + 8, (box.y0 + box.y1) // 2
    if e.icon:
        c.icon(e.icon, middle - 10, left, 20, theme.on_accent)
        left += 27
    width = box.x1 - 6 - left
    top = middle - 8 if e.detail else middle
    c.text(e.text, top, left, theme.on_accent, width=width, bold=True)
    if e.detail:
        c.text(e.detail, middle + 9, left, theme.on_accent, width=width, size=-1)


def _nav_button(c: Canvas, e: Element, box: Box) -> None:
    size = 15
    y, x = (box.y0 + box.y1 - size) // 2, (box.x0 + box.x1 - size) // 2
    c.icon(e.icon or "home", y, x, size, c.ink_at(box.y0 + 2, box.x0 + 1))


def _label(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    colors = {"muted": theme.muted, "price": theme.primary, "error": (200, 20, 30), "success": (0, 110, 40)}
    if theme.dark:
        colors |= {"error": (255, 140, 140), "success": (130, 230, 150)}
    color = next((colors[flag] for flag in colors if flag in e.flags), theme.text)
    bold = bool(e.flags & {"bold", "price", "error", "success"})
    most = max(1, box.height // LINE_HEIGHT)
    count = len(_wrapped(e.text, theme.font, bold, 0, box.width - 4, most))
    y = (box.y0 + box.y1) / 2 - (count - 1) * LINE_HEIGHT / 2
    c.lines(e.text, y, box.x0 + 2, color, width=box.width - 4, most=most, bold=bold)


def _heading(c: Canvas, e: Element, box: Box) -> None:
    most = max(1, (box.height - 2) // LINE_HEIGHT)
    count = len(_wrapped(e.text, c.theme.font, True, _LARGE - 1, box.width - 4, most))
    y = (box.y0 + box.y1) / 2 - (count - 1) * LINE_HEIGHT / 2
    c.lines(e.text, y, box.x0 + 2, c.theme.text, width=box.width - 4, most=most, bold=True, size=_LARGE - 1)


def _image(c: Canvas, e: Element, box: Box) -> None:
    ground, ink = tile_color(c.theme, e.icon or e.text)
    c.rounded(box, ground)
    room = box.height - (20 if e.text else 0)
    size = max(16, min(64, room - 10))
    y, x = box.y0 + (room - size) // 2, (box.x0 + box.x1 - size) // 2
    if e.icon:
        c.icon(e.icon, y, x, size, ink)
    if e.text:
        row = box.y1 - 11 if e.icon else (box.y0 + box.y1) // 2
        c.text(e.text, row, box.x0 + 4, ink, width=box.width - 8, bold=True, align="center")


def _message(c: Canvas, e: Element, box: Box) -> None:
    theme, own = c.theme, "own" in e.flags
    c.rounded(box, theme.primary if own else theme.surface, 9, outline=theme.primary if own else theme.border)
    most = max(1, (box.height - 4) // LINE_HEIGHT)
    ink = theme.on_primary if own else theme.text
    count = len(_wrapped(e.text, theme.font, False, 0, box.width - 12, most))
    y = (box.y0 + box.y1) / 2 - (count - 1) * LINE_HEIGHT / 2
    c.lines(e.text, y, box.x0 + 7, ink, width=box.width - 12, most=most)


_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _keyboard(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    c.rectangle(box, shade(220, 0.12, 0.24 if theme.dark else 0.8))
    key, ink = (shade(220, 0.12, 0.36), (250, 250, 250)) if theme.dark else ((255, 255, 255), (30, 30, 36))
    pitch = WIDTH / 10
    for row, letters in enumerate(_KEY_ROWS):
        y = box.y0 + 3 + row * KEY_HEIGHT
        x = (WIDTH - pitch * len(letters)) / 2
        for letter in letters:
            c.rounded((y, int(x) + 1, y + KEY_HEIGHT - 3, int(x + pitch) - 1), key, 3)
            c.text(letter, y + 9, int(x), ink, width=int(pitch), size=_SMALL, align="center")
            x += pitch
    y = box.y0 + 3 + 3 * KEY_HEIGHT
    c.rounded((y, 40, box.y1 - 3, 112), key, 3)


def _keyboard_key(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    c.rounded(box, theme.primary, 4)
    y = (box.y0 + box.y1) // 2
    if e.text:
        c.text(e.text, y, box.x0 + 2, theme.on_primary, width=box.width - 4, bold=True, align="center")
    elif e.icon:
        c.icon(e.icon, y - 8, (box.x0 + box.x1) // 2 - 8, 16, theme.on_primary)


def _toast(c: Canvas, e: Element, box: Box) -> None:
    ground = (238, 238, 240) if c.theme.dark else (44, 44, 50)
    c.rounded(box, ground, 12)
    most = max(1, (box.height - 8) // LINE_HEIGHT)
    count = len(_wrapped(e.text, c.theme.font, False, 0, box.width - 16, most))
    y = (box.y0 + box.y1) / 2 - (count - 1) * LINE_HEIGHT / 2
    c.lines(e.text, y, box.x0 + 8, readable_on(ground), width=box.width - 16, most=most, align="center")


def _panel(c: Canvas, e: Element, box: Box) -> None:
    theme = c.theme
    ground, ink, quiet = theme.background, theme.text, theme.muted
    y, x, width = box.y0 + 4, box.x0 + 10, box.width - 20
    if e.role == "popup":
        ground, ink, quiet = theme.accent, theme.on_accent, theme.on_accent
    c.rounded(box, ground, max(theme.radius, 4), outline=theme.text if theme.dark else theme.border)
    if e.icon:
        size = 40 if e.role == "popup" else 26
        c.icon(
            e.icon, y + 4, (box.x0 + box.x1 - size) // 2, size, ink if e.role == "popup" else theme.primary
        )
        y += size + (8 if e.role == "popup" else 6)
    align = "center" if e.icon else "left"
    if e.text:
        width_here = width if e.icon else width - 12
        y += LINE_HEIGHT * c.lines(e.text, y + 10, x, ink, width=width_here, most=2, bold=True, align=align)
    if e.detail:
        c.lines(e.detail, y + 10, x, quiet, width=width, most=3, align=align)


_PAINTERS: dict[str, Callable[[Canvas, Element, Box], None]] = {
    "launcher_icon": _launcher_icon,
    "url_bar": _url_bar,
    "search_box": _search_box,
    "text_field": _text_field,
    "button": _button,
    "icon_button": _icon_button,
    "link": _link,
    "list_row": _list_row,
    "result_row": _result_row,
    "product_row": _product_row,
    "sponsored_row": _product_row,
    "toggle": _toggle,
    "checkbox": _checkbox,
    "tab": _tab,
    "banner": _banner,
    "dialog_button": _button,
    "keyboard_key": _keyboard_key,
    "nav_button": _nav_button,
    "label": _label,
    "heading": _heading,
    "image": _image,
    "message": _message,
    "keyboard": _keyboard,
    "toast": _toast,
    **dict.fromkeys(PANEL_ROLES, _panel),
}
