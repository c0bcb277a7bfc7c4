"""Where things go: turns a `Screen` into pixel boxes, differently for every layout seed.

Bars, grids, lists and panels are placed by role, so any screen made of the vocabulary's roles has a layout. What varies
with the seed: whether the address bar is above or below, where the search box stands, margins, heights and gaps, the
order of launcher icons, settings rows, tabs, links and buttons, where a dialog appears and the order of its answers.
Every choice is drawn from a hash of (seed, what is being chosen, element id) and not from a running generator: an
element keeps its place while the state of its screen changes.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby

from android_env.devices.simulated.screen import (
    PANEL_ROLES,
    SCREEN_HW,
    Box,
    Element,
    InertBox,
    Screen,
)

HEIGHT, WIDTH = SCREEN_HW
STATUS_HEIGHT = 16
GESTURE_HEIGHT = 9
NAV_HEIGHT = 27
BAR_HEIGHT = 30
KEY_HEIGHT = 22
KEYBOARD_HEIGHT = 3 * KEY_HEIGHT + 28
CHAR_WIDTH = 8
"""Widest average advance of the fonts, pixels; boxes are sized by it so that no theme has to shorten their text."""
LINE_HEIGHT = 18

MIN_TARGET = 24
"""No tap target is lower or narrower than this, pixels."""

_SHUFFLED = {
    "list_row": "rows",
    "toggle": "rows",
    "checkbox": "rows",
    "button": "buttons",
    "dialog_button": "buttons",
    "keyboard_key": "buttons",
    "link": "links",
    "launcher_icon": "icons",
    "icon_button": "icon buttons",
    "tab": "tabs",
}
"""Neighbours of one of these kinds swap places with the seed, unless flagged `ordered`."""

_HEIGHTS = {
    "search_box": (28, 40),
    "url_bar": (28, 32),
    "text_field": (30, 42),
    "button": (28, 38),
    "icon_button": (28, 32),
    "link": (24, 28),
    "list_row": (28, 42),
    "result_row": (36, 52),
    "product_row": (37, 62),
    "sponsored_row": (37, 62),
    "toggle": (28, 40),
    "checkbox": (28, 40),
    "tab": (28, 34),
    "banner": (30, 48),
    "dialog_button": (28, 34),
    "keyboard_key": (28, 34),
    "nav_button": (27, 27),
    "launcher_icon": (50, 70),
    "label": (18, 22),
    "heading": (22, 28),
    "image": (44, 96),
    "message": (24, 34),
    "keyboard": (KEYBOARD_HEIGHT, KEYBOARD_HEIGHT),
    "toast": (28, 32),
    "dialog": (40, 60),
    "popup": (40, 60),
    "sheet": (40, 60),
}
"""Least and most comfortable height of each role's box with one line of text, pixels."""


def layout(screen: Screen, *, layout_seed: int) -> dict[str, Box]:
    """Places every element of `screen` that fits.

    Args:
        screen: what to show.
        layout_seed: any integer; the same seed always gives the same boxes.

    Returns:
        Pixel boxes by element id, from the back to the front. Tap targets are at least `MIN_TARGET` pixels both ways
        and do not overlap within `elements` or within `overlay`. An element that found no room has no entry, as on a
        phone it would be below the fold. Entries that are drawn but do not react are `InertBox`; keys that start with
        "_" are the layout's own (title bar, scrim).

    Raises:
        ValueError: two elements share an id.
    """
    return dict(_layout(screen, layout_seed))


def hit_test(boxes: Mapping[str, Box], y_px: float, x_px: float) -> str | None:
    """Which element a tap at (y, x), in pixels, reaches: the frontmost, or None where nothing reacts."""
    for name in reversed(tuple(boxes)):
        box = boxes[name]
        if box.contains(y_px, x_px):
            return None if isinstance(box, InertBox) else name
    return None


def ui_elements(screen: Screen, boxes: Mapping[str, Box]) -> list[dict[str, object]]:
    """What an accessibility service would list: the reachable elements, in reading order.

    Each entry has `text`, `role` and `bounds` = [y, x, height, width] as fractions of the screen (AitW's order).
    Under a modal panel only the panel's elements are listed; while loading, nothing but the navigation bar.
    """
    elements = screen.overlay if screen.modal else (*screen.elements, *screen.overlay)
    if screen.loading:
        elements = ()
    shown = {e.id: e for e in (*elements, *(e for e in screen.elements if e.role == "nav_button"))}
    entries = []
    for element in sorted((e for e in shown.values() if e.id in boxes), key=lambda e: boxes[e.id]):
        y0, x0, y1, x1 = boxes[element.id]
        bounds = (y0 / HEIGHT, x0 / WIDTH, (y1 - y0) / HEIGHT, (x1 - x0) / WIDTH)
        text = " ".join(filter(None, (element.text or element.icon, element.detail)))
        entries.append({"text": text, "role": element.role, "bounds": [round(value, 4) for value in bounds]})
    return entries


def ui_elements_json(screen: Screen, boxes: Mapping[str, Box]) -> str:
    """`ui_elements` as compact JSON, for `Observation.ui_elements`."""
    return json.dumps(ui_elements(screen, boxes), separators=(",", ":"), ensure_ascii=False)


@lru_cache(maxsize=4096)
def _layout(screen: Screen, seed: int) -> tuple[tuple[str, Box], ...]:
    ids = [element.id for element in (*screen.elements, *screen.overlay)]
    if len(set(ids)) != len(ids):
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        raise ValueError(
            f"screen {screen.template!r} uses element id {repeated[0]!r} twice; give each element its own"
        )
    return tuple(_Placer(screen, seed).place().items())


class _Placer:
    """One layout in the making: the boxes so far and the free rows `top`..`bottom`."""

    def __init__(self, screen: Screen, seed: int) -> None:
        self.screen = screen
        self.seed = seed
        self.boxes: dict[str, Box] = {}
        self.top = STATUS_HEIGHT
        self.bottom = HEIGHT - GESTURE_HEIGHT

    # Choices. `key` says what is chosen; what belongs to the whole episode or app does not name the template.
    def unit(self, *key: object) -> float:
        """A number in [0, 1) that depends on the seed and `key` alone."""
        digest = blake2b(repr((self.seed, *key)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def between(self, low: int, high: int, *key: object) -> int:
        """An integer in low..high, both included; `low` if the range is empty."""
        return low + int(self.unit(*key) * (max(high, low) - low + 1))

    def shuffled(self, elements: Sequence[Element]) -> list[Element]:
        """Swaps neighbours of one kind; an `ordered` element stays where it is."""
        result: list[Element] = []
        for kind, run in groupby(elements, key=lambda e: _SHUFFLED.get(e.role, "")):
            run = list(run)
            if kind:
                free = [e for e in run if "ordered" not in e.flags]
                free = iter(sorted(free, key=lambda e: self.unit("order", self.screen.app, kind, e.id)))
                run = [e if "ordered" in e.flags else next(free) for e in run]
            result += run
        return result

    def put(self, element: Element, y0: int, x0: int, y1: int, x1: int) -> None:
        self.boxes[element.id] = (Box if element.tappable else InertBox)(y0, x0, y1, x1)

    def place(self) -> dict[str, Box]:
        screen, seed_of_app = self.screen, self.screen.app
        groups: dict[str, list[Element]] = {}
        flow: list[Element] = []
        anchored = ("nav_button", "keyboard", "keyboard_key", "url_bar", "icon_button", "tab")
        for element in screen.elements:
            (groups.setdefault(element.role, []) if element.role in anchored else flow).append(element)
        navigation = groups.get("nav_button", [])
        if navigation:
            self.bottom = HEIGHT - NAV_HEIGHT
        for element in screen.overlay:
            if element.role == "toast":  # drawn in front, yet taps pass through it
                self.toast(element)
        if "keyboard" in groups:
            self.keyboard(groups["keyboard"][0], groups.get("keyboard_key", []))
        else:
            flow += groups.get("keyboard_key", [])
        flow += groups.get("url_bar", [])[1:]
        buttons = self.shuffled(groups.get("icon_button", []))
        if "url_bar" in groups:
            beside = [] if screen.title else buttons[:2]
            buttons = buttons[len(beside) :]
            self.url_bar(groups["url_bar"][0], beside)
        if screen.title:
            self.title_bar(buttons[:3])
            buttons = buttons[3:]
        flow = buttons + flow
        if "tab" in groups:
            self.tabs(groups["tab"])
        searches = [e for e in flow if e.role == "search_box"]
        if searches:
            slot = self.unit("search box", seed_of_app)
            if slot < 0.4:  # under the bars
                flow = [searches[0], *(e for e in flow if e is not searches[0])]
            elif slot < 0.7:  # docked at the bottom
                flow = [e for e in flow if e is not searches[0]]
                self.docked(searches[0])
        self.flow(flow)
        if any(element.role != "toast" for element in screen.overlay):
            self.panel([element for element in screen.overlay if element.role != "toast"])
        if screen.loading:
            self.boxes["_loading"] = InertBox(STATUS_HEIGHT, 0, HEIGHT, WIDTH)
        self.navigation(navigation)
        return self.boxes

    # Fixed furniture.
    def navigation(self, buttons: Sequence[Element]) -> None:
        if self.unit("navigation order") < 0.5:
            buttons = buttons[::-1]
        for index, element in enumerate(buttons[: WIDTH // MIN_TARGET]):
            count = min(len(buttons), WIDTH // MIN_TARGET)
            self.put(
                element, HEIGHT - NAV_HEIGHT, WIDTH * index // count, HEIGHT, WIDTH * (index + 1) // count
            )

    def keyboard(self, keyboard: Element, keys: Sequence[Element]) -> None:
        top, bottom = self.bottom - KEYBOARD_HEIGHT, self.bottom
        self.put(keyboard, top, 0, bottom, WIDTH)
        right = WIDTH - 3
        for key in self.shuffled(keys):
            left = right - max(40, CHAR_WIDTH * len(key.text) + 10)
            if left < 4:
                break
            self.put(key, bottom - 27, left, bottom - 2, right)
            right = left - 4
        self.bottom = top

    def url_bar(self, bar: Element, buttons: Sequence[Element]) -> None:
        height = self.between(30, 35, "url bar height")
        if self.unit("url bar below") < 0.35:
            self.bottom -= height
            y0 = self.bottom
        else:
            y0 = self.top
            self.top += height
        self.boxes["_url"] = InertBox(y0, 0, y0 + height, WIDTH)
        left, right = 5, WIDTH - 5
        for element in buttons:
            if self.unit("url side", element.id) < 0.4:
                self.put(element, y0 + 2, left - 3, y0 + 30, left + 25)
                left += 28
            else:
                self.put(element, y0 + 2, right - 25, y0 + 30, right + 3)
                right -= 28
        self.put(bar, y0 + 3, left, y0 + height - 3, right)

    def title_bar(self, buttons: Sequence[Element]) -> None:
        y0, y1 = self.top, self.top + BAR_HEIGHT
        self.boxes["_title"] = InertBox(y0, 0, y1, WIDTH)
        left, right = 0, WIDTH
        for index, element in enumerate(buttons):
            if element.icon in ("back", "menu", "close") or (
                index == 0 and self.unit("title side", self.screen.app) < 0.25
            ):
                self.put(element, y0 + 1, left + 1, y1 - 1, left + 30)
                left += 30
            else:
                self.put(element, y0 + 1, right - 30, y1 - 1, right - 1)
                right -= 30
        self.boxes["_title_text"] = InertBox(y0, left + 8, y1, right - 4)
        self.top = y1

    def tabs(self, tabs: Sequence[Element]) -> None:
        tabs = self.shuffled(tabs)[: WIDTH // 44]
        if self.unit("tabs below", self.screen.app) < 0.4:
            self.bottom -= 30
            y0 = self.bottom
        else:
            y0 = self.top
            self.top += 30
        for index, element in enumerate(tabs):
            self.put(element, y0, WIDTH * index // len(tabs), y0 + 30, WIDTH * (index + 1) // len(tabs))

    def docked(self, element: Element) -> None:
        height = self.between(*_HEIGHTS[element.role], "docked", element.id)
        margin = self.margin()
        self.bottom -= height + 3
        self.put(element, self.bottom, margin, self.bottom + height, WIDTH - margin)

    def toast(self, element: Element) -> None:
        height = 14 + LINE_HEIGHT * _lines(element.text, (WIDTH - 44) // CHAR_WIDTH, 2)
        y1 = HEIGHT - self.between(40, 90, "toast")
        self.boxes[element.id] = InertBox(y1 - height, 14, y1, WIDTH - 14)

    # The page: blocks from top to bottom.
    def margin(self) -> int:
        return self.between(3, 9, "margin", self.screen.app)

    def flow(self, elements: Sequence[Element]) -> None:
        margin = self.margin()
        width = WIDTH - 2 * margin
        blocks: list[tuple[Element, ...]] = []
        for role, run in groupby(self.shuffled(elements), key=lambda e: e.role):
            if role == "launcher_icon":
                blocks.append(tuple(run))
            elif role in ("button", "icon_button", "dialog_button", "keyboard_key"):
                blocks += self.lines(run, width, f"{role} lines")
            else:
                blocks += [(element,) for element in run]
        sizes = [self.block_heights(block, width) for block in blocks]
        available = self.bottom - self.top
        gap = 2
        while blocks and sum(low + gap for low, _ in sizes) > available:
            last = blocks.pop()
            sizes.pop()
            if last[0].role == "launcher_icon" and len(last) > 1:  # a smaller grid may fit
                blocks.append(last[:-1])
                sizes.append(self.block_heights(last[:-1], width))
        if not blocks:
            return
        key = (self.screen.template, self.screen.app)
        low, high = (sum(size[i] + gap for size in sizes) for i in (0, 1))
        stretch = min(1.0, max(0.0, (available - low) / max(high - low, 1))) * (
            0.55 + 0.45 * self.unit("stretch", *key)
        )
        heights = [int(a + (b - a) * stretch) for a, b in sizes]
        spare = max(0, available - sum(heights) - gap * len(blocks))
        # Spare room goes above the first block, between blocks, and below the last, in seeded shares.
        lead = int(spare * self.unit("lead", *key) * 0.7)
        shares = [self.unit("gap", *key, block[0].id) ** 2 for block in blocks]
        between = min(spare - lead, 9 * len(blocks)) * self.unit("between", *key)
        y = self.top + gap + lead
        for block, height, share in zip(blocks, heights, shares, strict=True):
            if block[0].role == "launcher_icon":
                self.grid(block, y, min(y + height, self.bottom))
            else:
                self.block(block, y, height, margin, width)
            y += height + gap + int(between * share / sum(shares)) if sum(shares) else height + gap

    def lines(self, run: Iterable[Element], width: int, key: str) -> list[tuple[Element, ...]]:
        """Packs buttons into lines; with some seeds each keeps a line of its own."""
        stacked = self.unit(key, self.screen.template) < 0.35
        lines: list[list[Element]] = []
        used = width + 1
        for element in run:
            need = _button_width(element) + 6
            if used + need > width + 6 or (stacked and element.role != "icon_button"):
                lines.append([])
                used = 0
            lines[-1].append(element)
            used += need
        return [tuple(line) for line in lines]

    def block_heights(self, block: tuple[Element, ...], width: int) -> tuple[int, int]:
        element = block[0]
        low, high = _HEIGHTS[element.role]
        if element.role == "launcher_icon":
            rows = -(-len(block) // 3)
            return low * rows, high * max(rows, 4)
        if element.role in ("label", "heading", "message", "dialog", "popup", "sheet"):
            columns = (width if element.role in ("label", "heading") else width * 3 // 4) // CHAR_WIDTH
            if element.role == "heading":
                columns = columns * 9 // 10
            extra = LINE_HEIGHT * (_lines(element.text, columns, 2) - 1)
            low, high = low + extra, high + extra
        if element.detail and element.role in ("list_row", "toggle", "checkbox", "banner"):
            low, high = 38, 50
        if element.role == "image" and element.text:
            low += 16
        return low, high

    def block(self, block: tuple[Element, ...], y: int, height: int, margin: int, width: int) -> None:
        element = block[0]
        x0, x1 = margin, margin + width
        if len(block) > 1 or element.role in ("button", "icon_button", "dialog_button", "keyboard_key"):
            widths = [_button_width(e) for e in block]
            spare = max(0, width - sum(widths) - 6 * (len(block) - 1))
            grow = 0 if element.role == "icon_button" else self.unit("grow", self.screen.template, element.id)
            widths = [w + int(spare * grow / len(block)) for w in widths]
            spare = max(0, width - sum(widths) - 6 * (len(block) - 1))
            x = x0 + int(spare * self.unit("align", self.screen.template, element.id))
            for each, each_width in zip(block, widths, strict=True):
                self.put(each, y, x, y + height, min(x + each_width, x1))
                x += each_width + 6
            return
        if element.role == "link":
            wide = min(width, max(MIN_TARGET, CHAR_WIDTH * len(element.text) + 8))
            x0 += int((width - wide) * self.unit("link", self.screen.template))
            x1 = x0 + wide
        elif element.role == "message":
            lines = 1 if (CHAR_WIDTH + 1) * len(element.text) + 18 < width * 3 // 4 else 2
            wide = width * 3 // 4 if lines == 2 else max(56, (CHAR_WIDTH + 1) * len(element.text) + 18)
            x0, x1 = (x1 - wide, x1) if "own" in element.flags else (x0, x0 + wide)
        self.put(element, y, x0, y + height, x1)

    def grid(self, icons: Sequence[Element], y0: int, y1: int) -> None:
        """Scatters icons over the cells of a three-column grid."""
        columns = 3
        rows = max(1, min((y1 - y0) // 50, 5))
        side = self.between(0, 6, "grid margin")
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        cells.sort(key=lambda cell: self.unit("cell", self.screen.template, cell))
        # A cell is taken in the order of the icons' own hash, so the first icons do not always get the same cells.
        chosen = sorted(cells[: len(icons)]) if self.unit("grid packed") < 0.5 else cells[: len(icons)]
        height, width = (y1 - y0) // rows, (WIDTH - 2 * side) // columns
        for element, (row, column) in zip(icons, chosen, strict=False):
            y, x = y0 + row * height, side + column * width
            self.put(element, y, x, y + min(height, 72), x + width)

    # The overlay.
    def panel(self, elements: Sequence[Element]) -> None:
        panel = next((e for e in elements if e.role in PANEL_ROLES), None)
        kind = panel.role if panel else "sheet"
        width = WIDTH - 8 if kind == "sheet" else self.between(156, 176, "panel width", self.screen.template)
        inner = width - 20
        columns = inner // CHAR_WIDTH
        text_height = 8
        if panel:
            text_height += LINE_HEIGHT * _lines(panel.text, columns * 9 // 10, 2) if panel.text else 0
            text_height += LINE_HEIGHT * _lines(panel.detail, columns, 3) if panel.detail else 0
            if panel.icon:
                text_height += {"dialog": 32, "popup": 48, "sheet": 32}[kind]
        rest = [e for e in elements if e is not panel]
        corner = [e for e in rest if e.role == "dialog_button" and e.icon and not e.text][:1] if panel else []
        rows: list[tuple[Element, ...]] = []
        body = self.shuffled([e for e in rest if e not in corner])
        for role, run in groupby(body, key=lambda e: e.role):
            run = tuple(run)
            rows += self.lines(run, inner, "panel lines") if role == "dialog_button" else [(e,) for e in run]
        if corner and panel and not panel.icon:
            text_height = max(text_height, 34)
        heights = [self.block_heights(row, inner)[0] + 2 for row in rows]
        free = HEIGHT - STATUS_HEIGHT - NAV_HEIGHT - 8
        while rows and text_height + sum(h + 5 for h in heights) + 5 > free:
            rows.pop()
            heights.pop()
        height = min(free, text_height + sum(h + 5 for h in heights) + 5)
        if kind == "sheet":
            above = self.unit("sheet above", self.screen.app) < 0.3
            y0 = STATUS_HEIGHT + 4 if above else HEIGHT - NAV_HEIGHT - 4 - height
            x0 = 4
        else:
            y0 = self.between(
                STATUS_HEIGHT + 6, HEIGHT - NAV_HEIGHT - 6 - height, "panel y", self.screen.template
            )
            x0 = self.between(6, WIDTH - 6 - width, "panel x", self.screen.template)
        if panel:
            self.boxes["_scrim"] = InertBox(STATUS_HEIGHT, 0, HEIGHT, WIDTH)
            self.put(panel, y0, x0, y0 + height, x0 + width)
        else:
            self.boxes["_panel"] = InertBox(y0, x0, y0 + height, x0 + width)
        for element in corner:
            self.put(element, y0 + 2, x0 + width - 31, y0 + 31, x0 + width - 2)
        y = y0 + text_height
        for row, row_height in zip(rows, heights, strict=True):
            self.block(row, y, row_height, x0 + 10, inner)
            y += row_height + 5


def _button_width(element: Element) -> int:
    if not element.text:
        return 34
    wide = CHAR_WIDTH * len(element.text) + 16 + (20 if element.icon else 0)
    return min(max(wide, 46), WIDTH - 28)


def _lines(text: str, columns: int, most: int) -> int:
    """How many lines `text` takes, between 1 and `most`."""
    return min(most, max(1, len(textwrap.wrap(text, max(columns, 1)))))
