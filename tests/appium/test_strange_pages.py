"""Pages as the web has them: tabs, dialogs, pickers, storage that outlives a reset, pages that hang. A real browser."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from android_env.actions import Action, ActionType
from android_env.appium.chromium import PHONE, SETTLE, Chromium, script
from android_env.appium.device import AppiumDevice
from android_env.errors import DeviceFault
from android_env.faults import Rung
from android_env.tasks import Task

HEAD = (
    "<!DOCTYPE html><html><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<style>body{margin:0} .b{position:absolute;left:0;top:0;width:100vw;height:120px}</style></head><body>"
)
PAGES = {
    "home": "<p>home</p>",
    "other": "<p>OTHER PAGE</p>",
    "plain": "<p>plain</p><input class=b style='top:130px'>",
    "alert": "<button class=b onclick=\"alert('hello');document.title='after'\">go</button>",
    "confirm": "<button class=b onclick=\"document.body.innerText=confirm('sure?')?'YES':'NO'\">go</button>",
    "prompt": "<button class=b onclick=\"document.body.innerText='GOT '+prompt('name?')\">go</button>",
    "blank": "<a class=b target=_blank href=/other>open</a>",
    "open": "<button class=b onclick=\"window.open('/other')\">go</button>",
    "selfclose": "<button class=b onclick=\"window.w=window.open('/closes')\">go</button>",
    "closes": "<script>setTimeout(()=>close(),300)</script>",
    "hanglink": "<a class=b href=/hang>x</a>",
    "loop": '<button class=b onclick="setTimeout(()=>{for(;;);},50)">go</button>',
    "date": "<input class=b type=date oninput=\"document.title='picked '+this.value\">",
    "black": "<style>html{background:#000}</style>",
    "worker": "<script>navigator.serviceWorker.register('/sw.js').then(()=>document.title='worker')</script>",
    "database": """<script>
        const r = indexedDB.open('d'); r.onupgradeneeded = e => e.target.result.createObjectStore('s');
        r.onsuccess = e => { const d = e.target.result, q = d.transaction('s').objectStore('s').get('k');
          q.onsuccess = () => { localStorage.l = (localStorage.l || '') + 'x'; document.cookie = 'c=1;max-age=999';
            document.title = 'old=' + q.result + ' ' + localStorage.l;
            d.transaction('s', 'readwrite').objectStore('s').put('left', 'k') } }</script>""",
}
PAGES |= {
    f"late{ms}": f"<button class=b onclick=\"setTimeout(()=>{{alert('late');document.title='after'}},{ms})\">go</button>"
    for ms in range(100, 400, 20)
}
WORKER = (
    "self.addEventListener('fetch',e=>{if(e.request.mode==='navigate')e.respondWith(new Response('<h1>STALE</h1>',"
    "{headers:{'Content-Type':'text/html'}}))});self.addEventListener('install',()=>skipWaiting());"
    "self.addEventListener('activate',e=>e.waitUntil(clients.claim()))"
)
TAP = Action.tap(0.2, 0.5)
OK, CANCEL = Action.tap(0.6, 0.7), Action.tap(0.6, 0.3)
WAIT = Action(ActionType.WAIT)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    released = threading.Event()

    def do_GET(self):
        name = self.path.partition("?")[0].strip("/")
        if name == "hang":
            self.released.wait(300)
            return
        kind = "text/javascript" if name == "sw.js" else "text/html"
        body = WORKER if name == "sw.js" else HEAD + PAGES.get(name, "<p>nothing</p>")
        self.send_response(200 if name == "sw.js" or name in PAGES else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


class Web:
    """A page a task."""

    def __init__(self, url):
        self.home, self._url = f"{url}/home", url

    def url(self, task, seed):
        return f"{self._url}/{task.params['page']}?{seed}"

    def goal(self, driver):
        return "do it"

    def verdict(self, driver):
        return None


@pytest.fixture(scope="module")
def device(server):
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
    made = AppiumDevice(
        server.url,
        Chromium(Web(f"http://127.0.0.1:{web.server_address[1]}")),
        settle=SETTLE,
        screen_hw=PHONE.screen_hw,
        timeout_s=30.0,
        repairs={Rung.NEW_SESSION: server.start, Rung.LOAD_SNAPSHOT: server.start},
    )
    yield made
    made.close()
    Handler.released.set()
    web.shutdown()
    web.server_close()


def begin(device, page, seed=0):
    return device.reset(Task(f"web/{page}", "do it", "web", 1, "train", {"page": page}), seed=seed)


def asked(device, source):
    return device.ask(lambda driver: script(driver, f"return {source}"))


def test_a_confirmation_is_the_agents_to_answer(device):
    for answer, said in ((OK, "YES"), (CANCEL, "NO"), (Action.back(), "NO"), (Action.enter(), "YES")):
        page = begin(device, "confirm")
        device.execute(TAP)
        seen = device.observe()
        assert "dialog" in device.report.notes and seen.activity == "chromium/dialog"
        assert "sure?" in seen.ui_elements and (seen.screenshot != page.screenshot).mean() > 0.2
        device.execute(answer)
        assert asked(device, "document.body.innerText") == said
        assert device.observe().activity == "chromium/confirm"


def test_alerts_and_prompts(device):
    begin(device, "alert")
    device.execute(TAP)
    assert "hello" in device.observe().ui_elements
    device.execute(Action.tap(0.9, 0.5))
    assert device.observe().activity == "chromium/dialog", "beside the dialog nothing happens"
    device.execute(OK)
    assert asked(device, "document.title") == "after"
    begin(device, "prompt")
    device.execute(TAP)
    device.execute(Action.type_text("Ada"))
    device.execute(OK)
    assert asked(device, "document.body.innerText") == "GOT Ada"
    begin(device, "prompt")
    device.execute(TAP)  # and left open: the next episode does not meet it
    assert begin(device, "plain").activity == "chromium/plain"


@pytest.mark.parametrize("page", ["blank", "open"])
def test_new_windows_are_seen_and_back_closes_them(device, page):
    begin(device, page)
    device.execute(TAP)
    seen = device.observe()
    assert seen.activity == "chromium/other" and "OTHER PAGE" in seen.ui_elements
    assert "new_window" in device.report.notes
    device.execute(Action.back())
    assert device.observe().activity == f"chromium/{page}"
    device.execute(TAP)
    assert begin(device, "plain").activity == "chromium/plain"
    assert len(device.ask(lambda driver: driver.window_handles)) == 1


def test_a_window_that_closes_itself_gives_the_screen_back(device):
    begin(device, "selfclose")
    device.execute(TAP)
    end = time.monotonic() + 10
    while device.observe().activity != "chromium/selfclose" and time.monotonic() < end:
        device.execute(WAIT)
    assert device.observe().activity == "chromium/selfclose"


def test_nothing_that_a_page_has_stored_is_left_to_the_next_episode(device):
    titles = []
    for seed in (1, 2):
        begin(device, "database", seed)
        device.execute(WAIT)
        titles.append(asked(device, "document.title"))
    assert titles == ["old=undefined x"] * 2
    begin(device, "worker")
    end = time.monotonic() + 10
    while asked(device, "document.title") != "worker" and time.monotonic() < end:
        device.execute(WAIT)
    device.execute(WAIT)
    begin(device, "plain", seed=7)
    assert asked(device, "document.body.innerText").strip() == "plain"


def test_dates_are_typed_as_a_phones_picker_takes_them(device):
    for text in ("2026-03-09", "03/09/2026", "03092026"):
        begin(device, "date")
        device.execute(TAP)
        device.execute(Action.type_text(text))
        assert asked(device, "document.title") == "picked 2026-03-09", text


def test_a_black_page_is_a_page(device):
    faults = device.faults.kinds.total()
    assert not begin(device, "black").screenshot.any() and device.faults.kinds.total() == faults


def test_a_link_that_never_answers_and_a_loop_cost_seconds(device):
    begin(device, "hanglink")
    device.execute(TAP)
    assert device.report.sent == "executed" and device.observe().activity == "chromium/hanglink"
    begin(device, "loop")
    start = time.monotonic()
    with pytest.raises(DeviceFault):
        device.execute(TAP)
        device.execute(TAP)
        device.observe()
    assert begin(device, "plain").activity == "chromium/plain"
    # A script is given up after ten seconds. Where the loop begins while a screenshot is taken, the server answers nothing
    # until that one has timed out, twice.
    assert time.monotonic() - start < 3 * device.timeout_s, (
        "it took as many of the server's time-outs as before"
    )


def test_a_dialog_may_come_at_any_moment(device):
    """Between a screenshot and what is asked next, too: no browser is started anew for it."""
    sessions = set()
    for ms in range(100, 400, 20):
        begin(device, f"late{ms}")
        device.execute(TAP)
        device.observe()
        assert device.ask(lambda driver: device.dialect.verdict(driver)) is None
        end = time.monotonic() + 10
        while device.observe().activity != "chromium/dialog" and time.monotonic() < end:
            device.execute(WAIT)
        assert "late" in device.observe().ui_elements
        device.execute(Action.back())
        assert asked(device, "document.title") == "after"
        sessions.add(device.ask(lambda driver: driver.session_id))
    assert len(sessions) == 1
