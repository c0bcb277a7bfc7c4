"""The Chromium dialect and the MiniWoB++ pages, as far as they need no browser."""

from __future__ import annotations

import pytest

from android_env.appium.chromium import PHONE, Chromium, Viewport, find_browser, plain
from android_env.appium.server import AppiumServer
from android_env.devices.miniwob import MiniWoB
from android_env.errors import SetupError, TaskError
from android_env.tasks import Task, load_tasks


@pytest.fixture
def pages():
    pytest.importorskip("miniwob")
    pages = MiniWoB()
    yield pages
    pages.close()


def test_the_screen_is_as_large_as_the_simulated_phones():
    assert PHONE.screen_hw == (320, 192)
    assert Viewport(height=100, width=50, pixel_ratio=2.0).screen_hw == (200, 100)


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("usb cable", "usb cable"),
        ("a\nb\r\nc\td", "a b c d"),
        ("a\ue007b\ue000", "ab"),
        ("\x00\x1b[A", "[A"),
        ("日本 😀 é", "日本 😀 é"),
        ("\u2028x", " x"),
    ],
)
def test_what_is_typed_presses_no_keys(text, typed):
    assert plain(text) == typed


def test_sessions_share_no_port(pages):
    dialect = Chromium(pages, programs=("/b", "/d"))
    ports = {dialect.capabilities()["appium:chromedriverPort"] for _ in range(8)}
    assert len(ports) > 1
    assert dialect.capabilities()["goog:chromeOptions"]["binary"] == "/b"


def test_every_task_has_its_page(pages):
    tasks = load_tasks("miniwob")
    assert len(tasks) == 16 and len(load_tasks("miniwob/train")) == 12 == 3 * len(load_tasks("miniwob/test"))
    for task in tasks:
        url = pages.url(task, 7)
        assert url.startswith("http://127.0.0.1:") and url.endswith(
            f"/miniwob/{task.params['page']}.html?seed=7"
        )


@pytest.mark.parametrize(
    "page", ["../core/core", "..%2fcore", "/etc/passwd", "Click-Link", "no-such-page", ""]
)
def test_tasks_cannot_leave_the_pages(pages, page):
    with pytest.raises(TaskError, match="has no page"):
        pages.url(Task("x", "x", "miniwob", 1, "train", {"page": page}), 0)


def test_other_families_are_refused(pages):
    with pytest.raises(TaskError, match="plays 'miniwob' tasks only"):
        pages.url(load_tasks("webshop")[0], 0)


def test_what_is_missing_is_named_with_its_mend(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="chromium is not on PATH; run 'make appium'"):
        find_browser()
    with pytest.raises(SetupError, match="run 'make appium', or set APPIUM_HOME"):
        AppiumServer(home=tmp_path)
