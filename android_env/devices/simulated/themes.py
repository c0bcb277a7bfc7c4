"""Looks of the simulated phone: palettes, fonts, corners and icon shapes, in disjoint named groups.

`SYSTEM_THEMES` dress the launcher and the apps, `TRAIN_SITE_THEMES` the web sites that training tasks visit,
`TEST_SITE_THEMES` only sites that no training task visits, `TUNE_SITE_THEMES` those of tuning tasks, `FINAL_SITE_THEMES`
those of final ones. `PRETRAIN_THEMES` belong to the tiny VLM's pre-training and are never worn by the simulator.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal

Color = tuple[int, int, int]
"""Red, green, blue, each 0..255."""


Font = Literal["condensed", "roboto", "mono"]
Rows = Literal["card", "divider", "plain"]
Buttons = Literal["filled", "outlined"]
Fields = Literal["outlined", "filled", "underlined"]
Tiles = Literal["circle", "square", "rounded", "bare"]
Bar = Literal["plain", "tinted", "dark"]


@dataclass(frozen=True)
class Theme:
    """How a screen looks. Colours named `on_x` are for text drawn over `x`."""

    name: str
    font: Font
    background: Color
    surface: Color
    text: Color
    muted: Color
    border: Color
    primary: Color
    on_primary: Color
    accent: Color
    on_accent: Color
    bar: Color
    on_bar: Color
    wallpaper: tuple[Color, Color]
    """Top and bottom colour behind the launcher's icons."""
    radius: int
    """Corner radius of cards and buttons, pixels."""
    rows: Rows
    buttons: Buttons
    fields: Fields
    icons: Tiles
    """What a launcher icon sits on."""
    dark: bool = False


def luminance(color: Color) -> float:
    """Relative luminance, 0 (black) to 1 (white), as WCAG 2 defines it."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: Color, b: Color) -> float:
    """WCAG 2 contrast ratio, 1 to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable_on(ground: Color) -> Color:
    """White or near-black, whichever reads better on `ground`."""
    white, black = (255, 255, 255), (16, 16, 20)
    return white if contrast(white, ground) >= contrast(black, ground) else black


def shade(hue: float, saturation: float, lightness: float) -> Color:
    """A colour from hue (degrees), saturation and lightness (both 0..1)."""
    r, g, b = colorsys.hls_to_rgb(hue % 360 / 360, lightness, saturation)
    return round(r * 255), round(g * 255), round(b * 255)


def _scaled(color: Color, factor: float) -> Color:
    r, g, b = (round(c * factor) for c in color)
    return r, g, b


def make_theme(
    name: str,
    hue: float,
    accent_hue: float,
    *,
    font: Font = "condensed",
    radius: int = 6,
    rows: Rows = "divider",
    buttons: Buttons = "filled",
    fields: Fields = "outlined",
    icons: Tiles = "rounded",
    bar: Bar = "tinted",
    paper: float = 1.0,
    dark: bool = False,
) -> Theme:
    """A legible theme around one hue (degrees).

    `paper` is the lightness of a light theme's background; cards and fields on it are white, or tinted when it is white.
    """
    if dark:
        background, surface = shade(hue, 0.22, 0.09), shade(hue, 0.2, 0.18)
        text, muted, border = (244, 244, 248), shade(hue, 0.15, 0.76), shade(hue, 0.2, 0.42)
        primary = shade(hue, 0.75, 0.7)
    else:
        background = shade(hue, 0.45, paper)
        surface = shade(hue, 0.3, 0.95) if paper > 0.985 else (255, 255, 255)
        text, muted, border = shade(hue, 0.3, 0.07), shade(hue, 0.15, 0.34), shade(hue, 0.2, 0.66)
        primary = shade(hue, 0.75, 0.38)
        while contrast(primary, background) < 4.6:  # yellows and greens are light at any lightness
            primary = _scaled(primary, 0.93)
    accent = shade(accent_hue, 0.75, 0.5)
    while contrast(readable_on(accent), accent) < 4.6:
        accent = _scaled(accent, 0.93)
    bars = {"plain": background, "tinted": primary, "dark": shade(hue, 0.35, 0.16)}
    return Theme(
        name=name,
        font=font,
        background=background,
        surface=surface,
        text=text,
        muted=muted,
        border=border,
        primary=primary,
        on_primary=readable_on(primary),
        accent=accent,
        on_accent=readable_on(accent),
        bar=bars[bar],
        on_bar=readable_on(bars[bar]),
        wallpaper=(shade(hue, 0.5, 0.22), shade(accent_hue, 0.45, 0.32))
        if dark
        else (shade(hue, 0.55, 0.86), shade(accent_hue, 0.5, 0.8)),
        radius=radius,
        rows=rows,
        buttons=buttons,
        fields=fields,
        icons=icons,
        dark=dark,
    )


SYSTEM_THEMES: tuple[Theme, ...] = (
    make_theme(
        "system-light", 214, 190, font="roboto", radius=8, icons="circle", bar="plain", fields="filled"
    ),
    make_theme("system-dark", 214, 170, font="roboto", radius=8, icons="circle", bar="plain", dark=True),
    make_theme("system-sand", 35, 20, radius=4, icons="rounded", paper=0.95, rows="card"),
    make_theme("system-slate", 250, 320, font="mono", radius=2, icons="square", bar="dark", rows="plain"),
)

TRAIN_SITE_THEMES: tuple[Theme, ...] = (
    make_theme("site-blue", 212, 48, radius=4, bar="tinted", rows="divider"),
    make_theme("site-red", 354, 40, font="roboto", radius=10, bar="plain", rows="card", paper=0.955),
    make_theme(
        "site-teal", 176, 14, font="mono", radius=0, buttons="outlined", fields="underlined", rows="plain"
    ),
    make_theme("site-night", 262, 54, radius=8, dark=True, bar="plain", rows="card", fields="filled"),
    make_theme("site-orange", 28, 205, font="roboto", radius=14, bar="dark", rows="divider", fields="filled"),
    make_theme("site-green", 132, 300, radius=6, bar="tinted", rows="card", paper=0.94, buttons="outlined"),
)

TEST_SITE_THEMES: tuple[Theme, ...] = (
    make_theme("site-plum", 308, 88, radius=12, bar="dark", rows="plain", paper=0.965, fields="filled"),
    make_theme("site-ink", 196, 340, font="roboto", radius=2, dark=True, bar="tinted", rows="divider"),
    make_theme("site-olive", 66, 260, font="mono", radius=8, bar="plain", rows="card", paper=0.92),
)

TUNE_SITE_THEMES: tuple[Theme, ...] = (
    make_theme("site-rust", 12, 150, radius=5, bar="plain", rows="divider", paper=0.975, fields="outlined"),
)

FINAL_SITE_THEMES: tuple[Theme, ...] = (
    make_theme("site-moss", 92, 232, radius=7, bar="dark", rows="divider", paper=0.945, buttons="outlined"),
    make_theme(
        "site-indigo",
        236,
        110,
        font="mono",
        radius=11,
        dark=True,
        bar="plain",
        rows="plain",
        fields="underlined",
    ),
)


def _pretrain_themes() -> tuple[Theme, ...]:
    """Thirty themes that walk through hues and styles in co-prime strides."""
    fonts: tuple[Font, ...] = ("condensed", "roboto", "condensed", "mono", "roboto")
    rows: tuple[Rows, ...] = ("card", "divider", "plain")
    buttons: tuple[Buttons, ...] = ("filled", "outlined")
    fields: tuple[Fields, ...] = ("outlined", "filled", "underlined")
    tiles: tuple[Tiles, ...] = ("circle", "square", "rounded", "bare")
    bars: tuple[Bar, ...] = ("plain", "tinted", "dark")
    return tuple(
        make_theme(
            f"pretrain-{index:02d}",
            7 + 137.5 * index,
            101 + 222.5 * index,
            font=fonts[index % 5],
            radius=(1, 5, 9, 13, 3, 7, 11)[index % 7],
            rows=rows[index // 2 % 3],
            buttons=buttons[index // 3 % 2],
            fields=fields[index // 5 % 3],
            icons=tiles[index // 2 % 4],
            bar=bars[index % 3],
            paper=(1.0, 0.96, 0.93, 0.975)[index // 4 % 4],
            dark=index % 4 == 3,
        )
        for index in range(30)
    )


PRETRAIN_THEMES: tuple[Theme, ...] = _pretrain_themes()

THEMES: dict[str, Theme] = {
    theme.name: theme
    for group in (
        SYSTEM_THEMES,
        TRAIN_SITE_THEMES,
        TEST_SITE_THEMES,
        TUNE_SITE_THEMES,
        FINAL_SITE_THEMES,
        PRETRAIN_THEMES,
    )
    for theme in group
}
"""Every theme by name."""
