"""Pictograms of the simulated phone: strokes and shapes on a 24 by 24 grid, rasterised once a size.

Each icon is a little program; its steps are separated by ";" and drawn in turn. A capital letter fills what the small
one strokes, a leading "-" cuts the shape out instead:

``o x y r`` circle · ``e x0 y0 x1 y1`` ellipse · ``r x0 y0 x1 y1 radius`` rounded rectangle ·
``l x y x y ...`` polyline · ``p x y ...`` closed polygon · ``a x0 y0 x1 y1 from to`` arc, degrees clockwise from 3 o'clock.
"""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw

_SCALE = 4  # drawn this many times larger, then averaged down

_ICONS: dict[str, str] = {
    # Apps.
    "globe": "o 12 12 9;l 3 12 21 12;e 8 3 16 21",
    "gear": "O 12 12 7;R 10 1 14 23 1;R 1 10 23 14 1;L 5 5 19 19;L 19 5 5 19;-O 12 12 3.4",
    "clock": "o 12 12 9;l 12 6 12 12 17 14",
    "envelope": "r 2 5 22 19 2;l 3 7 12 14 21 7",
    "camera": "R 2 7 22 20 3;R 8 4 16 9 2;-O 12 13.5 4.5;O 12 13.5 2.4",
    "music": "E 3 15 10 21;E 13 13 20 19;R 8 4 10 18 0;R 18 3 20 16 0;P 8 4 20 2 20 6 8 8",
    "phone": "P 4 3 9 3 11 9 8 11 13 16 15 13 21 15 21 20 18 21 9 17 4 9",
    "message": "R 2 4 22 17 4;P 6 15 6 22 13 16;-O 7.5 10.5 1.4;-O 12 10.5 1.4;-O 16.5 10.5 1.4",
    "calendar": "r 3 5 21 21 2;R 3 5 21 10 1;l 8 2 8 6;l 16 2 16 6;O 8 14 1.3;O 12 14 1.3;O 16 14 1.3;O 8 18 1.3",
    "map": "P 2 6 8 3 8 18 2 21;P 9.5 3 14.5 6 14.5 21 9.5 18;P 16 6 22 3 22 18 16 21",
    "calculator": "R 4 2 20 22 2;-R 7 5 17 9 1;-O 8 13 1.3;-O 12 13 1.3;-O 16 13 1.3;-O 8 18 1.3;-O 12 18 1.3;-O 16 18 1.3",
    "folder": "R 2 7 22 20 2;R 2 4 11 10 2",
    "photo": "r 2 4 22 20 2;P 4 18 10 10 14 15 17 12 20 18;O 16 8.5 2",
    "video": "R 2 6 15 18 2;P 16 12 22 7 22 17",
    "note": "r 4 2 20 22 2;l 8 7 16 7;l 8 12 16 12;l 8 17 13 17",
    "cloud": "O 8 14 5.5;O 14 11 6.5;O 18 15 4.5;R 8 13 18 19.5 0",
    "sun": "O 12 12 5;l 12 1 12 5;l 12 19 12 23;l 1 12 5 12;l 19 12 23 12;l 4 4 7 7;l 17 17 20 20;l 4 20 7 17;l 17 7 20 4",
    "heart": "O 7.7 8.5 5;O 16.3 8.5 5;P 3.4 11 20.6 11 12 21.5",
    "bag": "R 4 8 20 22 2;a 7.5 2 16.5 14 180 360",
    "cart": "l 1 4 5 4 8 15 19 15;P 6 6 22 6 19.5 13 8 13;O 9.5 19.5 2;O 17.5 19.5 2",
    "play": "O 12 12 10;-P 9.5 7 17.5 12 9.5 17",
    "person": "O 12 7.5 4.7;P 3 21 5 15 9 13.5 15 13.5 19 15 21 21",
    "card": "R 2 5 22 19 2;-R 2 8 22 11 0;-R 5 14 11 16 0",
    "game": "R 2 7 22 18 5;-R 6 11.5 11 13.5 0;-R 7.5 10 9.5 15 0;-O 15.5 11 1.4;-O 18 14 1.4",
    "book": "R 4 3 11.4 20 1;R 12.6 3 20 20 1",
    "chart": "R 3 12 7 21 0;R 10 7 14 21 0;R 17 3 21 21 0",
    "lock": "R 4 10 20 22 2;a 7.5 2.5 16.5 17 180 360;-O 12 16 2",
    "key": "o 7 12 4.5;l 12 12 22 12;l 21 12 21 16;l 17 12 17 15.5",
    "mic": "R 8.5 2 15.5 14 3.5;a 5 5 19 18 0 180;l 12 18 12 22;l 8 22 16 22",
    "compass": "o 12 12 10;P 12 4 15 12 9 12;p 9 12 15 12 12 20",
    "paint": "O 12 12 10;-O 7.5 9 1.8;-O 12 6.5 1.8;-O 16.5 9 1.8;-O 15 16.5 3.2",
    "news": "r 3 3 21 21 1;R 6 6 12 12 0;l 15 7 18 7;l 15 11 18 11;l 6 15 18 15;l 6 18.5 18 18.5",
    # Interface.
    "search": "o 10 10 6.5;L 15 15 21 21",
    "back": "P 17 3 6 12 17 21",
    "home": "o 12 12 8",
    "recents": "r 5 5 19 19 2",
    "close": "L 5 5 19 19;L 19 5 5 19",
    "menu": "L 3 6 21 6;L 3 12 21 12;L 3 18 21 18",
    "more": "O 12 4.5 2.3;O 12 12 2.3;O 12 19.5 2.3",
    "plus": "L 12 3 12 21;L 3 12 21 12",
    "minus": "L 3 12 21 12",
    "check": "L 3 12 10 19 21 5",
    "chevron": "l 9 4 17 12 9 20",
    "star": "P 12 1.5 15 9 23 9.2 16.8 14 19 22 12 17.3 5 22 7.2 14 1 9.2 9 9",
    "bell": "P 4 18 6 15 6 9 9 5 15 5 18 9 18 15 20 18;O 12 20 2.4;O 12 4 1.8",
    "share": "O 6 12 3.2;O 18 5 3.2;O 18 19 3.2;l 6 12 18 5;l 6 12 18 19",
    "download": "L 12 3 12 14;P 5 11 19 11 12 18.5;L 3 21.5 21 21.5",
    "trash": "R 5 7 19 22 2;R 3 4 21 6.4 1;R 9 2 15 5 1;-R 8.7 10 10.3 19 0;-R 13.7 10 15.3 19 0",
    "edit": "P 3 21 4 16 15 5 19 9 8 20;P 16 4 18.5 1.5 22.5 5.5 20 8",
    "refresh": "a 4 4 20 20 300 240;P 13 1 21 3 17 10",
    "filter": "P 2 4 22 4 14 13 14 21 10 19 10 13",
    "info": "O 12 12 10;-R 10.7 10.5 13.3 18 0;-O 12 7 1.7",
    "warning": "P 12 2 23 21 1 21;-R 10.8 8 13.2 15 0;-O 12 17.8 1.5",
    "gift": "R 3 11 21 22 1;R 2 6 22 10 1;o 8 4 2.5;o 16 4 2.5;-R 11 6 13 22 0",
    "tag": "P 2 11 11 2 21 2 22 3 22 13 13 22;-O 17 7 2",
    "pin": "O 12 9 7;P 5.7 12 18.3 12 12 23;-O 12 9 2.7",
    "wifi": "a 1 5 23 27 225 315;a 5.5 10 18.5 23 225 315;O 12 19 2.2",
    "bluetooth": "l 6 7 18 17 12 22 12 2 18 7 6 17",
    "battery": "r 2 7 19 17 2;R 4.5 9.5 13 14.5 0;R 20 10 23 14 1",
    "moon": "O 12 12 9.5;-O 16.5 8.5 8",
    "airplane": "P 11 1 13 1 14 9 23 15 23 17 14 14 13.5 20 16 22.5 8 22.5 10.5 20 10 14 1 17 1 15 10 9",
    "volume": "P 2 9 7 9 13 3 13 21 7 15 2 15;a 10 7 18 17 300 60;a 9 3 22 21 300 60",
    "flag": "L 5 2 5 22;P 6 3 21 7 6 13",
    "alarm": "o 12 13 8;l 12 8 12 13 15.5 15;L 2 6 7 2;L 22 6 17 2",
    "timer": "P 5 2 19 2 13 12 19 22 5 22 11 12",
    "send": "P 2 3 23 12 2 21 5 12",
    "torch": "P 7 2 17 2 17 7 14.5 10 14.5 22 9.5 22 9.5 10 7 7;-O 12 14 1.4",
    "eye": "E 1 5 23 19;-O 12 12 5;O 12 12 2.8",
    # Goods.
    "laptop": "r 4 4 20 16 1;R 1 18 23 21 1",
    "handset": "R 6 1 18 23 3;-R 8 4 16 18 0;-O 12 20.5 1.2",
    "headphones": "a 3 3 21 23 180 360;R 2 13 7 21 2;R 17 13 22 21 2",
    "television": "r 2 4 22 17 1;L 7 21 17 21;l 12 17 12 21",
    "watch": "R 9 1 15 23 1;O 12 12 7;-O 12 12 4.6;l 12 9 12 12 14 13",
    "shoe": "P 2 8 6 10 10 7 14 12 21 14 22 18 2 18;R 2 19 22 21 0",
    "shirt": "P 8 3 16 3 23 8 20 12 17.5 10.5 17.5 21 6.5 21 6.5 10.5 4 12 1 8;-O 12 3 2.5",
    "lamp": "P 8 3 16 3 20 12 4 12;L 12 12 12 20;R 7 19.5 17 22 1",
    "chair": "R 6 2 9 13 1;R 6 11 19 15 1;L 7.5 14 7.5 22;L 17.5 14 17.5 22",
    "mug": "R 3 6 16 21 2;a 12 8 22 18 270 90",
    "bottle": "R 10 1 14 7 1;P 10 6 14 6 17 11 17 22 7 22 7 11;-R 7 14 17 18 0",
    "backpack": "R 4 6 20 22 5;a 8 1 16 12 180 360;-R 7 14 17 16 0",
    "keyboard": "R 1 6 23 19 2;-O 5 10 1.2;-O 9.6 10 1.2;-O 14.3 10 1.2;-O 19 10 1.2;-R 6 14 18 16 0",
    "mouse": "R 6 2 18 22 6;-R 11 5 13 11 1",
    "speaker": "R 5 1 19 23 2;-O 12 6 2.2;-O 12 15 5;O 12 15 2",
    "drone": "O 4.5 6 3.6;O 19.5 6 3.6;O 4.5 18 3.6;O 19.5 18 3.6;L 4.5 6 19.5 18;L 19.5 6 4.5 18",
    "bike": "o 5.5 16 4.3;o 18.5 16 4.3;l 5.5 16 9 8 16 8 18.5 16;l 9 8 12 16 16 8;l 16 8 15 5 19 5;l 7 7 11 7",
    "tent": "P 12 3 23 21 1 21;-P 12 12 16 21 8 21",
    "guitar": "O 8 16 5.5;O 11.5 11.5 4;L 12 12 21 3;-O 9.5 14.5 2",
    "pan": "O 9 13 7.5;L 15 10 23 6;-O 9 13 4.5",
    "plant": "P 6 15 18 15 16 23 8 23;l 12 15 12 8;E 3 3 12 10;E 12 5 21 12",
    "ball": "o 12 12 10;P 12 7.5 16.5 11 15 16 9 16 7.5 11;l 12 8 12 2;l 16 11 21 9;l 8 11 3 9;l 15 15 18 20;l 9 15 6 20",
    "glasses": "o 6.5 13 4.5;o 17.5 13 4.5;l 11 12 13 12;l 2 12 4 6;l 22 12 20 6",
    "hat": "E 1 14 23 20;P 6 16 7 5 17 5 18 16",
    "umbrella": "P 1 12 4 6 9 3 12 2 15 3 20 6 23 12;L 12 11 12 20;a 12 16 18 23 0 180",
    "printer": "R 2 9 22 18 2;r 6 3 18 9 0;R 6 14 18 22 0;-R 8 16 16 20 0",
    "sofa": "R 4 6 20 14 2;R 1 10 5 20 2;R 19 10 23 20 2;R 4 14.5 20 19 0",
    "jacket": "P 8 2 11.4 4 11.4 22 5 22 5 12 2 14 1 10 4 4;P 16 2 12.6 4 12.6 22 19 22 19 12 22 14 23 10 20 4",
}


def icon_names() -> tuple[str, ...]:
    """Every pictogram's name, in a fixed order."""
    return tuple(_ICONS)


@lru_cache(maxsize=1024)
def icon_mask(name: str, size: int) -> Image.Image:
    """Opacity of one pictogram: an "L" image of `size` by `size` pixels; shared, do not draw on it.

    Raises:
        ValueError: there is no pictogram of that name.
    """
    if name not in _ICONS:
        raise ValueError(f"no icon is called {name!r}; choose one of: {', '.join(_ICONS)}")
    image = Image.new("L", (size * _SCALE, size * _SCALE), 0)
    draw = ImageDraw.Draw(image)
    for step in _ICONS[name].split(";"):
        shape, *numbers = step.split()
        _draw_step(draw, shape, [float(number) for number in numbers], size * _SCALE / 24)
    return image.resize((size, size), Image.Resampling.BOX)


def _draw_step(draw: ImageDraw.ImageDraw, shape: str, numbers: list[float], unit: float) -> None:
    ink = 0 if shape.startswith("-") else 255
    shape = shape.lstrip("-")
    stroke = round(2 * unit)
    xy = [number * unit for number in numbers]
    fill, outline = (ink, None) if shape.isupper() else (None, ink)
    match shape.lower():
        case "o":
            x, y, r = xy
            draw.ellipse((x - r, y - r, x + r, y + r), fill, outline, stroke)
        case "e":
            draw.ellipse(xy, fill, outline, stroke)
        case "r":
            draw.rounded_rectangle(xy[:4], xy[4], fill, outline, stroke)
        case "p":
            if shape == "P":
                draw.polygon(xy, fill=ink)
            else:
                draw.line([*xy, *xy[:2]], fill=ink, width=stroke, joint="curve")
        case "l":
            draw.line(xy, fill=ink, width=stroke if shape == "l" else round(3.2 * unit), joint="curve")
        case "a":
            draw.arc(xy[:4], numbers[4], numbers[5], fill=ink, width=round(2.4 * unit))
        case _:
            raise ValueError(f"unknown drawing step {shape!r}")
