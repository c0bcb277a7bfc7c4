"""The webshop family: the browser, six shops, and all that keeps one from buying.

Transitions here leave out what `kernel.outcomes` adds to every family (dropped taps, slow loads, declarations).
"""

from __future__ import annotations

from zlib import crc32

from android_env.devices.simulated import pages
from android_env.devices.simulated.screen import Element, Screen
from android_env.devices.simulated.state import AbstractAction, NoiseConfig, Outcomes, State, either, sure
from android_env.tasks.task import Task
from android_env.tasks.webshop import FINAL_SITES, SITES, TUNE_SITES

LAUNCHER = State("launcher")
TAB = State("tab", "Browser")

COOKIE_WALL: dict[str, float] = dict(
    zip(
        (*SITES, *TUNE_SITES, *FINAL_SITES),
        (0.1, 0.3, 0.45, 0.6, 0.2, 0.5, 0.35, 0.25, 0.55),
        strict=True,
    )
)
"""How often each site greets with a cookie wall, before `NoiseConfig.cookie_wall`."""

PICTURES = {
    "usb cable": "headphones",
    "desk lamp": "lamp",
    "gaming chair": "chair",
    "water bottle": "bottle",
    "phone case": "handset",
    "running shoes": "shoe",
    "coffee maker": "mug",
    "wool socks": "tag",
    "travel mug": "mug",
    "bike helmet": "bike",
    "board game": "game",
    "rain jacket": "jacket",
    "wireless mouse": "mouse",
    "camping tent": "tent",
    "guitar strings": "guitar",
    "rice cooker": "pan",
    "garden hose": "plant",
    "picture frame": "photo",
    "kitchen scale": "timer",
    "puzzle cube": "game",
    "picnic blanket": "umbrella",
    "ski goggles": "glasses",
    "pencil pouch": "bag",
}
"""Icons of products by query; `gift` for others."""

CATEGORIES = ("Deals", "New in", "Brands")
BARGAINS = ("Gift card", "Mystery box", "Clearance")
"""What every category offers; no task asks for it."""
_MODELS = ("Pro", "Max", "Lite", "Plus", "Duo", "One", "Air", "Mini")

# Pages where the address bar stands above a shop's own page.
_SHOP_PAGES = frozenset({"home", "results", "product", "category", "menu", "help", "cart", "account"})

USELESS = frozenset(
    {"menu", "cart", "account", "help", "manage", "clear", "add", "up", "options", "orders", "forgot"}
)
"""Elements whose tap shows something new but helps nobody."""


def start(task: Task) -> State:
    """Where an episode begins."""
    return LAUNCHER


def normalise(text: str) -> str:
    """How the phone compares typed text: lower case, single spaces."""
    return " ".join(text.lower().split())


def address(text: str) -> str:
    """The site that typed text asks for."""
    text = normalise(text).rstrip("/")
    for prefix in ("https://", "http://", "www."):
        text = text.removeprefix(prefix)
    return text


def product_name(site: str, query: str, number: str) -> str:
    """Name of the `number`-th product a site offers for a query; `ad` is the sponsored one."""
    return f"{pages.shorten(query, 15)} {_MODELS[crc32(f'{site}|{query}|{number}'.encode()) % len(_MODELS)]}"


def is_success(state: State, task: Task) -> bool:
    """Whether the state is what the goal asks for: the page stands there, loaded, with nothing in front."""
    if state.loading or state.overlay or state.place != task.params["site"]:
        return False
    if task.level == 1:
        return state.page == "home"
    if normalise(state.query) != normalise(task.params["query"]):
        return False
    return state.page == "results" if task.level == 2 else (state.page, state.view) == ("product", "1")


def step(state: State, action: AbstractAction, task: Task, noise: NoiseConfig) -> Outcomes:
    """What the phone does if the action gets through."""
    match action:
        case ("home",):
            return sure(LAUNCHER)
        case ("back",):
            return _back(state, noise)
        case ("type", text) if state.text is not None:
            return sure(state._replace(text=text))
        case ("enter",):
            return _enter(state, noise)
        case ("swipe", "up") if state.page == "launcher":
            return sure(State("drawer"))
        case ("swipe", direction) if state.page in ("home", "results") and not state.overlay:
            view = {"up": "more", "down": ""}.get(direction, state.view)
            return sure(state._replace(view=view))
        case ("tap", element) if element:
            return _tap(state, element, noise)
    return sure(state)


def oracle(state: State, task: Task) -> AbstractAction:
    """A good action in any state; from the start and without mishaps a shortest way to the goal."""
    site, query = task.params["site"], task.params.get("query", "")
    if state.loading:
        return ("tap", None)
    if is_success(state, task):
        return ("complete",)
    if state.overlay:
        return ("tap", {"cookie": "accept", "manage": "save", "popup": "close"}[state.overlay])
    match state.page:
        case "launcher":
            return ("tap", "app-Browser")
        case "app" | "drawer":
            return ("home",)
        case "options":
            return ("back",)
        case "url":
            return ("enter",) if address(state.text or "") == site else ("type", site)
        case "tab" | "web" | "article":
            return ("tap", "url")
        case "ad":
            return ("back",)
    if state.place != site:
        return ("tap", "url")
    if task.level == 1:
        return ("back",)
    found = normalise(state.query) == normalise(query)
    match state.page:
        case "search":
            return ("enter",) if normalise(state.text or "") == normalise(query) else ("type", query)
        case "results" if found:
            return ("swipe", "down") if state.view else ("tap", "item-1")
        case "product" if found:
            return ("back",)
        case "home" | "results" | "category" | "product":
            return ("tap", "search")
    return ("back",)


def _back(state: State, noise: NoiseConfig) -> Outcomes:
    site, query = state.place, state.query
    if state.overlay:
        return sure(state._replace(overlay=""))
    match state.page:
        case "launcher":
            return sure(state)
        case "app" if state.view:
            return sure(state._replace(view=""))
        case "tab" | "app" | "drawer":
            return sure(LAUNCHER)
        case "url" | "web" | "home" | "options":
            return sure(TAB)
        case "article":
            return sure(State("web", "", query))
        case "product" | "ad" if site and query:
            return _results(site, query, noise)
        case "product":
            return sure(State("category", site))
        case "ad" if not site:
            return sure(TAB)
    return sure(State("home", site))


def _enter(state: State, noise: NoiseConfig) -> Outcomes:
    text = state.text or ""
    if not normalise(text):
        return sure(state)
    if state.page == "search":
        return _results(state.place, text, noise)
    if state.page == "url":
        site = address(text)
        return _visit(site, noise) if site in COOKIE_WALL else sure(State("web", "", text))
    return sure(state)


def _tap(state: State, element: str, noise: NoiseConfig) -> Outcomes:
    page, site, query = state.page, state.place, state.query
    name, _, number = element.partition("-")
    if state.overlay:
        return sure(_tap_overlay(state, element))
    match page, name:
        case (("launcher" | "drawer"), "app"):
            return sure(TAB if number == "Browser" else State("app", number))
        case "app", "row":
            return sure(state._replace(view=pages.APP_ROWS[site][int(number)]))
        case "app", "up":
            return sure(state._replace(view=""))
        case (("url" | "search"), "clear"):
            return sure(state._replace(text=""))
        case (("url" | "search"), "go"):
            return _enter(state, noise)
        case "url", "trend":
            return sure(State("web", "", pages.TRENDING[int(number)]))
        case "tab", "options":
            return sure(State("options", "Browser"))
        case "tab", "shortcut":
            return sure(State("web", "", number.lower()))
        case "web", "web":
            return _link(sure(State("article", "", query, view=number)), state, noise)
        case ("ad", "return"):
            return _back(state, noise)
        case "menu", "front":
            return sure(State("home", site))
        case "cart", "keep":
            return sure(State("home", site))
        case _, "url" if page != "url":
            # The address of the page stands in the focused bar until something is typed.
            return sure(State("url", "Browser", text=site if page in _SHOP_PAGES else ""))
        case (("home" | "results" | "category" | "product"), "search"):
            return sure(State("search", site, text=query if page == "results" else ""))
        case (("home" | "menu"), "category"):
            return _link(sure(State("category", site)), state, noise)
        case "home", "banner":
            return sure(State("ad", site))
        case _, ("menu" | "cart" | "account" | "help"):
            return sure(State(name, site))
        case "menu", "orders":
            return sure(State("account", site))
        case "account", "forgot":
            return sure(State("help", site))
        case "results", ("item" | "sponsored"):
            opened = State("product", site, query, view=number or "ad")
            return _link(_popup(opened, noise), state, noise)
        case "category", "item":
            return _link(_popup(State("product", site, view=f"c{number}"), noise), state, noise)
        case "product", "add":
            return sure(State("cart", site))
        case "product", "buy":
            return sure(State("account", site))
    return sure(state)


def _tap_overlay(state: State, element: str) -> State:
    match state.overlay, element:
        case ("cookie", "accept" | "reject") | ("manage", "save") | ("popup", "close"):
            return state._replace(overlay="")
        case "cookie", "manage":
            return state._replace(overlay="manage")
        case "popup", "offer":
            return State("ad", state.place, state.query)
    return state


def _visit(site: str, noise: NoiseConfig) -> Outcomes:
    home = State("home", site)
    wall = noise.p("cookie_wall", COOKIE_WALL[site])
    return either(wall, sure(home._replace(overlay="cookie")), _popup(home, noise))


def _results(site: str, query: str, noise: NoiseConfig) -> Outcomes:
    plain = State("results", site, query)
    sponsored = plain._replace(facts=frozenset({"sponsored"}))
    return either(noise.p("sponsored"), _popup(sponsored, noise), _popup(plain, noise))


def _popup(arrived: State, noise: NoiseConfig) -> Outcomes:
    return either(noise.p("popup"), sure(arrived._replace(overlay="popup")), sure(arrived))


def _link(leads_to: Outcomes, state: State, noise: NoiseConfig) -> Outcomes:
    return either(noise.p("dead_link"), sure(State("ad", state.place, state.query)), leads_to)


def screen(state: State, task: Task) -> Screen:
    """What the state looks like."""
    drawn = _page(state)
    overlay = _OVERLAYS[state.overlay] if state.overlay else ()
    return Screen(drawn.template, drawn.title, drawn.app, drawn.elements, overlay, state.loading)


_OVERLAYS: dict[str, tuple[Element, ...]] = {
    "cookie": (
        Element("wall", "sheet", "We use cookies", detail="To go on, choose what we may store."),
        Element("accept", "dialog_button", "Accept all", state="primary"),
        Element("reject", "dialog_button", "Reject all"),
        Element("manage", "dialog_button", "Manage"),
    ),
    "manage": (
        Element("wall", "dialog", "Cookie choices", detail="Needed cookies are always on."),
        Element("save", "dialog_button", "Save choices", state="primary"),
    ),
    "popup": (
        Element("promotion", "popup", "Summer sale", "gift", detail="Half price, today only!"),
        Element("offer", "dialog_button", "Show offer", state="primary"),
        Element("close", "dialog_button", "No thanks"),
    ),
}


def _page(state: State) -> Screen:
    match state.page:
        case "launcher":
            return pages.launcher()
        case "drawer":
            return pages.drawer()
        case "options":
            return pages.browser_options()
        case "app":
            return pages.app(state.place, state.view)
        case "tab":
            return pages.new_tab()
        case "url":
            return pages.url_focused(state.text or "")
        case "web":
            return pages.web_results(state.query)
        case "article":
            return pages.article(state.query, state.view)
        case "ad":
            return _advertisement(state)
    return _SHOP[state.page](state)


def _advertisement(state: State) -> Screen:
    back_to = "results" if state.query else "shop" if state.place else "browser"
    return Screen(
        "ad",
        "",
        "Advertisement",
        (
            pages.url_bar("promo.link"),
            Element("offer", "heading", "Spin and win!"),
            Element("picture", "image", "Only today", "gift"),
            Element("claim", "button", "Claim prize", state="primary"),
            Element("return", "link", f"Return to {back_to}"),
        ),
    )


def _shop(state: State, template: str, *elements: Element, icons: bool = True) -> Screen:
    title = state.place.split(".")[0].capitalize()
    buttons = (
        Element("menu", "icon_button", "Menu", "menu"),
        Element("cart", "icon_button", "Cart", "cart"),
        Element("account", "icon_button", "Account", "person"),
    )
    bar = pages.url_bar(state.place)
    return Screen(template, title, state.place, (bar, *(buttons if icons else ()), *elements))


def _search_box(text: str = "") -> Element:
    return Element("search", "search_box", text, detail="Search")


def _home(state: State) -> Screen:
    if state.view == "more":
        links = tuple(Element(name, "link", text) for name, text in (("help", "Help"), ("about", "About us")))
        note = Element("fine-print", "label", "Prices include tax.", state="muted")
        return _shop(state, "home-more", _search_box(), *links, note)
    rows = tuple(Element(f"category-{i}", "list_row", text, "tag") for i, text in enumerate(CATEGORIES))
    banner = Element("banner", "banner", "Sale! Win a prize", "gift")
    return _shop(state, "home", _search_box(), banner, *rows)


def _search(state: State) -> Screen:
    bar = pages.url_bar(state.place)
    text = state.text or ""
    field = Element("search", "search_box", text, state="focused", detail="Search")
    clear = (Element("clear", "button", "Clear"),) if text else ()
    hint = Element("hint", "label", "What are you looking for?", state="muted")
    return Screen("search", "", state.place, (bar, field, *clear, hint, *pages.keyboard("Search")))


def _product_row(state: State, number: str, *, query: str, role: str = "product_row") -> Element:
    return Element(
        f"item-{number}" if role == "product_row" else "sponsored",
        role,
        product_name(state.place, query, number),
        PICTURES.get(query, "gift"),
        "ordered",
        _price(state.place, query, number),
    )


def _results_page(state: State) -> Screen:
    numbers = ("4", "5", "6") if state.view == "more" else ("1", "2", "3")
    rows = [_product_row(state, number, query=state.query) for number in numbers]
    if "sponsored" in state.facts and not state.view:
        rows.insert(0, _product_row(state, "ad", query=state.query, role="sponsored_row"))
    template = "results-more" if state.view else "results"
    return _shop(state, template, _search_box(state.query), *rows)


def _product(state: State) -> Screen:
    if state.query:
        name = product_name(state.place, state.query, state.view)
    else:
        name = BARGAINS[int(state.view.removeprefix("c"))]
    return _shop(
        state,
        "product",
        _search_box(),
        Element("name", "heading", name),
        Element("picture", "image", "", PICTURES.get(state.query, "gift")),
        Element("price", "label", _price(state.place, state.query or name, state.view), state="price"),
        Element("add", "button", "Add to cart", state="primary"),
        Element("buy", "button", "Buy now"),
    )


def _category(state: State) -> Screen:
    rows = tuple(
        Element(f"item-{i}", "product_row", name, "gift", detail=_price(state.place, name, f"c{i}"))
        for i, name in enumerate(BARGAINS)
    )
    return _shop(state, "category", _search_box(), *rows)


def _menu(state: State) -> Screen:
    rows = (
        ("front", "Start page", "home"),
        ("category", "Departments", "tag"),
        ("orders", "Your orders", "bag"),
        ("help", "Help", "info"),
    )
    return _shop(state, "menu", *(Element(i, "list_row", text, icon) for i, text, icon in rows), icons=False)


def _help(state: State) -> Screen:
    rows = tuple(
        Element(f"topic-{i}", "list_row", t) for i, t in enumerate(("Shipping", "Returns", "Contact"))
    )
    return _shop(state, "help", Element("name", "heading", "Help"), *rows)


def _cart(state: State) -> Screen:
    return _shop(
        state,
        "cart",
        Element("name", "heading", "Your cart"),
        Element("checkout", "button", "Check out", state="primary"),
        Element("keep", "button", "Keep shopping"),
        Element("empty", "label", "Shipping is free.", state="muted"),
    )


def _account(state: State) -> Screen:
    return _shop(
        state,
        "account",
        Element("name", "heading", "Sign in"),
        Element("mail", "text_field", detail="E-mail"),
        Element("password", "text_field", detail="Password"),
        Element("sign-in", "button", "Sign in", state="primary"),
        Element("forgot", "link", "Forgot password?"),
    )


_SHOP = {
    "home": _home,
    "search": _search,
    "results": _results_page,
    "product": _product,
    "category": _category,
    "menu": _menu,
    "help": _help,
    "cart": _cart,
    "account": _account,
}


def _price(site: str, query: str, number: str) -> str:
    return f"${9 + crc32(f'{query}|{number}|{site}'.encode()) % 190}.99"
