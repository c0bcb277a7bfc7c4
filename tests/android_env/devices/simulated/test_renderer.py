"""The simulated phone's display: layout, hit test, drawing."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from android_env.devices.simulated.icons import icon_mask, icon_names
from android_env.devices.simulated.layout import MIN_TARGET
from android_env.devices.simulated.renderer import hit_test, layout, render, ui_elements_json
from android_env.devices.simulated.screen import (
    PANEL_ROLES,
    ROLES,
    SCREEN_HW,
    Box,
    Element,
    InertBox,
    Screen,
)
from android_env.devices.simulated.themes import (
    FINAL_SITE_THEMES,
    PRETRAIN_THEMES,
    SYSTEM_THEMES,
    TEST_SITE_THEMES,
    THEMES,
    TRAIN_SITE_THEMES,
    TUNE_SITE_THEMES,
    contrast,
)

NAV = tuple(Element(f"nav_{icon}", "nav_button", icon=icon) for icon in ("back", "home", "recents"))
KEYS = (Element("keyboard", "keyboard"), Element("go", "keyboard_key", "Go"))
ANSWERS = (
    Element("yes", "dialog_button", "Accept", state="primary"),
    Element("no", "dialog_button", "Reject"),
    Element("x", "dialog_button", icon="close"),
)
THEME = TRAIN_SITE_THEMES[0]


def _site(*more: Element, text: str = "red shoes", state: str = "", **changes: object) -> Screen:
    elements = (
        Element("url", "url_bar", "shop.example", detail="Address"),
        Element("menu", "icon_button", "Menu", icon="menu"),
        Element("search", "search_box", text, state=state, detail="Search"),
        *more,
        *NAV,
    )
    return replace(Screen("results", "Shop", "shop.example", elements), **changes)


def _results() -> Screen:
    return _site(
        Element("ad", "sponsored_row", "Shoe rack", icon="shoe", detail="$9"),
        *(Element(f"row{i}", "product_row", f"Red shoes {i}", icon="shoe", detail="$40") for i in range(3)),
    )


def _settings(on: bool = False) -> Screen:
    rows = (
        Element("wifi", "toggle", "Wi-Fi", state="on" if on else ""),
        *(Element(f"row{i}", "list_row", f"Entry {i}") for i in range(4)),
    )
    tabs = (Element("t0", "tab", "One", state="selected"), Element("t1", "tab", "Two"))
    return Screen("settings", "Settings", "settings", (*tabs, *rows, *NAV))


def _launcher() -> Screen:
    names = icon_names()[:11]
    icons = tuple(Element(f"app_{n}", "launcher_icon", n.title(), icon=n) for n in names)
    return Screen("launcher", "", "launcher", (*icons, *NAV))


def _panel(role: str) -> Screen:
    panel = Element("panel", role, "We use cookies", icon="gift", detail="They help us improve your visit")
    return replace(_results(), overlay=(panel, *ANSWERS))


SCREENS = {
    "results": _results(),
    "typing": _site(*KEYS, state="focused"),
    "settings": _settings(),
    "launcher": _launcher(),
    "dialog": _panel("dialog"),
    "popup": _panel("popup"),
    "sheet": _panel("sheet"),
    "form": Screen(
        "form",
        "Compose",
        "mail",
        (
            Element("to", "text_field", "ann", detail="To"),
            Element("agree", "checkbox", "Keep a copy"),
            Element("send", "button", "Send", icon="send", state="primary"),
            Element("drop", "button", "Discard"),
            Element("help", "link", "?"),
        ),
    ),
}


@pytest.mark.parametrize("name", SCREENS)
def test_tap_targets_are_large_apart_and_on_the_screen(name: str) -> None:
    screen = SCREENS[name]
    for seed in range(80):
        boxes = layout(screen, layout_seed=seed)
        for group in (screen.elements, screen.overlay):
            targets = {e.id: boxes[e.id] for e in group if e.tappable}
            assert len(targets) == sum(e.tappable for e in group), f"seed {seed}: an element found no room"
            for key, box in targets.items():
                assert min(box.height, box.width) >= MIN_TARGET, (seed, key, box)
                assert box.y0 >= 0 and box.y1 <= SCREEN_HW[0] and box.x0 >= 0 and box.x1 <= SCREEN_HW[1], (
                    seed,
                    key,
                )
            for (a, box_a), (b, box_b) in combinations(targets.items(), 2):
                assert not box_a.overlaps(box_b), (seed, a, b)


def test_any_mixture_of_roles_has_a_sound_layout_and_can_be_drawn() -> None:
    choose = random.Random(0)
    words = ("", "ok", "settings page two", "x" * 40, "a b c d e f g h i j k l m n o p")

    def elements(prefix: str, most: int) -> tuple[Element, ...]:
        return tuple(
            Element(
                f"{prefix}{index}",
                choose.choice(ROLES),
                choose.choice(words),
                icon=choose.choice(("", "star", "gear")),
                state=choose.choice(("", "focused", "on", "ordered", "own")),
                detail=choose.choice(words),
            )
            for index in range(choose.randrange(most))
        )

    for seed in range(400):
        title, crowd, over = choose.choice(("", "A title")), elements("e", 14), elements("o", 6)
        screen = Screen(f"mixture {seed}", title, "any", crowd, over, loading=choose.random() < 0.1)
        boxes = layout(screen, layout_seed=seed)
        assert render(screen, boxes, choose.choice(list(THEMES.values()))).shape == (*SCREEN_HW, 3)
        for group in (crowd, over):
            targets = [boxes[e.id] for e in group if e.tappable and e.id in boxes]
            assert all(min(box.height, box.width) >= MIN_TARGET for box in targets)
            assert all(box.y0 >= 0 and box.x0 >= 0 and box.y1 <= 320 and box.x1 <= 192 for box in targets)
            assert not any(a.overlaps(b) for a, b in combinations(targets, 2)), seed


@pytest.mark.parametrize("name", SCREENS)
def test_tapping_the_middle_of_a_target_reaches_it_unless_a_panel_is_in_front(name: str) -> None:
    screen = SCREENS[name]
    for seed in range(30):
        boxes = layout(screen, layout_seed=seed)
        for element in (*screen.elements, *screen.overlay):
            covered = screen.modal and element in screen.elements and element.role != "nav_button"
            hit = hit_test(boxes, *boxes[element.id].center)
            if covered:
                assert hit not in {e.id for e in screen.elements}
            elif element.tappable:
                assert hit == element.id


def test_nothing_but_the_navigation_bar_reacts_while_loading() -> None:
    boxes = layout(replace(_results(), loading=True), layout_seed=3)
    hits = {hit_test(boxes, y, x) for y in range(0, 320, 4) for x in range(0, 192, 4)}
    assert hits == {None, "nav_back", "nav_home", "nav_recents"}


def test_labels_are_inert_and_the_edges_of_a_box_are_half_open() -> None:
    screen = Screen("page", "", "page", (Element("note", "label", "Hello"), Element("ok", "button", "OK")))
    boxes = layout(screen, layout_seed=0)
    assert isinstance(boxes["note"], InertBox)
    assert hit_test(boxes, *boxes["note"].center) is None
    y0, x0, y1, x1 = boxes["ok"]
    assert hit_test(boxes, y0, x0) == hit_test(boxes, y1 - 0.01, x1 - 0.01) == "ok"
    assert hit_test(boxes, y1, x0) is None and hit_test(boxes, y0, x1) is None
    assert hit_test({"a": Box(0, 0, 9, 9), "b": Box(0, 0, 9, 9)}, 5, 5) == "b"


def test_layout_is_a_function_of_the_seed_and_the_seed_moves_things() -> None:
    for name, screen in SCREENS.items():
        layouts = [tuple(layout(screen, layout_seed=seed).items()) for seed in range(20)]
        assert layouts == [tuple(layout(screen, layout_seed=seed).items()) for seed in range(20)]
        assert len(set(layouts)) > 15, name
    seeds = range(60)
    assert {layout(_results(), layout_seed=s)["url"].y0 > 160 for s in seeds} == {True, False}
    assert {layout(_results(), layout_seed=s)["search"].y0 > 160 for s in seeds} == {True, False}
    yes_is_left = {(b := layout(_panel("dialog"), layout_seed=s))["yes"] < b["no"] for s in seeds}
    assert yes_is_left == {True, False}
    assert len({layout(_launcher(), layout_seed=s)["app_globe"][:2] for s in seeds}) >= 8


def test_results_keep_their_order_and_settings_do_not() -> None:
    orders = set()
    for seed in range(40):
        boxes = layout(_results(), layout_seed=seed)
        tops = [boxes[name].y0 for name in ("ad", "row0", "row1", "row2")]
        assert tops == sorted(tops)
        boxes = layout(_settings(), layout_seed=seed)
        orders.add(tuple(sorted(("wifi", "row0", "row1"), key=boxes.__getitem__)))
    assert len(orders) == 6


def test_an_ordered_row_stays_in_its_place() -> None:
    rows = (Element("first", "list_row", "Newest", state="ordered"), *_settings().elements[3:6])
    for seed in range(20):
        boxes = layout(Screen("inbox", "Mail", "mail", rows), layout_seed=seed)
        assert min(boxes[e.id].y0 for e in rows) == boxes["first"].y0


def test_elements_keep_their_places_while_the_state_changes() -> None:
    for seed in range(20):
        assert layout(_settings(on=True), layout_seed=seed) == layout(_settings(on=False), layout_seed=seed)
        before, after = (
            layout(_site(text=text), layout_seed=seed) for text in ("", "something long typed here")
        )
        assert before == after


def test_what_finds_no_room_has_no_box_and_is_left_out() -> None:
    many = tuple(Element(f"row{i}", "product_row", f"Thing {i}") for i in range(30))
    screen = Screen("long", "List", "list", many)
    boxes = layout(screen, layout_seed=1)
    shown = [e.id for e in many if e.id in boxes]
    assert 3 <= len(shown) < 30
    assert shown == [f"row{i}" for i in range(len(shown))], "the end of the list is what is below the fold"
    assert render(screen, boxes, THEME).shape == (*SCREEN_HW, 3)


def test_repeated_ids_and_unknown_words_are_refused() -> None:
    twin = Element("a", "button", "A")
    with pytest.raises(ValueError, match="'a' twice"):
        layout(Screen("t", "", "t", (twin, twin)), layout_seed=0)
    with pytest.raises(ValueError, match="role 'knob'"):
        Element("a", "knob")
    with pytest.raises(ValueError, match="state 'shiny'"):
        Element("a", "button", state="primary shiny")
    with pytest.raises(ValueError, match="'_scrim'"):
        Element("_scrim", "button")
    bad = Screen("t", "", "t", (Element("a", "button", icon="unicorn"),))
    with pytest.raises(ValueError, match="'unicorn'"):
        render(bad, layout(bad, layout_seed=0), THEME)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_leaves_a_mark_in_every_theme_wherever_it_stands(role: str) -> None:
    element = Element("it", role, "Words", icon="star", detail="More")
    keyboard = (Element("keys", "keyboard"),) if role == "keyboard_key" else ()
    blank = Screen("t", "Title", "t")
    panel = () if role in PANEL_ROLES else (Element("panel", "dialog", "Title"),)
    in_page, in_overlay = (
        replace(blank, elements=(*keyboard, element)),
        replace(blank, overlay=(*panel, element)),
    )
    for theme in THEMES.values():
        for screen, without in (
            (in_page, replace(blank, elements=keyboard)),
            (in_overlay, replace(blank, overlay=panel)),
        ):
            boxes = layout(screen, layout_seed=4)
            picture = render(screen, boxes, theme)
            assert picture.dtype == np.uint8 and picture.shape == (*SCREEN_HW, 3)
            y0, x0, y1, x1 = boxes["it"]
            other = render(without, layout(without, layout_seed=4), theme)
            assert (picture[y0:y1, x0:x1] != other[y0:y1, x0:x1]).any()


def _differ(a: Screen, b: Screen, theme=THEME, least: int = 40) -> bool:
    """Whether at least `least` pixels change by more than a shade."""
    pictures = [render(s, layout(s, layout_seed=5), theme).astype(int) for s in (a, b)]
    return int((np.abs(pictures[0] - pictures[1]).max(axis=2) > 40).sum()) >= least


@pytest.mark.parametrize("theme", THEMES.values(), ids=lambda theme: theme.name)
def test_progress_is_visible_in_every_theme(theme) -> None:
    page = _results()
    assert _differ(_site(text=""), _site(text="red shoes"), theme)
    assert _differ(_site(text="red shoes"), _site(text="red shirt"), theme, least=15)
    assert _differ(_site(), _site(state="focused"), theme)
    assert _differ(page, replace(page, loading=True), theme, least=500)
    assert _differ(_settings(on=False), _settings(on=True), theme)
    for role in PANEL_ROLES:
        assert _differ(page, _panel(role), theme, least=5000)
    plain = replace(
        page, elements=tuple(replace(e, role="product_row") if e.id == "ad" else e for e in page.elements)
    )
    assert _differ(page, plain, theme, least=80), "a sponsored row is marked"
    moved = replace(page, elements=(replace(page.elements[0], text="other.example"), *page.elements[1:]))
    assert _differ(page, moved, theme)


def test_rendering_repeats_itself_and_returns_a_fresh_array() -> None:
    for screen in SCREENS.values():
        boxes = layout(screen, layout_seed=2)
        first = render(screen, boxes, THEME)
        untouched = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(render(screen, boxes, THEME), untouched)
    boxes.clear()
    assert layout(screen, layout_seed=2), "the caller's copy is its own"


def test_text_that_does_not_fit_stays_inside_its_box() -> None:
    text = "an endless sentence without mercy " * 6
    for role in ("button", "product_row", "text_field", "label", "banner", "tab", "link", "message", "toast"):
        boxes = layout(Screen("t", "", "t", (Element("it", role, text, detail=text),)), layout_seed=1)
        pictures = [
            render(Screen("t", "", "t", (Element("it", role, t, detail=t),)), boxes, THEME)
            for t in (text, "a")
        ]
        y0, x0, y1, x1 = boxes["it"]
        changed = (pictures[0] != pictures[1]).any(axis=2)
        assert changed[y0:y1, x0:x1].any()
        changed[y0:y1, x0:x1] = False
        assert not changed.any(), role


def test_theme_groups_are_disjoint_and_legible() -> None:
    groups = (
        SYSTEM_THEMES,
        TRAIN_SITE_THEMES,
        TEST_SITE_THEMES,
        TUNE_SITE_THEMES,
        FINAL_SITE_THEMES,
        PRETRAIN_THEMES,
    )
    assert len(TRAIN_SITE_THEMES) >= 6 and len(TEST_SITE_THEMES) >= 1 and len(PRETRAIN_THEMES) >= 10
    assert len(THEMES) == sum(map(len, groups)), "a name is used twice"
    looks = {replace(theme, name="") for theme in THEMES.values()}
    assert len(looks) == len(THEMES), "two themes look the same"
    for theme in THEMES.values():
        assert min(contrast(theme.text, ground) for ground in (theme.background, theme.surface)) >= 7, (
            theme.name
        )
        pairs = (
            (theme.muted, theme.background),
            (theme.muted, theme.surface),
            (theme.primary, theme.background),
            (theme.on_primary, theme.primary),
            (theme.on_accent, theme.accent),
            (theme.on_bar, theme.bar),
        )
        assert min(contrast(*pair) for pair in pairs) >= 4.5, theme.name


def test_every_pictogram_draws_something_of_its_own() -> None:
    masks = {name: icon_mask(name, 18).tobytes() for name in icon_names()}
    assert len(set(masks.values())) == len(masks) >= 60
    for name, mask in masks.items():
        assert 0.05 < np.frombuffer(mask, np.uint8).mean() / 255 < 0.9, name


def test_ui_elements_list_what_can_be_reached() -> None:
    screen = _results()
    listed = json.loads(ui_elements_json(screen, layout(screen, layout_seed=0)))
    rows = [entry for entry in listed if entry["role"] == "product_row"]
    assert [entry["text"] for entry in rows] == [f"Red shoes {i} $40" for i in range(3)]
    y, x, height, width = rows[0]["bounds"]
    assert hit_test(layout(screen, layout_seed=0), (y + height / 2) * 320, (x + width / 2) * 192) == "row0"
    asked = _panel("dialog")
    roles = {entry["role"] for entry in json.loads(ui_elements_json(asked, layout(asked, layout_seed=0)))}
    assert roles == {"dialog", "dialog_button", "nav_button"}
    waiting = replace(screen, loading=True)
    assert len(json.loads(ui_elements_json(waiting, layout(waiting, layout_seed=0)))) == len(NAV)
