"""`AppiumDouble`: an Appium server with a UiAutomator2 phone behind it, for tests; real HTTP, simulated phone.

It answers as the driver does, as far as DigiQ uses it: endpoints, error codes, messages, port clashes, expiring
sessions. It interprets a finger as Android does (`gestures`), and on demand it fails with any of the faults in
`INJECTABLE`. A Chromium session gets the same phone, as if it were a single page.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import re
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from android_env.actions import Action, ActionType
from android_env.appium.chromium import STANDS
from android_env.appium.uiautomator2 import HELPERS
from android_env.clock import Clock, SystemClock
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import NO_NOISE
from android_env.faults import EmulatorDead
from android_env.tasks import Task, load_tasks
from android_env.testing.gestures import Gesture, read_gesture

UNKNOWN = "An unknown server-side error occurred while processing the command."
NOT_RUNNING = (
    "'{method} /{command}' cannot be proxied to UiAutomator2 server because the instrumentation process is not "
    "running (probably crashed). Check the server log and/or the logcat output for more details"
)
KEYS = {3: Action.home(), 4: Action.back(), 66: Action.enter()}
"""The simulated phone's actions for Android's key codes."""
_WAKEUP = 224
SCREENS = ("", "black", "secure", "rotated", "unreadable", "control")
"""Difficult screens that an app may show; empty for an ordinary one."""

INJECTABLE = (
    "adb_offline",
    "session_lost",
    "instrumentation_dead",
    "emulator_dead",
    "browser_gone",
    "screenshot_failed",
    "screenshot_black",
    "settle_timeout",
    "wrong_screen_size",
    "server_dead",
    "server_slow",
    "malformed_response",
    "command_failed",
    "port_busy",
    "app_not_responding",
)
"""The faults that this server can produce; the others concern the life cycle, judges and tasks (`installed`)."""
_W3C = ("platformName", "browserName", "unhandledPromptBehavior", "pageLoadStrategy", "timeouts")
"""The requested capabilities that need no prefix."""
_OF_SCREENSHOTS = ("screenshot_failed", "screenshot_black", "settle_timeout", "wrong_screen_size")

_BOOTED: Task = load_tasks("webshop/train")[0]
"""The task that the phone shows until another is loaded; every task begins at the home screen."""


@dataclass
class _Injection:
    kind: str
    on: str
    after: int
    times: int
    executed: bool


@dataclass
class _Session:
    capabilities: dict[str, Any]
    last_command: float
    instrumented: bool = True


class _Failure(Exception):
    """A W3C error answer."""

    def __init__(self, error: str, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.error, self.message, self.status = error, message, status


class _Hangup(Exception):
    """Closes the connection without an answer."""


class AppiumDouble:
    """The server; it listens on a free port of the loopback interface until `close`. A context manager.

    Args:
        phone: the simulated phone that it drives.
        clock: the clock that measures `newCommandTimeout`.
        allow_insecure: enabled features that are off by default, for example `adb_shell`.
        installed: the apps that can be started; None: any app.
    """

    def __init__(
        self,
        phone: SimulatedPhone | None = None,
        *,
        installed: Collection[str] | None = None,
        clock: Clock | None = None,
        allow_insecure: Sequence[str] = (),
    ) -> None:
        self.phone = phone or SimulatedPhone(noise=NO_NOISE)
        self.phone.reset(_BOOTED, seed=0)
        self.clock = clock or SystemClock()
        self.allow_insecure = frozenset(allow_insecure)
        self.sessions: dict[str, _Session] = {}
        self.commands: list[tuple[str, Any]] = []
        """Every command with its body, in order, including failed ones."""
        self.executed: list[Action] = []
        """The actions that have reached the phone, in order."""
        self.gestures: list[Gesture] = []
        self.settings: dict[str, Any] = {}
        self.installed = None if installed is None else set(installed)
        self.helpers: set[str] = set()
        """Those of `HELPERS` that are on the phone; sessions install them, and `load` resets them to `saved`."""
        self.saved: set[str] = set()
        """The helpers in the snapshot."""
        self.on_install: Callable[[], Any] = lambda: None
        """Called when a session has installed helpers."""
        self.installs = 0
        """How many helpers sessions have installed on the phone."""
        self.screen = ""
        """What the foreground app shows, one of `SCREENS`, until the phone is loaded."""
        self.screen_after = ""
        """What the app shows from the next gesture on."""
        self.dead = False
        """Whether no session can be opened any more, whatever is done."""
        self.state = "device"
        """The phone's state in `adb devices`: `device`, `offline` or `gone`."""
        self.faults: Counter[str] = Counter()
        """How often each kind of fault was produced."""
        self._injections: list[_Injection] = []
        self._rate: tuple[float, tuple[str, ...], random.Random] | None = None
        self._lock = threading.RLock()
        self._released = threading.Event()
        self._frame = 0
        self._keys: dict[str, dict[str, Any]] = {}
        self.port = 0
        self._server: _Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts listening, on the previous port if there was one; does nothing if it is listening already."""
        if self._server is not None:
            return
        self._server = _listen(self, self.port)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stops listening and forgets all sessions, as a dying server does."""
        server, self._server = self._server, None
        self.sessions.clear()
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()

    def close(self) -> None:
        """Releases every connection and stops."""
        self._released.set()
        self.stop()

    def __enter__(self) -> AppiumDouble:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, task: Task, seed: int) -> None:
        """Puts the phone into the task's initial state, as loading a snapshot does for an emulator.

        Raises:
            EmulatorDead: the emulator is gone; `heal` brings it back.
        """
        with self._lock:
            if self.state == "gone":
                raise EmulatorDead("the emulator does not run")
            self.phone.reset(task, seed=seed)
            self.state = "device"
            self.helpers = set(self.saved)
            self.screen = ""

    def inject(
        self, kind: str, *, on: str = "", after: int = 0, times: int = 1, executed: bool = False
    ) -> None:
        """Makes future commands fail.

        Args:
            kind: one of `INJECTABLE`.
            on: the command's last part, for example `screenshot`, `actions`, `execute/sync`, `session`; "": any,
                or `screenshot` for the kinds that only a screenshot can show.
            after: how many of these commands succeed first.
            times: how many of them fail.
            executed: whether a failing command takes effect all the same.
        """
        if kind not in INJECTABLE:
            raise ValueError(f"cannot inject {kind!r}; use one of: {', '.join(INJECTABLE)}.")
        on = on or ("screenshot" if kind in _OF_SCREENSHOTS else "")
        self._injections.append(_Injection(kind, on, after, times, executed))

    def inject_at_rate(self, rate: float, *, seed: int, kinds: Sequence[str]) -> None:
        """Makes each later command fail with this probability, with a kind drawn from `kinds`; 0 stops that."""
        self._rate = (rate, tuple(kinds), random.Random(seed)) if rate else None

    def commands_of(self, script: str) -> list[dict[str, Any]]:
        """The arguments of every call of an extension command, in order."""
        sync = [body for command, body in self.commands if command == "execute/sync"]
        return [dict(body["args"][0]) for body in sync if body.get("script") == script]

    def heal(self) -> None:
        """What restarting the emulator does: adb lists the device again, and the phone is as it was."""
        self.state = "device"

    # The methods below run in the server's threads, one command at a time.

    def answer(self, method: str, path: str, body: dict[str, Any]) -> bytes:
        """The body of the answer to one request; other outcomes raise `_Failure` or `_Hangup`."""
        match = re.fullmatch(r"/session/([^/]+)(?:/(.*))?", path)
        command = "status" if path == "/status" else "session" if not match else match[2] or "session"
        with self._lock:
            self.commands.append((command, body))
            kind, executed = self._drawn(command)
            run = lambda: self._run(method, command, match[1] if match else None, body)  # noqa: E731
            if kind is None:
                return _json(run())
            self.faults[kind] += 1
            if executed:
                run()
            answer = self._fail(kind, method, command, match[1] if match else None, run)
        if answer is None:
            self._released.wait()
            raise _Hangup
        return answer

    def _drawn(self, command: str) -> tuple[str | None, bool]:
        for injection in self._injections:
            if injection.times and (not injection.on or command == injection.on):
                if injection.after:
                    injection.after -= 1
                    continue
                injection.times -= 1
                return injection.kind, injection.executed
        if self._rate is not None and command not in ("status", "session"):
            rate, kinds, rng = self._rate
            if rng.random() < rate:
                kind = rng.choice(kinds)
                if kind not in _OF_SCREENSHOTS or command == "screenshot":
                    return kind, False
        return None, False

    def _fail(
        self, kind: str, method: str, command: str, session: str | None, run: Callable[[], Any]
    ) -> bytes | None:
        """Produces one fault: raises, returns a bad answer, or returns None for no answer at all."""
        match kind:
            case "adb_offline":
                self.state = "offline"
            case "emulator_dead":
                self.state = "gone"
            case "session_lost" | "browser_gone":  # a session's end closes its browser
                self.sessions.pop(session or "", None)
            case "instrumentation_dead":
                if session in self.sessions:
                    self.sessions[session].instrumented = False
            case "screenshot_failed":
                raise _Failure("unable to capture screen", "A screen capture was made impossible")
            case "screenshot_black":
                return _json(_png(np.zeros_like(self.phone.observe().screenshot)))
            case "wrong_screen_size":
                return _json(_png(self.phone.observe().screenshot[::2, ::2]))
            case "settle_timeout":
                self._frame += 1
                moving = self.phone.observe().screenshot.copy()
                moving[40 + self._frame % 20 :: 20] = 255
                return _json(_png(moving))
            case "server_dead":
                self.stop()
                raise _Hangup
            case "server_slow":
                return None
            case "malformed_response":
                raise _Failure("", "<html><body>502 Bad Gateway</body></html>", 502)
            case "command_failed":
                raise _Failure("unknown error", f"{UNKNOWN} Original error: it did not work")
            case "port_busy":
                text = "The port #8200 is busy. The other process may still be using it"
                raise _Failure("session not created", f"A new session could not be created. Details: {text}")
            case "app_not_responding":
                text = (
                    "Timed out after 10000ms waiting for the root AccessibilityNodeInfo in the active window"
                )
                raise _Failure(
                    "unknown error", f"{UNKNOWN} Original error: {text}. The app keeps the main thread busy"
                )
        return _json(run())  # the command fails because of the state broken above

    def _run(self, method: str, command: str, session_id: str | None, body: dict[str, Any]) -> Any:
        if command == "status":
            return {"ready": True, "message": "The server is ready to accept new connections"}
        if session_id is None:
            return self._once(str(body.pop("idempotency", "")), body)
        session = self._session(session_id)
        if command == "session" and method == "DELETE":
            del self.sessions[session_id]
            return None
        if command == "appium/settings":
            self.settings.update(body.get("settings", {}))
            return self.settings
        self._reach(session, method, command)
        match command:
            case "screenshot":
                return self._screenshot()
            case "source" if self.screen == "unreadable":
                text = (
                    "Timed out after 10000ms waiting for the root AccessibilityNodeInfo in the active window"
                )
                raise _Failure("unknown error", f"{UNKNOWN} Original error: {text}")
            case "source":
                source = _source(self.phone)
                return source.replace('text="', 'text="&#27;\x1b') if self.screen == "control" else source
            case "window/rect":
                height, width = self.phone.screen_hw
                return {"x": 0, "y": 0, "width": width, "height": height}
            case "actions" if method == "POST" and body["actions"][0]["type"] == "key":
                return self._type(body["actions"][0]["actions"])
            case "actions" if method == "POST":
                return self._touch(body)
            case "url" | "cookie" | "window" | "goog/cdp/execute":
                return None
            case "window/handles":
                return ["window"]
            case "alert/text" | "alert/dismiss" | "alert/accept":
                raise _Failure("no such alert", "no such alert", 404)
            case "execute/sync" if body.get("script") == STANDS:
                return True
            case "back":  # a browser's back
                return self._do(Action.back())
            case "execute/sync" if not str(body.get("script")).startswith("mobile: "):
                return []  # the result of any JavaScript
            case "execute/sync":
                return self._extension(str(body.get("script")), (body.get("args") or [{}])[0])
        raise _Failure(
            "unknown command", f"The requested resource could not be found: {method} {command}", 404
        )

    def _screenshot(self) -> str:
        seen = self.phone.observe().screenshot
        if self.screen == "secure":
            text = "Failed to capture a screenshot. Does the current view have the 'secure' flag set?"
            raise _Failure("unable to capture screen", text)
        if self.screen == "black":
            seen = np.zeros_like(seen)
        return _png(np.rot90(seen) if self.screen == "rotated" else seen)

    def _session(self, session_id: str) -> _Session:
        session = self.sessions.get(session_id)
        now = self.clock.now()
        if session is not None:
            limit = float(session.capabilities.get("appium:newCommandTimeout", 60))
            if limit and now - session.last_command > limit:
                del self.sessions[session_id]
                session = None
        if session is None:
            raise _Failure("invalid session id", "A session is either terminated or not started", 404)
        session.last_command = now
        return session

    def _once(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        """A new session, or the one that an earlier request with the same key got."""
        if not key or key not in self._keys:
            self._keys[key] = self._new_session(body)
        return self._keys[key]

    def _new_session(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = body.get("capabilities", {})
        capabilities = {**(asked.get("firstMatch") or [{}])[0], **asked.get("alwaysMatch", {})}
        created = "A new session could not be created. Details: "
        if str(capabilities.get("appium:automationName", "")).lower() not in ("uiautomator2", "chromium"):
            raise _Failure("session not created", f"{created}Could not find a driver for the automationName")
        for name, value in capabilities.items():
            if ":" not in name and name not in _W3C:
                raise _Failure("invalid argument", f"'{name}' = {value!r} is not a W3C capability", 400)
        udid = capabilities.get("appium:udid")
        for port in ("appium:systemPort", "appium:mjpegServerPort", "appium:chromedriverPort"):
            for other in self.sessions.values():
                same = (
                    capabilities.get(port) is not None and other.capabilities.get(port) == capabilities[port]
                )
                if same and other.capabilities.get("appium:udid") != udid:
                    raise _Failure("session not created", f"{created}{port} {capabilities[port]} is occupied")
        self._adb_reaches(str(udid))
        if self.dead:
            raise _Failure("session not created", f"{created}the settings app never came up")
        if str(capabilities["appium:automationName"]).lower() == "uiautomator2":
            missing = set(HELPERS) - self.helpers
            if missing and capabilities.get("appium:skipServerInstallation"):
                raise _Failure("session not created", f"{created}the server is not installed on the phone")
            self.installs += len(missing)
            self.helpers |= missing
            if missing:
                self.on_install()
        for name, other in list(self.sessions.items()):
            if other.capabilities.get("appium:udid") == udid:
                other.instrumented = False  # the newer session's helper takes the older one's place
                del self.sessions[name]
        for name, value in capabilities.items():
            if setting := re.fullmatch(r"appium:settings\[(\w+)\]", name):
                self.settings[setting[1]] = value
        session_id = str(uuid.uuid4())
        self.sessions[session_id] = _Session(capabilities, self.clock.now())
        height, width = self.phone.screen_hw
        shown = {**capabilities, "deviceScreenSize": f"{width}x{height}", "platformVersion": "14"}
        return {"sessionId": session_id, "capabilities": shown}

    def _reach(self, session: _Session, method: str, command: str) -> None:
        self._adb_reaches(str(session.capabilities.get("appium:udid")))
        if not session.instrumented:
            text = NOT_RUNNING.format(method=method, command=command)
            raise _Failure("unknown error", f"{UNKNOWN} Original error: {text}")

    def _adb_reaches(self, udid: str) -> None:
        trouble = {"offline": "adb: device offline", "gone": f"adb: device '{udid}' not found"}.get(
            self.state
        )
        if trouble:
            text = f"Error executing adbExec. Original error: 'Command exited with code 1'; Command output: {trouble}"
            raise _Failure("unknown error", f"{UNKNOWN} Original error: {text}")

    def _touch(self, body: dict[str, Any]) -> None:
        height, width = self.phone.screen_hw
        try:
            gesture = read_gesture(body["actions"], pixels_per_dp=width / 411)
        except (KeyError, TypeError, ValueError) as error:
            raise _Failure("invalid argument", f"Unable to perform W3C actions: {error}", 400) from None
        for y, x in (gesture.touch_yx, gesture.lift_yx):
            if not (0 <= y < height and 0 <= x < width):
                raise _Failure("move target out of bounds", f"The coordinates ({x}, {y}) are outside", 500)
        self.gestures.append(gesture)
        self.screen, self.screen_after = self.screen_after or self.screen, ""
        touch, lift = (
            ((y + 0.5) / height, (x + 0.5) / width) for y, x in (gesture.touch_yx, gesture.lift_yx)
        )
        match gesture.kind:
            case "tap":
                self._do(Action.tap(*touch))
            case "long_press":
                self._do(Action(ActionType.LONG_PRESS, touch))
            case "double_tap":
                self._do(Action.double_tap(*touch))
            case "drag":
                self._do(Action.drag(touch, lift))
            case kind:
                for _ in range(1 + (kind == "fling")):  # a fling scrolls further
                    self._do(Action(ActionType.DUAL_POINT, touch, lift))

    def _type(self, steps: Sequence[Mapping[str, str]]) -> None:
        """Types, as a browser's keyboard does."""
        typed = "".join(step["value"] for step in steps if step["type"] == "keyDown")
        self._do(Action.enter() if typed == "\ue007" else Action.type_text(typed))

    def _extension(self, script: str, arguments: Mapping[str, Any]) -> Any:
        match script:
            case "mobile: type":
                self._do(Action.type_text(str(arguments["text"])))
                return True
            case "mobile: pressKey" if int(arguments["keycode"]) == _WAKEUP:
                return None
            case "mobile: pressKey" if (
                int(arguments["keycode"]) not in KEYS
            ):  # the simulated phone has no recent apps
                return None
            case "mobile: pressKey":
                if int(arguments["keycode"]) == 3:
                    self.screen = ""
                self._do(KEYS[int(arguments["keycode"])])
                return None
            case "mobile: getCurrentPackage":
                return self.phone.display.screen.app
            case "mobile: getCurrentActivity":
                return self.phone.display.screen.template
            case "mobile: listApps":
                return {name: {} for name in (self.installed or ())}
            case "mobile: activateApp" if (
                self.installed is not None and arguments["appId"] not in self.installed
            ):
                text = f"Cannot activate '{arguments['appId']}'. Original error: Error: Activity class does not exist."
                raise _Failure("unknown error", f"{UNKNOWN} Original error: {text}")
            case "mobile: terminateApp" if int(arguments.get("timeout", 500)) <= 500:
                text = f"'{arguments['appId']}' is still running after 500ms timeout"
                raise _Failure("unknown error", f"{UNKNOWN} Original error: {text}")
            case "mobile: activateApp" | "mobile: terminateApp" | "mobile: deepLink":
                return None
            case "mobile: shell":
                if "adb_shell" not in self.allow_insecure:
                    text = "Potentially insecure feature 'adb_shell' has not been enabled."
                    raise _Failure("unknown error", f"{UNKNOWN} Original error: {text}")
                return ""
        raise _Failure("unknown method", f"Unknown mobile command {script!r}", 404)

    def _do(self, action: Action) -> None:
        self.executed.append(action)
        self.phone.execute(action)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def server_bind(self) -> None:  # the base class would look up the host name
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Closes every connection, as when the process ends."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _listen(double: AppiumDouble, port: int) -> _Server:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and body are sent in one packet

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:  # the client has gone away
                self.close_connection = True

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def do_DELETE(self) -> None:
            self._serve()

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}") if length else {}
            if key := self.headers.get("X-Idempotency-Key"):
                body["idempotency"] = key
            status = 200
            try:
                if double._server is None or double._server is not self.server:
                    raise _Hangup
                answer = double.answer(self.command, self.path, body)
            except _Hangup:
                self.close_connection = True
                return
            except _Failure as failure:
                status = failure.status
                fields = {"error": failure.error, "message": failure.message, "stacktrace": ""}
                answer = _json(fields) if failure.error else failure.message.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return _Server(("127.0.0.1", port), Handler)


def _json(value: Any) -> bytes:
    return json.dumps({"value": value}).encode()


def _png(screenshot: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(screenshot)).save(buffer, "png", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _source(phone: SimulatedPhone) -> str:
    height, width = phone.screen_hw
    nodes = []
    for element in json.loads(phone.observe().ui_elements):
        y, x, tall, wide = element["bounds"]
        corners = (round(x * width), round(y * height), round((x + wide) * width), round((y + tall) * height))
        bounds = "[{},{}][{},{}]".format(*corners)
        nodes.append(
            f'<android.widget.TextView class="android.widget.TextView" package={quoteattr(phone.display.screen.app)}'
            f" text={quoteattr(element['text'])} resource-id={quoteattr('id/' + element['role'])}"
            f' content-desc="" clickable="true" displayed="true" bounds="{bounds}"/>'
        )
    head = '<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>'
    return f'{head}<hierarchy rotation="0" width="{width}" height="{height}">{"".join(nodes)}</hierarchy>'
