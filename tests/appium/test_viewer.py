"""The viewer's page in a headless Chromium: keys, filters, two critics side by side, and a page opened as a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from android_env.appium.chromium import find_browser
from android_env.errors import SetupError
from digiq.report.viewer.gather import RunView, find
from digiq.report.viewer.pages import write
from digiq.report.viewer.serve import ViewServer
from tests.digiq.conftest import make_run, read_values
from tools.browser import emulate, headless

PAINTED = """
window.painted = []; window.broken = [];
document.addEventListener('digiq:painted', e => window.painted.push(e.detail));
window.addEventListener('error', e => window.broken.push(String(e.message)), true);
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    try:
        find_browser()
    except SetupError as error:
        pytest.skip(str(error))
    with headless(script=PAINTED) as driver:
        yield driver


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> Iterator[RunView]:
    root = tmp_path_factory.mktemp("viewed")
    turn = iter([1.0, -1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digiq.report.run_report.open_features", Path)
        patch.setattr("digiq.report.run_report.load_critic", Path)
        patch.setattr(
            "digiq.report.run_report.candidate_values", lambda c, f: _turned(read_values(c, f), next(turn))
        )
        found = find(make_run(root).root)
        critic = found.critics["critic"]
        yield RunView(
            type(found)(**{**vars(found), "critics": {"td": critic, "mc": critic}}), "DigiQ · small"
        )


def _turned(values: tuple[Any, Any], sign: float) -> tuple[Any, Any]:
    return sign * values[0], sign * values[1]


@pytest.fixture(scope="module")
def url(view: RunView) -> Iterator[str]:
    server = ViewServer(view)
    threading.Thread(target=server.serve, daemon=True).start()
    yield server.url
    server.close()


def press(driver: Any, key: str) -> dict[str, Any]:
    """Presses a key; what is painted after it."""
    from selenium.webdriver.common.by import By

    before = driver.execute_script("return painted.length")
    driver.find_element(By.TAG_NAME, "body").send_keys(key)
    return settled(driver, before)


def settled(driver: Any, before: int = 0) -> dict[str, Any]:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 10).until(
        lambda d: d.execute_script("return window.painted && painted.length") > before
    )
    assert driver.execute_script("return broken") == []
    return driver.execute_script("return painted.at(-1)")


def open_page(driver: Any, url: str) -> None:
    driver.get("about:blank")
    driver.get(url)
    settled(driver)


def texts(driver: Any, selector: str) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )


def test_keys_walk_through_steps_and_episodes(driver, url, view):
    open_page(driver, url)
    assert press(driver, "\ue014")["step"] == 1  # arrow right
    assert press(driver, "\ue010")["step"] == view.index["episodes"][0]["steps"]  # end
    down = press(driver, "j")
    assert (down["key"], down["step"]) == (1, 0)
    assert press(driver, "k")["key"] == 0
    image = driver.execute_script(
        "const i = document.querySelector('.screen img'); return [i.complete, i.naturalWidth]"
    )
    assert image == [True, view.episode(0)["hw"][1]]


def test_the_table_is_the_critics_order_and_marks_lie_where_actions_go(driver, url, view):
    open_page(driver, url)
    step = view.episode(0)["steps"][0]
    expected = sorted((c["q"][0] for c in step["cand"]), reverse=True)
    shown = [float(text) for text in texts(driver, "tbody td:nth-child(3)")]
    assert shown == pytest.approx(expected, abs=6e-4)
    marks = driver.execute_script(
        "return [...document.querySelectorAll('.marks text')].map(t => [+t.textContent, +t.getAttribute('x')])"
    )
    ranked = sorted(step["cand"], key=lambda c: -c["q"][0])
    assert dict(map(tuple, marks)) == {
        n + 1: pytest.approx(100 * c["p"][1], abs=0.01) for n, c in enumerate(ranked) if "p" in c
    }


def test_two_critics_stand_side_by_side_on_one_step(driver, url, view):
    open_page(driver, f"{url}#e=0&s=0&b=c1")
    assert len(texts(driver, ".pane")) == 2
    press(driver, "\ue014")
    steps = driver.execute_script("return [...document.querySelectorAll('.pane')].map(p => p.dataset.step)")
    assert steps == ["1", "1"]
    q = [[float(t) for t in texts(driver, f".pane:nth-child({n}) tbody td:nth-child(3)")] for n in (1, 2)]
    assert q[0] == pytest.approx([-v for v in reversed(q[1])], abs=1e-3)


def test_filters_leave_what_they_say(driver, url, view):
    open_page(driver, url)
    outcomes = [e["outcome"] for e in view.index["episodes"]]
    wanted = sorted(set(outcomes))[0]
    script = "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))"
    driver.execute_script(script, "outcome", wanted)
    assert len(texts(driver, "#list li")) == outcomes.count(wanted)
    driver.execute_script(script, "outcome", "")
    driver.execute_script(script, "differs", "agrees")
    assert len(texts(driver, "#list li")) == sum(e["differs"][0] == 0 for e in view.index["episodes"])
    driver.execute_script(script, "search", "no such words")
    assert texts(driver, "#list li") == []


def test_it_opens_from_a_file_and_reads_on_a_phone(driver, view, tmp_path):
    write(view, tmp_path / "folder")
    write(view, tmp_path / "page.html")
    emulate(driver, 390, 844, phone=True)
    try:
        for page in (tmp_path / "folder/index.html", tmp_path / "page.html"):
            open_page(driver, page.as_uri())
            assert press(driver, "\ue014")["step"] == 1
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
