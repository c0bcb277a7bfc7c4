"""Screens to pre-train on, with goals: drawn by the simulated phone's code, but with other sites, apps and words.

A scene is a screen composed around a goal, so that names on the screen are often the goal's, often similar to the
goal's and often neither. It keeps the facts (the address, the query, the field's content) from which
:mod:`digiq.vlm.tiny.questions` derives answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from android_env.devices.simulated.icons import icon_names
from android_env.devices.simulated.screen import Element, Screen
from digiq.vlm.tiny.words import Words

ICONS: tuple[str, ...] = tuple(sorted(icon_names()))
"""Pictograms known to the drawing code."""


@dataclass(frozen=True)
class Goal:
    """A goal and the names in it: ``place`` (a site or an app) and ``query`` (a thing); either may be empty."""

    text: str
    place: str = ""
    query: str = ""
    entry: bool = False
    """Whether the goal ends by selecting the first entry."""


@dataclass(frozen=True)
class Scene:
    """A screen and the facts about it."""

    screen: Screen
    goal: Goal
    kind: str
    """One of the screen kinds in :data:`digiq.vlm.tiny.architecture.ANSWERS`."""
    address: str = ""
    """Text of the address bar; empty without one."""
    query: str = ""
    """The query whose results are shown, if any."""
    field: str | None = None
    """Id of the focused field, else of the only field, else None."""
    first: str | None = None
    """Id of the first organic entry."""
    elements: dict[str, Element] = dataclasses.field(default_factory=dict)

    @property
    def field_element(self) -> Element | None:
        return self.elements.get(self.field or "")

    @property
    def overlay(self) -> str:
        """Role of the panel on top, ``loading``, or empty."""
        if self.screen.loading:
            return "loading"
        panels = [e.role for e in self.screen.overlay if e.role in ("dialog", "popup", "sheet")]
        return panels[0] if panels else ""


def make_goal(w: Words, *, web: bool | None = None) -> Goal:
    """A random goal in one of the families' wordings."""
    if w.chance(0.65) if web is None else web:
        place, query = w.site(), w.thing()
        asked = f'"{query}"' if w.chance(0.5) else query
        go, look = (
            w.pick(("Go to", "Go to", "Visit", "Open")),
            w.pick(("search for", "search for", "look up")),
        )
        end = w.pick((", and select the first entry", " and select the first entry"))
        level = int(w.rng.integers(3))
        if level == 0:
            return Goal(f"{go} {place}", place)
        if w.chance(0.12):
            text = f"{look.capitalize()} {asked} on {place}"
        else:
            text = f"{go} {place}{w.pick((', ', ', ', ' and '))}{look} {asked}"
        return Goal(text + (end if level == 2 else ""), place, query, level == 2)
    place, query = w.app(), w.thing()
    shape = w.pick(
        (
            "Open {p}",
            "Open the {p} app",
            "Open {p} and turn on {q}",
            "Open {p} and turn off {q}",
            "Turn on {q}",
            "Turn off {q}",
            "Open {p} and search for {q}",
            "Open {p} and select {q}",
            "Read the message from {q}",
            "Find {q} in {p}",
            "Set {q} in {p}",
            "Open the {q} settings",
            "Show {q}",
            "Start {q}",
            "Send {q} to {p}",
            "Delete {q}",
        )
    )
    return Goal(
        shape.format(p=place, q=query),
        place if "{p}" in shape else "",
        query if "{q}" in shape else "",
    )


def rename(goal: Goal, place: str, query: str) -> Goal:
    """The same wording with other names."""
    text = goal.text
    if goal.place:
        text = text.replace(goal.place, "\0")
    if goal.query:
        text = text.replace(goal.query, query)
    return replace(
        goal,
        text=text.replace("\0", place),
        place=place if goal.place else "",
        query=query if goal.query else "",
    )


def make_scene(w: Words) -> Scene:
    """A goal and a screen around it."""
    goal = make_goal(w)
    web = "." in goal.place
    builders = _WEB if (w.chance(0.85) if web else w.chance(0.15)) else _GENERAL
    weights = np.array([weight for _, weight in builders], float)
    build = builders[int(w.rng.choice(len(builders), p=weights / weights.sum()))][0]
    return _Composer(w, goal).finish(build)


class _Composer:
    """Collects a screen's elements; one object per scene."""

    def __init__(self, w: Words, goal: Goal):
        self.w, self.goal = w, goal
        self.elements: list[Element] = []
        self.title = ""
        self.kind = "page"
        self.address = self.query = ""
        self.field: str | None = None
        self.first: str | None = None
        self.style = w.pick((str.title, str.title, str.capitalize, str.lower, str))

    # Which names appear: the goal's, a similar one, or any.
    def place(self) -> str:
        return self._drawn(self.goal.place, self.w.site)

    def app(self) -> str:
        name = self._drawn(self.goal.place, self.w.app)
        return name.split(".")[0] if self.w.chance(0.9) else name

    def thing(self) -> str:
        return self._drawn(self.goal.query, self.w.thing)

    def _drawn(self, name: str, other: Callable[[], str]) -> str:
        p = self.w.rng.random()
        if name and p < 0.5:
            return name
        return self.w.near(name) if name and p < 0.75 else other()

    def names(self, count: int, *, app: bool = False) -> list[str]:
        """Distinct names for rows, perhaps including the goal's and a similar one."""
        w = self.w
        wanted = self.goal.place.split(".")[0] if app else self.goal.query or self.goal.place
        other = w.app if app else w.thing
        names = [other() for _ in range(count)]
        if wanted and count and w.chance(0.65):
            names[int(w.rng.integers(count))] = wanted
        if wanted and count > 1 and w.chance(0.6):
            names[int(w.rng.integers(count))] = w.near(wanted)
        return list(dict.fromkeys(names))

    def add(self, role: str, text: str = "", *, icon: str = "", state: str = "", detail: str = "") -> str:
        name = f"e{len(self.elements)}"
        self.elements.append(Element(name, role, text, icon, state, detail))
        return name

    def icon(self) -> str:
        return self.w.pick(ICONS)

    def flag(self, p: float, flag: str) -> str:
        return flag if self.w.chance(p) else ""

    def bar(self, address: str, *, focused: bool = False) -> None:
        self.address = "" if focused else address
        state = "focused" if focused else ""
        name = self.add("url_bar", address, state=state, detail=self.w.pick(_ADDRESS_HINTS))
        if focused:
            self.field = name

    def search(self, text: str, *, focused: bool = False) -> None:
        state = "focused" if focused else ""
        name = self.add("search_box", text, state=state, detail=self.w.pick(_SEARCH_HINTS))
        if focused or self.field is None:
            self.field = name

    # Screens.
    def launcher(self) -> None:
        self.kind = "launcher"
        for name in self.names(int(self.w.rng.integers(4, 12)), app=True):
            self.add("launcher_icon", self.style(name), icon=self.icon())

    def browser(self) -> None:
        self.kind = "browser"
        typed = self.w.chance(0.6)
        text = self.w.pick((self.place, self.place, self.thing))() if typed else ""
        focused = typed or self.w.chance(0.4)
        self.bar(text, focused=focused)
        if self.field is None:
            self.field = self.elements[-1].id
        if self.w.chance(0.5):
            self.add("heading", self.style(self.w.thing()))
        for _ in range(int(self.w.rng.integers(0, 4))):
            self.add(self.w.pick(("link", "list_row")), self.place())
        if focused and self.w.chance(0.8):
            self.keyboard()

    def web_results(self) -> None:
        self.kind = "web results"
        asked = self.place() if self.w.chance(0.6) else self.thing()
        self.address = self.w.pick(("", self.w.site()))
        if self.address or self.w.chance(0.5):
            self.bar(self.address or asked)
        if self.w.chance(0.6):
            self.search(asked)
        self.query = asked
        for index in range(int(self.w.rng.integers(2, 5))):
            site = self.place()
            title = self.style(site.split(".")[0]) if self.w.chance(0.5) else self.style(self.w.thing())
            text, detail = (title, site) if self.w.chance(0.6) else (site, self.style(self.w.thing()))
            role = "sponsored_row" if index == 0 and self.w.chance(0.2) else "result_row"
            name = self.add(role, text, detail=detail, state="ordered")
            if role == "result_row" and self.first is None:
                self.first = name

    def site_home(self) -> None:
        self.kind = "site home"
        site = self.place()
        self.bar(site)
        if self.w.chance(0.6):
            self.title = self.style(site.split(".")[0])
        self.header()
        self.search("")
        if self.w.chance(0.5):
            self.add("banner", self.style(self.w.thing()), icon=self.icon())
        for name in self.names(int(self.w.rng.integers(1, 4))):
            self.add(self.w.pick(("link", "list_row", "button")), self.style(name))

    def search_page(self) -> None:
        self.kind = "search page"
        if self.w.chance(0.8):
            self.bar(self.place())
        text = self.w.pick((self.thing, self.thing, self.thing, self.place))() if self.w.chance(0.7) else ""
        self.search(text, focused=True)
        for name in self.names(int(self.w.rng.integers(0, 4))) if self.w.chance(0.6) else ():
            self.add(self.w.pick(("list_row", "link")), name)
        if self.w.chance(0.3):
            self.add("button", self.w.pick(("Search", "Go", "Find")), state="primary")
        if self.w.chance(0.85):
            self.keyboard()

    def product_list(self) -> None:
        self.kind = "product list"
        self.bar(self.place())
        self.query = self.thing()
        how = self.w.rng.random()
        if how < 0.7:
            self.search(self.query)
        if how > 0.5:
            self.add("label", self.w.pick(("Results for {}", '"{}"', "{}")).format(self.query))
        sponsored = self.w.chance(0.45)
        for index in range(int(self.w.rng.integers(2, 5))):
            role = "sponsored_row" if index == 0 and sponsored else "product_row"
            text = self.query if self.w.chance(0.5) else self.thing()
            text += f" {self.w.word()}" if self.w.chance(0.4) else ""
            name = self.add(role, self.style(text), icon=self.icon(), detail=self.w.price(), state="ordered")
            if role == "product_row" and self.first is None:
                self.first = name

    def details(self) -> None:
        self.kind = "details"
        self.bar(self.place())
        if self.w.chance(0.4):
            self.search(self.w.pick(("", self.thing())))
        self.add("image", icon=self.icon())
        self.add("heading", self.style(self.thing()))
        self.add("label", self.w.price(), state="price")
        if self.w.chance(0.5):
            self.add("label", self.style(self.w.thing()), state="muted")
        for name in self.w.rng.permutation(_BUY)[: int(self.w.rng.integers(1, 3))]:
            self.add("button", str(name), state=self.flag(0.5, "primary"))

    def settings(self) -> None:
        self.kind = "settings"
        self.title = self.style(self.app())
        self.header()
        for name in self.names(int(self.w.rng.integers(3, 6))):
            if self.w.chance(0.6):
                self.add(
                    self.w.pick(("toggle", "toggle", "checkbox")),
                    self.style(name),
                    state=self.flag(0.5, "on"),
                )
            else:
                detail = self.style(self.w.word()) if self.w.chance(0.4) else ""
                icon = self.icon() if self.w.chance(0.5) else ""
                self.add("list_row", self.style(name), icon=icon, detail=detail)

    def list(self) -> None:
        self.kind = "list"
        self.title = self.style(self.app())
        self.header()
        if self.w.chance(0.3):
            names = self.names(3)
            for index, name in enumerate(names):
                self.add("tab", self.style(name.split()[0]), state="selected" if index == 0 else "")
        if self.w.chance(0.35):
            self.search(self.w.pick(("", self.thing())))
        for name in self.names(int(self.w.rng.integers(2, 6))):
            detail = self.style(self.w.thing()) if self.w.chance(0.5) else ""
            icon = self.icon() if self.w.chance(0.5) else ""
            self.add("list_row", self.style(name), icon=icon, detail=detail)

    def form(self) -> None:
        self.kind = "form"
        self.title = self.style(self.app())
        self.header()
        if self.w.chance(0.5):
            self.add("heading", self.style(self.w.thing()))
        count = int(self.w.rng.integers(1, 4))
        focus = int(self.w.rng.integers(-1, count))
        for index in range(count):
            text = self.thing() if self.w.chance(0.6) else ""
            name = self.add(
                "text_field",
                text,
                detail=self.style(self.w.word()),
                state="focused" if index == focus else "",
            )
            if index == focus or count == 1:
                self.field = name
        if self.w.chance(0.4):
            self.add("checkbox", self.style(self.thing()), state=self.flag(0.5, "on"))
        for name in self.w.rng.permutation(_BUTTONS)[: int(self.w.rng.integers(1, 3))]:
            state = self.flag(0.4, "primary") or self.flag(0.15, "disabled")
            self.add("button", str(name) if self.w.chance(0.6) else self.style(self.w.word()), state=state)
        if focus >= 0 and self.w.chance(0.6):
            self.keyboard()

    def chat(self) -> None:
        self.kind = "chat"
        self.title = self.style(self.thing())
        self.header()
        for _ in range(int(self.w.rng.integers(1, 4))):
            self.add("message", self.style(self.w.thing()), state=self.flag(0.5, "own"))
        text = self.thing() if self.w.chance(0.5) else ""
        focused = self.w.chance(0.6)
        self.field = self.add(
            "text_field", text, detail=self.style(self.w.word()), state="focused" if focused else ""
        )
        if focused and self.w.chance(0.7):
            self.keyboard()

    def page(self) -> None:
        self.kind = "page"
        self.title = self.style(self.app()) if self.w.chance(0.6) else ""
        if self.w.chance(0.5):
            self.bar(self.place())
        self.add("heading", self.style(self.thing()))
        for name in self.names(int(self.w.rng.integers(2, 6))):
            role = self.w.pick(("label", "link", "button", "list_row", "banner", "image"))
            icon = self.icon() if role in ("banner", "image") else ""
            self.add(role, self.style(name), icon=icon)

    # Parts.
    def header(self) -> None:
        for _ in range(int(self.w.rng.integers(0, 3)) if self.title else 0):
            icon = self.icon()
            self.add("icon_button", icon, icon=icon)

    def keyboard(self) -> None:
        self.add("keyboard")
        if self.w.chance(0.7):
            self.add("keyboard_key", self.w.pick(("Go", "Done", "Enter", "Search")))

    def panel(self) -> tuple[Element, ...]:
        role = self.w.pick(("dialog", "popup", "sheet"))
        parts = [
            Element(
                "o0",
                role,
                self.style(self.w.thing()),
                icon=self.icon() if role != "sheet" else "",
                detail=self.style(self.w.thing(28)) if self.w.chance(0.6) else "",
            )
        ]
        answers = self.w.rng.permutation(_PANEL_BUTTONS)[: int(self.w.rng.integers(1, 3))]
        for index, text in enumerate(answers):
            text = str(text) if self.w.chance(0.7) else self.style(self.w.word())
            state = "primary" if index == 0 and self.w.chance(0.6) else ""
            parts.append(Element(f"o{index + 1}", "dialog_button", text, state=state))
        return tuple(parts)

    def finish(self, build: Callable[[_Composer], None]) -> Scene:
        build(self)
        w = self.w
        if w.chance(0.5):
            for icon in ("back", "home", "recents"):
                self.add("nav_button", icon=icon)
        overlay = self.panel() if w.chance(0.16) else ()
        if not overlay and w.chance(0.06):
            overlay = (Element("o0", "toast", self.style(w.thing())),)
        screen = Screen(
            template=f"{self.kind}{int(w.rng.integers(1 << 30))}",
            title=self.title,
            app=self.title or self.address or "home",
            elements=tuple(self.elements),
            overlay=overlay,
            loading=w.chance(0.05),
        )
        return Scene(
            screen=screen,
            goal=self.goal,
            kind=self.kind,
            address=self.address,
            query=self.query,
            field=self.field,
            first=self.first,
            elements={e.id: e for e in (*self.elements, *overlay)},
        )


_WEB = (
    (_Composer.browser, 2.5),
    (_Composer.web_results, 1.5),
    (_Composer.site_home, 2),
    (_Composer.search_page, 2.5),
    (_Composer.product_list, 3),
    (_Composer.details, 1.5),
    (_Composer.page, 0.7),
    (_Composer.launcher, 0.7),
)
_GENERAL = (
    (_Composer.launcher, 2),
    (_Composer.settings, 2),
    (_Composer.list, 2),
    (_Composer.form, 1.2),
    (_Composer.chat, 1),
    (_Composer.page, 1),
)
_ADDRESS_HINTS = ("Type an address", "Web address", "Search or type a link", "Where to?")
_SEARCH_HINTS = ("Search", "Search here", "What do you need?", "Find something", "Find")
_BUY = ("Add", "Buy", "Reserve", "Save", "Order", "Share", "Compare")
_BUTTONS = ("Send", "Save", "Next", "Apply", "Cancel", "Submit", "Log in", "Continue")
_PANEL_BUTTONS = (
    "Accept",
    "Reject",
    "Close",
    "Later",
    "OK",
    "Cancel",
    "Allow",
    "Deny",
    "Got it",
    "No thanks",
)
