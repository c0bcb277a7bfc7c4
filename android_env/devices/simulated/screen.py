"""What a simulated phone shows, as data: the vocabulary shared by the kernel, the layout and the renderer.

A `Screen` says *what* is on the display and never *where*: positions come from
`renderer.layout(screen, layout_seed=...)` and looks from a `themes.Theme`, so the same screen can be drawn in many
places and styles. Anything that composes screens from the roles below can be laid out, drawn and tapped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

SCREEN_HW = (320, 192)
"""Height and width of the simulated display, in pixels."""

TAP_ROLES: dict[str, str] = {
    "launcher_icon": "an app on the home screen: `icon` above the label `text`; arranged in a grid",
    "url_bar": "the browser's address bar: `text` is the address, `detail` the hint; at the top or the bottom",
    "search_box": "a search field with a magnifier: `text` is its content, `detail` the hint shown when empty",
    "text_field": "a form field: `text` is its content, `detail` the hint shown when empty",
    "button": "a labelled button; flag `primary` fills it; consecutive short ones share a line",
    "icon_button": "`icon` alone, in the app bar (`text` is its name for accessibility, not drawn)",
    "link": "underlined text",
    "list_row": "a row of a list: optional `icon`, `text`, optional second line `detail`, a chevron",
    "result_row": "an organic text search result: `text` and `detail`; keeps its order",
    "product_row": "a product card: thumbnail `icon`, name `text`, price `detail`; keeps its order",
    "sponsored_row": "a product card carrying an Ad mark; keeps its order",
    "toggle": "a row with a switch; flag `on` when checked",
    "checkbox": "a row with a tick box; flag `on` when checked",
    "tab": "one of a row of tabs; flag `selected`",
    "banner": "a promotional strip: optional `icon`, `text`",
    "dialog_button": "an answer of the panel (dialog, popup, sheet) in the overlay; flag `primary` fills it",
    "keyboard_key": "a key in the keyboard's last row (`text` or `icon`); needs a `keyboard` on the screen",
    "nav_button": "a key of the system navigation bar: `icon` is back, home or recents",
}
"""Roles that react to a tap, each with what is drawn for it."""

INERT_ROLES: dict[str, str] = {
    "label": "one or two lines of plain text; flags `muted`, `bold`, `price`, `error`, `success`",
    "heading": "a large bold line (a product's name, a section)",
    "image": "a picture: `icon` on a coloured ground, optional caption `text`",
    "message": "a chat bubble or note: `text` on a coloured ground; flag `own` puts it on the right",
    "keyboard": "the on-screen keyboard, at the bottom; the rest of the screen gets what is left",
    "toast": "a short notice floating near the bottom",
    "dialog": "overlay panel in the middle: optional `icon`, title `text`, message `detail`; modal",
    "popup": "overlay panel drawn as a colourful promotion: `icon`, `text`, `detail`; modal",
    "sheet": "overlay panel at the bottom edge (cookie wall): `text`, `detail`; modal",
}
"""Roles that are drawn but do not react."""

ROLES: tuple[str, ...] = (*TAP_ROLES, *INERT_ROLES)
PANEL_ROLES = frozenset({"dialog", "popup", "sheet"})
FIELD_ROLES = frozenset({"url_bar", "search_box", "text_field"})
FLAGS = frozenset(
    (
        "focused",
        "on",
        "off",
        "selected",
        "primary",
        "disabled",
        "error",
        "success",
        "muted",
        "bold",
        "price",
        "own",
        "ordered",
        "password",
    )
)
"""Words allowed in `Element.state`. `ordered` keeps a row where it stands in the sequence (see `renderer.layout`)."""


class Box(NamedTuple):
    """A rectangle in pixels, half open: rows y0..y1-1, columns x0..x1-1."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def center(self) -> tuple[float, float]:
        """The middle, (y, x) in pixels."""
        return (self.y0 + self.y1) / 2, (self.x0 + self.x1) / 2

    def contains(self, y: float, x: float) -> bool:
        return self.y0 <= y < self.y1 and self.x0 <= x < self.x1

    def overlaps(self, other: Box) -> bool:
        return self.y0 < other.y1 and other.y0 < self.y1 and self.x0 < other.x1 and other.x0 < self.x1


class InertBox(Box):
    """The box of something that is drawn but does not react (a label, a dialog's panel, a scrim).

    It compares equal to a `Box` at the same place; `hit_test` tells the two apart by type.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Element:
    """One thing on a screen.

    `id` is unique on its screen and is what `hit_test` returns. `text`, `detail`, `icon` mean what the role's line in
    `TAP_ROLES` or `INERT_ROLES` says. `state` is a space-separated set of `FLAGS`.

    Raises:
        ValueError: the role or a state flag is not in the vocabulary, or the id is empty or starts with "_".
    """

    id: str
    role: str
    text: str = ""
    icon: str = ""
    state: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if not self.id or self.id.startswith("_"):
            raise ValueError(
                f"element id {self.id!r} is empty or starts with '_', which is kept for the layout's own"
            )
        if self.role not in TAP_ROLES and self.role not in INERT_ROLES:
            raise ValueError(f"element {self.id!r} has role {self.role!r}; use one of: {', '.join(ROLES)}")
        if self.state and not self.flags <= FLAGS:
            unknown = ", ".join(sorted(self.flags - FLAGS))
            raise ValueError(
                f"element {self.id!r} has unknown state {unknown!r}; use: {', '.join(sorted(FLAGS))}"
            )

    @cached_property
    def flags(self) -> frozenset[str]:
        return frozenset(self.state.split())

    @property
    def tappable(self) -> bool:
        return self.role in TAP_ROLES


@dataclass(frozen=True)
class Screen:
    """A whole display.

    `template` names the kind of screen (it seeds the layout, so states of one template keep their places), `title` is
    drawn in the app bar (empty: no bar), `app` is the foreground app or site. `overlay` is drawn over `elements`; a
    panel in it is modal. `loading` shows a spinner over everything, and then no tap lands.
    """

    template: str
    title: str
    app: str
    elements: tuple[Element, ...] = ()
    overlay: tuple[Element, ...] = ()
    loading: bool = False

    @property
    def modal(self) -> bool:
        """Whether a panel in the overlay keeps taps from what lies under it."""
        return any(element.role in PANEL_ROLES for element in self.overlay)
