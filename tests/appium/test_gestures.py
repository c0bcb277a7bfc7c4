"""What fingers and keys do in a real browser, through a real server."""

from __future__ import annotations

import json

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.appium.chromium import PHONE, script
from android_env.faults import BrowserGone
from tests.appium.conftest import TASK

HEIGHT, WIDTH = PHONE.screen_hw
LISTEN = """
<script>seen = [];
for (const kind of ['touchstart', 'touchend', 'click', 'contextmenu', 'keydown', 'submit'])
  addEventListener(kind, e => { seen.push([kind, e.key || e.target.id, e.clientX, e.clientY, e.timeStamp]); });
addEventListener('submit', e => e.preventDefault());
</script>
"""


def seen(device, kind):
    return device.ask(lambda driver: script(driver, "return seen.filter(e => e[0] === arguments[0])", kind))


def value(device, source):
    return device.ask(lambda driver: script(driver, f"return {source}"))


def test_screenshots_are_the_screen_at_its_size(browser):
    device = browser("<div style='height:134px;background:#f00'></div>")
    observation = device.observe()
    assert observation.screenshot.shape == (320, 192, 3) and observation.screenshot.dtype == np.uint8
    assert observation.screenshot[10, 100].tolist() == [255, 0, 0]
    assert observation.screenshot[300, 100].tolist() == [255, 255, 255]
    assert observation.activity == "chromium/page.html" and observation.goal == "do it"
    assert value(device, "[innerHeight, innerWidth, devicePixelRatio]") == pytest.approx([267, 160, 1.2])


@pytest.mark.parametrize("point", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.25)])
def test_a_tap_touches_where_it_is_told_and_is_no_long_press(browser, point):
    device = browser(f"{LISTEN}<div style='height:267px'></div>")
    device.execute(Action.tap(*point))
    [(_, _, x, y, _)] = seen(device, "click")
    assert abs(x - point[1] * PHONE.width) <= 1 and abs(y - point[0] * PHONE.height) <= 1
    assert len(seen(device, "touchstart")) == len(seen(device, "touchend")) == 1
    assert not seen(device, "contextmenu")
    assert device.report.sent == "executed" and not device.report.timed_out


def test_a_long_press_is_one(browser):
    device = browser(f"{LISTEN}<div style='height:267px'>words to press</div>")
    device.execute(Action(ActionType.LONG_PRESS, (0.5, 0.5)))
    [(*_, down)], [(*_, up)] = seen(device, "touchstart"), seen(device, "touchend")
    assert up - down > 900
    for _ in range(5):
        device.execute(Action.tap(0.5, 0.5))
    downs, ups = seen(device, "touchstart")[1:], seen(device, "touchend")[1:]
    held = [up[-1] - down[-1] for down, up in zip(downs, ups, strict=True)]
    assert len(held) == 5 and min(held) < 400  # a machine under load may hold up one or another


def test_swipes_scroll_equally_far_and_nothing_runs_on(browser):
    device = browser(f"{LISTEN}<div style='height:4000px;background:linear-gradient(red,blue)'></div>")
    places = [0]
    for _ in range(3):
        device.execute(Action.swipe("up"))
        places.append(value(device, "scrollY"))
        assert value(device, "new Promise(done => setTimeout(() => done(scrollY), 300))") == places[-1]
    way = np.diff(places)
    assert np.ptp(way) <= 2 and 0.75 * 160 < way[0] <= 161  # less what Chromium takes for a tap's tremble
    device.execute(Action.swipe("down"))
    assert value(device, "scrollY") < places[-1] - 100
    assert not seen(device, "click")


@pytest.mark.parametrize("text", ["desk lamp", "Straße 5, 日本", 'a"b\\c', "smile 😀"])
def test_typing_writes_the_text_into_the_focused_field(browser, text):
    device = browser(f"{LISTEN}<form id=form><input id=field autofocus></form>")
    device.execute(Action.tap(0.02, 0.1))
    device.execute(Action.type_text(text))
    assert value(device, "document.querySelector('#field').value") == text
    assert not seen(device, "submit")


def test_typing_never_presses_keys(browser):
    device = browser(
        f"{LISTEN}<form id=form><input id=field autofocus><input id=other><button>Go</button></form>"
    )
    device.execute(Action.tap(0.02, 0.1))
    device.execute(Action.type_text("one\ntwo\r\nthree\tfour\ue007\ue003"))
    assert value(device, "document.querySelector('#field').value") == "one two three four"
    assert not seen(device, "submit")
    assert not {"Enter", "Tab", "Backspace"} & {key for _, key, *_ in seen(device, "keydown")}
    device.execute(Action.enter())
    assert len(seen(device, "submit")) == 1


def test_typing_without_a_field_changes_nothing(browser):
    device = browser(f"{LISTEN}<input id=field>")
    before = device.observe().screenshot
    device.execute(Action.type_text("nowhere"))
    assert np.array_equal(device.observe().screenshot, before)


def test_home_is_a_page_and_back_does_not_leave_it(browser):
    device = browser("<a href='page.html?other' style='font-size:80px'>next</a>")
    device.execute(Action.tap(0.1, 0.2))
    assert value(device, "location.search") == "?other"
    device.execute(Action.back())
    assert value(device, "location.search") != "?other"
    for action in (Action.back(), Action.back(), Action.home(), Action.back()):
        device.execute(action)
        assert device.observe().activity == "chromium/home.html"


def test_a_reset_forgets_what_pages_kept_and_where_they_were(browser):
    keeping = "<script>localStorage.a = sessionStorage.b = 1; document.cookie = 'c=1'</script>kept"
    assert value(browser(keeping), "localStorage.length") == 1
    device = browser("clean")
    assert value(device, "[localStorage.length, sessionStorage.b, document.cookie]") == [0, None, ""]
    device.execute(Action.back())
    device.execute(Action.back())
    assert device.observe().activity == "chromium/home.html"


def test_dialogs_wait_for_the_agent_and_no_longer(browser):
    device = browser("<button style='width:160px;height:100px' onclick='alert(1); done = 1'>ask</button>")
    device.execute(Action.tap(0.1, 0.5))
    assert device.observe().activity == "chromium/dialog"
    device.execute(Action.tap(0.6, 0.7))  # OK
    assert value(device, "done") == 1


def test_elements_have_text_role_and_place(browser):
    device = browser(
        "<button id=go style='display:block;width:80px;height:267px'>Go on</button>"
        "<input type=password value=secret style='position:absolute;top:0;left:80px;width:50px'>"
        "<p style='visibility:hidden'>hidden</p><p style='position:absolute;top:9999px'>below</p>"
    )
    button, password = json.loads(device.observe().ui_elements)
    assert button == {"text": "Go on", "role": "button", "id": "go", "bounds": [0, 0, 1, 0.5]}
    assert password["role"] == "input_password" and password["text"] == ""


def test_a_browser_that_dies_ends_the_episode_and_the_next_has_a_new_one(browser):
    device = browser("first")
    device._driver.quit()
    with pytest.raises(BrowserGone, match="again from its seed"):
        for _ in range(2):
            device.execute(Action.tap(0.5, 0.5))
    assert device.reset(TASK, seed=10**7).activity == "chromium/page.html"
    device.execute(Action.tap(0.5, 0.5))
    assert device.report.sent == "executed" and device.report.faults == 0
