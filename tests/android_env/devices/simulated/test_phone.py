"""SimulatedPhone: seeds, clones, layouts, what is observed."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.devices import Device, JudgesItself
from android_env.devices.simulated.collector import collector_policy
from android_env.devices.simulated.display import SITE_THEMES, Display
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NoiseConfig, State
from android_env.errors import EpisodeError
from android_env.tasks import load_tasks
from android_env.tasks.webshop import FINAL_SITES, TEST_SITES, TRAIN_SITES, TUNE_SITES

TASK = load_tasks("webshop/train").where(level=3)[0]


def walk(phone: SimulatedPhone, steps: int, seed: int = 0) -> list[State]:
    rng = np.random.default_rng(seed)
    states = []
    for _ in range(steps):
        phone.execute(collector_policy(phone, rng)[0])
        states.append(phone.state)
    return states


def make_phone(seed: int = 0, **options) -> SimulatedPhone:
    phone = SimulatedPhone(**{"render": False, **options})
    phone.reset(TASK, seed=seed)
    return phone


def test_it_is_a_device_that_judges_itself():
    phone: Device = SimulatedPhone()
    assert isinstance(phone, JudgesItself)


def test_an_episode_repeats_under_its_seed():
    assert walk(make_phone(3), 15) == walk(make_phone(3), 15)
    noisy = NoiseConfig(scale=2)
    assert len({tuple(walk(make_phone(seed, noise=noisy), 15)) for seed in range(8)}) > 5


def test_a_clone_lives_the_same_future_apart():
    phone = make_phone(1, noise=NoiseConfig(scale=2))
    walk(phone, 4)
    before, twin = phone.state, phone.clone()
    future = walk(twin, 10)
    assert phone.state == before
    assert walk(phone, 10) == future


def test_a_clone_starts_another_episode_without_disturbing_the_first():
    phone = make_phone(1)
    walk(phone, 5)
    state, layout_seed = phone.state, phone.layout_seed
    phone.clone().reset(load_tasks("general")[0], seed=9)
    assert (phone.state, phone.layout_seed, phone.task) == (state, layout_seed, TASK)


def test_places_vary_with_the_episode():
    centers = {make_phone(seed).display.boxes["app-Browser"].center for seed in range(12)}
    assert len(centers) > 4


def test_a_tap_reaches_the_element_drawn_there():
    for seed in range(10):
        phone = make_phone(seed, noise=NoiseConfig(scale=0))
        phone.execute(phone.display.point("app-Browser", 0.8, 0.2))
        assert phone.state.page == "tab"
        phone.execute(phone.display.point("url"))
        assert phone.state.page == "url"


def test_actions_resolve_to_what_they_touch():
    display = make_phone().display
    assert display.resolve(display.point("app-Mail")) == ("tap", "app-Mail")
    assert display.resolve(Action.tap(0.0, 0.0)) == display.resolve(Action.tap(1.0, 1.0)) == ("tap", None)
    assert display.resolve(Action.swipe("left")) == ("swipe", "left")
    assert display.resolve(Action.type_text("x")) == ("type", "x")
    assert display.resolve(Action(ActionType.ANSWER, text="x")) == ("tap", None)
    for abstract in (("back",), ("home",), ("enter",), ("complete",), ("impossible",), ("tap", None)):
        assert display.resolve(display.concrete(abstract)) == abstract


def test_observations_are_drawn_only_if_wanted():
    phone = make_phone(render=True)
    seen = phone.observe()
    assert seen.screenshot.shape == (320, 192, 3) and seen.screenshot.dtype == np.uint8
    assert len(np.unique(seen.screenshot.reshape(-1, 3), axis=0)) > 10
    assert seen.goal == TASK.goal and "launcher" in seen.activity
    names = {entry["text"] for entry in json.loads(seen.ui_elements)}
    assert {"Browser", "Mail", "Clock"} <= {name.split()[0] for name in names}
    assert not make_phone(render=False).observe().screenshot.any()


def test_what_is_typed_can_be_seen():
    url = State("url", "Browser", text="")
    empty, typed = (
        Display(s, TASK, 3).observe().screenshot for s in (url, url._replace(text="cartopia.com"))
    )
    assert np.any(empty != typed)


def test_unseen_sites_wear_unseen_themes():
    sites = (*TRAIN_SITES, *TEST_SITES, *TUNE_SITES, *FINAL_SITES)
    assert len({SITE_THEMES[site].name for site in sites}) == len(sites) == len(SITE_THEMES)


SCREENS = {
    "buyhive.com": "01f2ab61b08c9f87", "cartopia.com": "dfcdc88bfe4a3b00", "shopnest.com": "b613d56ffb23ac31", "gadgetly.com": "8a07192bbe9ebbbb", "dealdock.com": "2c1c1c37f0d613f2",
    "trovekart.com": "571cb9bc84c53a7f", "pricepond.com": "ff36a830a5623a92", "wareville.com": "99067566fc082365", "stockwise.com": "bf4558b2180ac16c",
}  # fmt: skip
"""Digests of what each site looks like. Results are only comparable while these stay."""


@pytest.mark.parametrize("site", SCREENS)
def test_sites_look_as_they_did_when_results_were_reported(site):
    states = State("home", site), State("home", site, overlay="cookie"), State("results", site, "desk lamp")
    digest = hashlib.sha256()
    for state in states:
        seen = Display(state, TASK, 3).observe()
        digest.update(seen.screenshot.tobytes() + seen.ui_elements.encode())
    assert digest.hexdigest()[:16] == SCREENS[site]


def test_nothing_works_before_an_episode():
    phone = SimulatedPhone()
    for call in (
        phone.observe,
        phone.verdict,
        lambda: phone.execute(Action.back()),
        lambda: phone.layout_seed,
    ):
        with pytest.raises(EpisodeError, match="reset"):
            call()
    with pytest.raises(ValueError, match="on_reach"):
        SimulatedPhone(success="sometimes")
