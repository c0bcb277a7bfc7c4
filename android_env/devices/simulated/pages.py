"""Screens that every family shows: the launcher, apps nobody asked for, the browser's own pages."""

from __future__ import annotations

from collections.abc import Sequence

from android_env.devices.simulated.screen import Element, Screen

APPS: dict[str, str] = {
    "Browser": "globe",
    "Mail": "envelope",
    "Clock": "clock",
    "Settings": "gear",
    "Camera": "camera",
    "Music": "music",
    "Maps": "map",
    "Photos": "photo",
    "Notes": "note",
}
"""Apps on the home screen with their icons."""

APP_ROWS: dict[str, tuple[str, str, str]] = {
    "Mail": ("Inbox", "Drafts", "Sent"),
    "Clock": ("Alarms", "World clock", "Timer"),
    "Settings": ("Network", "Display", "Sound"),
    "Camera": ("Photo mode", "Video mode", "Panorama"),
    "Music": ("Playlists", "Artists", "Radio"),
    "Maps": ("Saved places", "Commute", "Explore"),
    "Photos": ("Albums", "Favorites", "Trash"),
    "Notes": ("Shopping", "Ideas", "Meeting"),
    "Files": ("Downloads", "Pictures", "Documents"),
    "Calls": ("Recent", "Contacts", "Voicemail"),
    "Books": ("Library", "Samples", "Reading list"),
    "Games": ("Puzzles", "Cards", "Scores"),
}
"""What an app shows when it is not the one that a task is about."""

MORE_APPS: dict[str, str] = {"Files": "folder", "Calls": "phone", "Books": "book", "Games": "game"}
"""Apps of the drawer that a swipe up on the home screen shows."""

SHORTCUTS = ("News", "Weather", "Sports")
"""Links on the browser's new tab; none leads anywhere useful."""
TRENDING = ("lottery results", "movie times")
"""Suggestions under the focused address bar; none is ever asked for."""


def launcher() -> Screen:
    """The home screen; icons are `app-<name>`."""
    icons = tuple(Element(f"app-{name}", "launcher_icon", name, icon) for name, icon in APPS.items())
    return Screen("launcher", "", "Home", icons)


def drawer() -> Screen:
    """The apps that have no place on the home screen."""
    icons = tuple(Element(f"app-{name}", "launcher_icon", name, icon) for name, icon in MORE_APPS.items())
    return Screen("drawer", "More apps", "Home", icons)


def app(name: str, view: str) -> Screen:
    """An app nobody asked for: rows `row-0`.. that open a note; `view` names the open one."""
    if view:
        body = (
            Element("name", "heading", view),
            Element("note", "label", "Nothing new here.", state="muted"),
        )
        return Screen("app-detail", name, name, (Element("up", "icon_button", "Up", "back"), *body))
    rows = tuple(Element(f"row-{i}", "list_row", text) for i, text in enumerate(APP_ROWS[name]))
    return Screen("app", name, name, (*rows, Element("empty", "label", "No updates", state="muted")))


def url_bar(address: str) -> Element:
    """The address bar, `url`, when it does not have the focus."""
    return Element("url", "url_bar", address, detail="Search or type address")


def new_tab() -> Screen:
    """The browser without a page."""
    links = tuple(Element(f"shortcut-{text}", "list_row", text, "star") for text in SHORTCUTS)
    greeting = Element("greeting", "heading", "New tab")
    options = Element("options", "icon_button", "Options", "more")
    return Screen("tab", "", "Browser", (url_bar(""), options, greeting, *links))


def browser_options() -> Screen:
    """The browser's menu; none of its rows does anything."""
    rows = (("History", "clock"), ("Downloads", "download"), ("Text size", "edit"))
    drawn = tuple(Element(f"option-{text}", "list_row", text, icon) for text, icon in rows)
    return Screen("options", "Browser menu", "Browser", drawn)


def url_focused(text: str) -> Screen:
    """The address bar with the focus, its content, and the keyboard."""
    bar = Element("url", "url_bar", text, state="focused", detail="Search or type address")
    rows = tuple(Element(f"trend-{i}", "list_row", topic, "search") for i, topic in enumerate(TRENDING))
    clear = (Element("clear", "button", "Clear"),) if text else ()
    return Screen("url", "", "Browser", (bar, *clear, *rows, *keyboard("Go")))


def keyboard(key: str) -> tuple[Element, ...]:
    """The keyboard with its enter key, `go`."""
    return (Element("keyboard", "keyboard"), Element("go", "keyboard_key", key))


def web_results(query: str) -> Screen:
    """What the browser finds for an address that is none; rows `web-0`.. lead to articles."""
    topic = shorten(query, 16)
    titles = (f"{topic} wiki", f"{topic} news", f"{topic} forum")
    rows = tuple(
        Element(f"web-{i}", "result_row", title, detail=f"site {i + 1} of many")
        for i, title in enumerate(titles)
    )
    heading = Element("found", "label", "Web results", state="bold")
    return Screen("web", "", "Web search", (url_bar(query), heading, *rows))


def article(query: str, number: str) -> Screen:
    """A page of text that helps nobody."""
    body: Sequence[Element] = (
        Element("name", "heading", f"About {shorten(query, 14)}"),
        Element("photo", "image", icon="news"),
        Element("body", "label", f"Page {number} of a long article.", state="muted"),
        Element("more", "link", "Read more"),
    )
    return Screen("article", "", "Article", (url_bar("reader"), *body))


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the end marked where it was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
