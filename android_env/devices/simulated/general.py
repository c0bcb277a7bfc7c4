"""The general family: a launcher, settings, clock, mail and browser, for tasks of three to five steps.

An entry of `State.facts` is a switch that is on (`Wi-Fi`) or something done (`language:German`, `starred:Bank`).
"""

from __future__ import annotations

from android_env.devices.simulated import pages
from android_env.devices.simulated.screen import Element, Screen
from android_env.devices.simulated.state import AbstractAction, NoiseConfig, Outcomes, State, sure
from android_env.tasks.general import ALARMS, LANGUAGES, MINUTES, RINGTONES, SENDERS, SETTINGS, TIMES
from android_env.tasks.task import Task

LAUNCHER = State("launcher")

USELESS = frozenset({"up", "clear", "options", "tab", "preset", "choice", "time"})
"""Elements that show something new when tapped, but help with no task."""

_SETTINGS_ROWS = (
    ("Network", "wifi"),
    ("Devices", "bluetooth"),
    ("Display", "sun"),
    ("Sound", "volume"),
    ("Language", "globe"),
)
_CHOICES = {"Language": LANGUAGES, "Sound": RINGTONES}
_CLOCK_TABS = ("Alarm", "Timer", "World")
_OPENS = {
    "Browser": State("tab", "Browser"),
    "Mail": State("inbox", "Mail"),
    "Settings": State("settings", "Settings"),
}
_SUBJECTS: dict[str, str] = dict(
    zip(SENDERS, ("statement", "reminder", "booking", "meeting", "visit"), strict=True)
)


def start(task: Task) -> State:
    """The home screen; a switch that the task turns off starts on, and so do alarms."""
    facts = {f"alarm:{time}" for time in ALARMS}
    if task.params["template"] == "turn_off":
        facts.add(task.params["query"])
    return LAUNCHER._replace(facts=frozenset(facts))


def goal_fact(task: Task) -> str:
    """The fact that the goal is about, as in `State.facts`."""
    value = task.params["query"]
    match task.params["template"]:
        case "turn_on" | "turn_off":
            return value
        case "language":
            return f"Language:{value}"
        case "ringtone":
            return f"Sound:{value}"
        case "alarm_off" | "alarm_new":
            return f"alarm:{value}"
        case "timer":
            return f"timer:{value}"
        case "star_mail":
            return f"starred:{value}"
        case "delete_mail":
            return f"deleted:{value}"
        case "reply_mail":
            return f"sent:{value}"
        case "bookmark":
            return f"bookmark:{value}"
    return ""


def is_success(state: State, task: Task) -> bool:
    """Whether the goal is reached; the results of a web search must be on the screen, loaded."""
    if task.params["template"] == "web_search":
        return state.page == "web" and _same(state.query, task.params["query"]) and not state.loading
    return (goal_fact(task) in state.facts) != (task.params["template"] in ("turn_off", "alarm_off"))


def step(state: State, action: AbstractAction, task: Task, noise: NoiseConfig) -> Outcomes:
    """What the phone does if the action takes effect.

    On a change of page, all facts return to their initial values, except the one that the goal is about and any that
    this action has just set. This keeps the number of states small enough for exact values.
    """
    del noise  # this family has no mishaps of its own
    after = _move(state, action)
    if _where(after) == _where(state):
        return sure(after)
    goal = {goal_fact(task)}
    facts = (start(task).facts - goal) | (after.facts & goal) | (after.facts - state.facts)
    return sure(after._replace(facts=facts))


def _where(state: State) -> tuple[str, ...]:
    return (state.page, state.place, state.query, state.view if state.page == "clock" else "")


def _move(state: State, action: AbstractAction) -> State:
    match action:
        case ("home",):
            return LAUNCHER._replace(facts=state.facts)
        case ("back",):
            return _back(state)
        case ("swipe", "up") if state.page == "launcher":
            return _go(state, "drawer")
        case ("type", text) if state.text is not None:
            return state._replace(text=text)
        case ("enter",) if state.text is not None:
            return _tap(state, "go")
        case ("tap", element) if element:
            return _tap(state, element)
    return state


def oracle(state: State, task: Task) -> AbstractAction:
    """A good action in any state; from the start and without mishaps, these form a shortest path to the goal."""
    if state.loading:
        return ("tap", None)
    if is_success(state, task):
        return ("complete",)
    return _WAYS[task.params["template"]](state, task.params["query"])


def _same(a: str, b: str) -> bool:
    return a.lower().split() == b.lower().split()


def _go(state: State, page: str, **fields: object) -> State:
    return State(page, **{"place": state.place, "facts": state.facts, **fields})  # type: ignore[arg-type]


def _add(state: State, fact: str, group: str = "") -> State:
    """The state with a fact added; other facts that start with `group` are dropped."""
    kept = {f for f in state.facts if not (group and f.startswith(group))}
    return state._replace(facts=frozenset(kept | {fact}))


def _toggle(state: State, fact: str) -> State:
    return state._replace(facts=state.facts ^ {fact})


def _search(state: State) -> State:
    text = state.text or ""
    return _go(state, "web", query=text) if text.strip() else state


def _back(state: State) -> State:
    if state.overlay:
        return state._replace(overlay="")
    match state.page:
        case "app" if state.view:
            return state._replace(view="")
        case "switches" | "choices":
            return _go(state, "settings")
        case "mail":
            return _go(state, "inbox")
        case "reply":
            return _go(state, "mail", query=state.query)
        case "times":
            return _go(state, "clock", view="Alarm")
        case "url" | "web" | "options":
            return _go(state, "tab")
        case "article":
            return _go(state, "web", query=state.query)
        case "launcher":
            return state
    return LAUNCHER._replace(facts=state.facts)


def _tap(state: State, element: str) -> State:
    page, query = state.page, state.query
    name, _, value = element.partition("-")
    if state.overlay == "delete":
        if element == "confirm":
            return _add(_go(state, "inbox"), f"deleted:{query}")
        return state._replace(overlay="") if element == "cancel" else state
    match page, name:
        case (("launcher" | "drawer"), "app"):
            if value == "Clock":
                return State("clock", "Clock", view="World", facts=state.facts)
            return _OPENS.get(value, State("app", value))._replace(facts=state.facts)
        case "app", "row":
            return state._replace(view=pages.APP_ROWS[state.place][int(value)])
        case "app", "up":
            return state._replace(view="")
        case "settings", "page":
            return _go(state, "choices" if value in _CHOICES else "switches", query=value)
        case "switches", "switch":
            return _toggle(state, value)
        case "choices", "choice":
            return state._replace(view=value)
        case "choices", "apply" if state.view:
            return _add(state, f"{query}:{state.view}", f"{query}:")
        case "clock", "tab":
            return _go(state, "clock", view=value)
        case "clock", "alarm":
            return _toggle(state, element.replace("-", ":", 1))
        case "clock", "new":
            return _go(state, "times")
        case "clock", "preset":
            return state._replace(query=value)
        case "clock", "start" if query:
            return _add(state, f"timer:{query}", "timer:")
        case "times", "time":
            return state._replace(view=value)
        case "times", "save" if state.view:
            return _add(_go(state, "clock", view="Alarm"), f"alarm:{state.view}")
        case "inbox", "mail":
            return _go(state, "mail", query=value)
        case "mail", "star":
            return _toggle(state, f"starred:{query}")
        case "mail", "delete":
            return state._replace(overlay="delete")
        case "mail", "reply":
            return _go(state, "reply", query=query, text="")
        case "reply", "go" if (state.text or "").strip():
            return _add(
                _go(state, "mail", query=query), f"sent:{' '.join((state.text or '').lower().split())}"
            )
        case _, "url" if page != "url":
            return _go(state, "url", text="")
        case "url", "go":
            return _search(state)
        case (("url" | "reply"), "clear"):
            return state._replace(text="")
        case "url", "trend":
            return _go(state, "web", query=pages.TRENDING[int(value)])
        case "tab", "options":
            return _go(state, "options")
        case "tab", "shortcut":
            return _go(state, "web", query=value)
        case "web", "web":
            return _go(state, "article", query=query, view=value)
        case "web", "star":
            return _toggle(state, f"bookmark:{query}")
    return state


def _page_of(switch: str) -> str:
    return next(page for page, switches in SETTINGS.items() if switch in switches)


def _via(state: State, app: str, rules: dict[str, AbstractAction | None]) -> AbstractAction:
    """The rule's action on pages that have one; elsewhere the next action towards home and into `app`."""
    if state.overlay and state.overlay not in rules:
        return ("tap", "cancel")
    action = rules.get(state.overlay or state.page)
    if action is not None:
        return action
    return ("tap", f"app-{app}") if state.page == "launcher" else ("home",)


def _switch(state: State, value: str) -> AbstractAction:
    page = _page_of(value)
    switches = ("tap", f"switch-{value}") if state.query == page else ("back",)
    return _via(
        state, "Settings", {"settings": ("tap", f"page-{page}"), "switches": switches, "choices": ("back",)}
    )


def _choose(page: str, state: State, value: str) -> AbstractAction:
    choices: AbstractAction = ("tap", f"choice-{value}") if state.view != value else ("tap", "apply")
    if state.query != page:
        choices = ("back",)
    return _via(
        state, "Settings", {"settings": ("tap", f"page-{page}"), "choices": choices, "switches": ("back",)}
    )


def _alarm_off(state: State, value: str) -> AbstractAction:
    clock = ("tap", f"alarm-{value}" if state.view == "Alarm" else "tab-Alarm")
    return _via(state, "Clock", {"clock": clock, "times": ("back",)})


def _alarm_new(state: State, value: str) -> AbstractAction:
    clock = ("tap", "new" if state.view == "Alarm" else "tab-Alarm")
    times = ("tap", "save" if state.view == value else f"time-{value}")
    return _via(state, "Clock", {"clock": clock, "times": times})


def _timer(state: State, value: str) -> AbstractAction:
    clock = ("tap", "tab-Timer")
    if state.view == "Timer":
        clock = ("tap", "start" if state.query == value else f"preset-{value}")
    return _via(state, "Clock", {"clock": clock, "times": ("back",)})


def _on_mail(sender: str, state: State, then: dict[str, AbstractAction]) -> AbstractAction:
    then = then if state.query == sender else {}
    # A mail deleted by mistake reappears once the app has been left.
    inbox = ("home",) if f"deleted:{sender}" in state.facts else ("tap", f"mail-{sender}")
    rules = {"inbox": inbox, "mail": ("back",), "reply": ("back",), **then}
    return _via(state, "Mail", rules)


def _reply(state: State, value: str) -> AbstractAction:
    written = _same(state.text or "", value)
    reply = ("tap", "go") if written else ("type", value)
    return _on_mail(SENDERS[0], state, {"mail": ("tap", "reply"), "reply": reply})


def _web_search(state: State, value: str) -> AbstractAction:
    bar = ("tap", "url")
    url = ("enter",) if _same(state.text or "", value) else ("type", value)
    return _via(state, "Browser", {"tab": bar, "web": bar, "article": bar, "url": url})


def _bookmark(state: State, value: str) -> AbstractAction:
    web = ("tap", "star") if state.query == value else ("back",)
    rules = {"tab": ("tap", f"shortcut-{value}"), "url": ("back",), "web": web, "article": ("back",)}
    return _via(state, "Browser", rules)


_WAYS = {
    "turn_on": _switch,
    "turn_off": _switch,
    "language": lambda state, value: _choose("Language", state, value),
    "ringtone": lambda state, value: _choose("Sound", state, value),
    "alarm_off": _alarm_off,
    "alarm_new": _alarm_new,
    "timer": _timer,
    "star_mail": lambda state, value: _on_mail(value, state, {"mail": ("tap", "star")}),
    "delete_mail": lambda state, value: _on_mail(
        value, state, {"mail": ("tap", "delete"), "delete": ("tap", "confirm")}
    ),
    "reply_mail": _reply,
    "web_search": _web_search,
    "bookmark": _bookmark,
}
"""The oracle's rules by template: (state, value asked for) → action."""


def screen(state: State, task: Task) -> Screen:
    """What the state looks like."""
    drawn = _PAGES[state.page](state)
    overlay: tuple[Element, ...] = ()
    if state.overlay:
        overlay = (
            Element("question", "dialog", "Delete mail?", "trash", detail="It cannot be restored."),
            Element("confirm", "dialog_button", "Delete", state="primary"),
            Element("cancel", "dialog_button", "Cancel"),
        )
    return Screen(drawn.template, drawn.title, drawn.app, drawn.elements, overlay, state.loading)


def _settings(state: State) -> Screen:
    rows = tuple(Element(f"page-{name}", "list_row", name, icon) for name, icon in _SETTINGS_ROWS)
    return Screen("settings", "Settings", "Settings", rows)


def _switches(state: State) -> Screen:
    rows = tuple(
        Element(f"switch-{name}", "toggle", name, state="on" if name in state.facts else "off")
        for name in SETTINGS[state.query]
    )
    return Screen("switches", state.query, "Settings", rows)


def _choices(state: State) -> Screen:
    current = next((f.partition(":")[2] for f in state.facts if f.startswith(f"{state.query}:")), "")
    rows = tuple(
        Element(f"choice-{name}", "checkbox", name, state="on" if name == state.view else "off")
        for name in _CHOICES[state.query]
    )
    now = Element("current", "label", f"Now: {current or 'default'}", state="muted")
    apply = Element("apply", "button", "Apply", state="primary" if state.view else "disabled")
    return Screen("choices", state.query, "Settings", (*rows, apply, now))


def _clock(state: State) -> Screen:
    tabs = tuple(
        Element(f"tab-{t}", "tab", t, state="selected" if t == state.view else "") for t in _CLOCK_TABS
    )
    if state.view == "Alarm":
        times = (*ALARMS, *(t for t in TIMES if f"alarm:{t}" in state.facts))
        rows = tuple(
            Element(f"alarm-{t}", "toggle", t, state="on" if f"alarm:{t}" in state.facts else "off")
            for t in times
        )
        return Screen(
            "alarms", "Alarms", "Clock", (*tabs, Element("new", "icon_button", "New alarm", "plus"), *rows)
        )
    if state.view == "Timer":
        running = next((f.partition(":")[2] for f in state.facts if f.startswith("timer:")), "")
        shown = (
            f"Running: {running}" if running else f"Ready: {state.query}" if state.query else "Pick a time"
        )
        presets = tuple(Element(f"preset-{m}", "button", m) for m in MINUTES)
        start_button = Element("start", "button", "Start", state="primary" if state.query else "disabled")
        return Screen(
            "timer", "Timer", "Clock", (*tabs, Element("shown", "heading", shown), *presets, start_button)
        )
    towns = tuple(Element(f"town-{i}", "list_row", t) for i, t in enumerate(("Lisbon", "Nairobi", "Tokyo")))
    return Screen("world", "World clock", "Clock", (*tabs, *towns))


def _times(state: State) -> Screen:
    rows = tuple(Element(f"time-{t}", "checkbox", t, state="on" if t == state.view else "off") for t in TIMES)
    save = Element("save", "button", "Save", state="primary" if state.view else "disabled")
    return Screen("times", "New alarm", "Clock", (*rows, save))


def _inbox(state: State) -> Screen:
    rows = tuple(
        Element(f"mail-{sender}", "list_row", sender, "envelope", "ordered", f"Your {subject}")
        for sender, subject in _SUBJECTS.items()
        if f"deleted:{sender}" not in state.facts
    )
    return Screen("inbox", "Inbox", "Mail", rows or (Element("none", "label", "No mail"),))


def _mail(state: State) -> Screen:
    sender = state.query
    subject = _SUBJECTS[sender]
    notes = []
    if f"starred:{sender}" in state.facts:
        notes.append(Element("starred", "label", "Starred", state="success"))
    if any(f.startswith("sent:") for f in state.facts):
        notes.append(Element("sent", "label", "Reply sent", state="success"))
    return Screen(
        "mail",
        sender,
        "Mail",
        (
            Element("star", "icon_button", "Star", "star"),
            Element("delete", "icon_button", "Delete", "trash"),
            Element("subject", "heading", f"Your {subject}"),
            Element("body", "message", f"Hello, here is your {subject}."),
            *notes,
            Element("reply", "button", "Reply", state="primary"),
        ),
    )


def _reply_page(state: State) -> Screen:
    text = state.text or ""
    field = Element("body", "text_field", text, state="focused", detail="Write a reply")
    clear = (Element("clear", "button", "Clear"),) if text else ()
    return Screen("reply", f"To {state.query}", "Mail", (field, *clear, *pages.keyboard("Send")))


def _web(state: State) -> Screen:
    found = pages.web_results(state.query)
    kept = f"bookmark:{state.query}" in state.facts
    star = Element("star", "icon_button", "Bookmark", "star")
    note = (Element("kept", "label", "Bookmarked", state="success"),) if kept else ()
    return Screen("web", "", found.app, (found.elements[0], star, *note, *found.elements[1:]))


_PAGES = {
    "launcher": lambda state: pages.launcher(),
    "drawer": lambda state: pages.drawer(),
    "options": lambda state: pages.browser_options(),
    "app": lambda state: pages.app(state.place, state.view),
    "tab": lambda state: pages.new_tab(),
    "url": lambda state: pages.url_focused(state.text or ""),
    "web": _web,
    "article": lambda state: pages.article(state.query, state.view),
    "settings": _settings,
    "switches": _switches,
    "choices": _choices,
    "clock": _clock,
    "times": _times,
    "inbox": _inbox,
    "mail": _mail,
    "reply": _reply_page,
}
