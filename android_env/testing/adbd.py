"""`AdbdDouble`: adb's daemon on a phone, for tests; the real `adb` and real drivers can speak to it.

It speaks adb's transport protocol (packets of a 24-byte header and a payload) over TCP, so `adb connect HOST:PORT`
lists it as a device. A shell command is answered by the first matching entry of `answers`. The text of `input text`
is typed into the phone by the keyboard chosen with `ime set`. The phone's ports are ports of this machine. `Helper`
listens there: it is UiAutomator2's server on the phone, with the screen and the fingers of an `AppiumDouble`.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from android_env.testing.appium import AppiumDouble

HELPER_PORT = 6790
"""The phone's port on which UiAutomator2's server listens."""
_PAYLOAD = 4096
_VERSION = 0x01000000
_BANNER = b"device::ro.product.name=sdk_phone;ro.product.model=Double;ro.product.device=double;\0"
_NAMES = {name: struct.unpack("<I", name.encode())[0] for name in ("CNXN", "OPEN", "OKAY", "CLSE", "WRTE")}
_INSTRUMENT = "am instrument"
_KEYBOARD = "com.android.inputmethod.latin/.LatinIME"
_UNICODE = "io.appium.settings/.UnicodeIME"
"""The keyboard of Appium's helper, which decodes typed text as IMAP's UTF-7 (RFC 3501, 5.1.3)."""
ANSWERS: Mapping[str, str] = {
    r"echo ping": "ping\n",
    r"getprop sys\.boot_completed|getprop init\.svc\.bootanim": "1\n",
    r"getprop ro\.build\.version\.sdk": "34\n",
    r"getprop ro\.build\.version\.release": "14\n",
    r"getprop ro\.product\.manufacturer": "DigiQ\n",
    r"getprop ro\.product\.model": "Double\n",
    r"getprop persist\.sys\.timezone": "UTC\n",
    r"pm path android$": "package:/system/framework/framework-res.apk\n",
    r"pm list instrumentation": "instrumentation:io.appium.uiautomator2.server.test/"
    "androidx.test.runner.AndroidJUnitRunner (target=io.appium.uiautomator2.server)\n",
    r"dumpsys window displays": "  mCurrentFocus=Window{8ab u0 org.example.home/.Home}\n"
    "  mFocusedApp=ActivityRecord{1f2 u0 org.example.home/.Home t7}\n",
    r"dumpsys window": "    mDreamingLockscreen=false mShowingLockscreen=false\n    mAwake=true\n",
    r"dumpsys activity services io\.appium\.settings$": "  * ServiceRecord{1 u0 io.appium.settings/.ForegroundService}\n"
    "    isForeground=true foregroundId=1\n",
    r"wm density": "Physical density: 160\n",
}
"""Output of a plain Android 14, by a regular expression over the command. Other commands print nothing."""


class AdbdDouble:
    """The daemon, on a free port of the loopback interface until `close`; a context manager.

    Args:
        phone: the phone that UiAutomator2's server drives.
        answers: further answers to shell commands; they take precedence over `ANSWERS`.
    """

    def __init__(self, phone: AppiumDouble, *, answers: Mapping[str, str] | None = None) -> None:
        self.answers = {**(answers or {}), **ANSWERS}
        self.helper = Helper(phone)
        self.commands: list[str] = []
        """Every shell command, in order."""
        self.pushed: dict[str, int] = {}
        """Sizes of the files that adb has pushed to the phone, bytes by path."""
        self.keyboard = _KEYBOARD
        """The current keyboard."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._instruments: list[_Stream] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def serial(self) -> str:
        """The name that `adb connect` takes and `adb devices` lists."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Closes all connections."""
        for one in (self._listener, *self._open):
            one.close()
        self.helper.close()

    def __enter__(self) -> AdbdDouble:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def crash(self) -> None:
        """Ends UiAutomator2's server on the phone, as if its process died; the next session starts it again."""
        self.helper.started = False
        for stream in self._instruments:
            stream.close()
        self._instruments.clear()

    def answer(self, command: str) -> bytes | None:
        """What a shell command prints; None if it never ends."""
        self.commands.append(command)
        if _INSTRUMENT in command:
            self.helper.started = True
            return None
        if command.startswith("wm size"):
            height, width = self.helper.phone.phone.screen_hw
            return f"Physical size: {width}x{height}\n".encode()
        if command.startswith("date"):
            return f"{int(time.time())}\n".encode()
        if command.startswith("settings get secure default_input_method"):
            return f"{self.keyboard}\n".encode()
        if (chosen := re.match(r"ime set (\S+)", command)) is not None:
            self.keyboard = chosen[1]
        if command.startswith("input text "):
            self.helper.type(typed_text(command, self.keyboard))
        if (install := re.search(r"pm install.* (\S+)$", command)) is not None:
            return b"Success\n" if install[1].strip("'\"") in self.pushed else b"Failure [no such file]\n"
        found = (text for pattern, text in self.answers.items() if re.search(pattern, command))
        return next(found, "").encode()

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(made)
            threading.Thread(target=_Transport(made, self).run, daemon=True).start()


class _Transport:
    """One connection from an adb server."""

    def __init__(self, connection: socket.socket, daemon: AdbdDouble) -> None:
        self._connection, self._daemon = connection, daemon
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._next = 1

    def run(self) -> None:
        try:
            while True:
                name, first, second, length, _, _ = struct.unpack("<6I", _read(self._connection, 24))
                self._got(name, first, second, _read(self._connection, length))
        except OSError:
            for stream in list(self._streams.values()):
                stream.hang_up()

    def send(self, name: str, first: int, second: int, data: bytes = b"") -> None:
        code = _NAMES[name]
        head = struct.pack("<6I", code, first, second, len(data), sum(data) & 0xFFFFFFFF, code ^ 0xFFFFFFFF)
        with self._sending:
            self._connection.sendall(head + data)

    def _got(self, name: int, first: int, second: int, data: bytes) -> None:
        if name == _NAMES["CNXN"]:
            self.send("CNXN", _VERSION, _PAYLOAD, _BANNER)
        elif name == _NAMES["OPEN"]:
            self._opened(first, data.rstrip(b"\0").decode())
        elif (stream := self._streams.get(second)) is None:
            return
        elif name == _NAMES["OKAY"]:
            stream.ready.set()
        elif name == _NAMES["WRTE"]:
            stream.got(data)
            self.send("OKAY", second, first)
        elif name == _NAMES["CLSE"]:
            self._streams.pop(second).hang_up()

    def _opened(self, theirs: int, service: str) -> None:
        ours, self._next = self._next, self._next + 1
        kind, _, rest = service.partition(":")
        stream = _Stream(lambda name, data=b"": self.send(name, ours, theirs, data))
        self._streams[ours] = stream
        stream.ready.set()
        if kind in ("shell", "exec"):
            self.send("OKAY", ours, theirs)
            if _INSTRUMENT in rest:
                self._daemon._instruments.append(stream)
            threading.Thread(target=stream.say, args=(self._daemon.answer(rest),), daemon=True).start()
        elif kind == "sync":
            self.send("OKAY", ours, theirs)
            stream.taker = _Push(self._daemon)
        elif kind == "tcp" and int(rest.partition(":")[0]) == HELPER_PORT and self._daemon.helper.started:
            self.send("OKAY", ours, theirs)
            stream.pipe(self._daemon.helper.port)
        else:
            del self._streams[ours]
            self.send("CLSE", 0, theirs)


class _Stream:
    """The data stream of one service of a transport."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self.ready = threading.Event()
        """Set while the other side accepts data."""
        self.taker: _Push | None = None
        self._socket: socket.socket | None = None

    def say(self, data: bytes | None) -> None:
        """Sends this and closes the stream; None sends nothing and keeps it open."""
        if data is not None:
            self._write(data)
            self._send("CLSE")

    def close(self) -> None:
        """Closes the stream from this side."""
        self._send("CLSE")

    def pipe(self, port: int) -> None:
        """Connects the stream to a port of this machine."""
        self._socket = joined = socket.create_connection(("127.0.0.1", port))

        def back() -> None:
            try:
                while data := joined.recv(_PAYLOAD):
                    self._write(data)
                self._send("CLSE")
            except OSError:
                pass

        threading.Thread(target=back, daemon=True).start()

    def got(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.sendall(data)
        if self.taker is not None:
            if said := self.taker.take(data):
                threading.Thread(target=self._write, args=(said,), daemon=True).start()
            if self.taker.over:
                self._send("CLSE")

    def hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), _PAYLOAD):
            self.ready.wait(10)
            self.ready.clear()
            self._send("WRTE", data[start : start + _PAYLOAD])


class _Push:
    """The service by which adb pushes files to a phone; it records their names and sizes."""

    def __init__(self, daemon: AdbdDouble) -> None:
        self._daemon, self._rest, self._path = daemon, b"", ""
        self.over = False
        """Whether adb has said that it is done."""

    def take(self, data: bytes) -> bytes:
        """The answer to the data so far; empty if there is none yet."""
        self._rest += data
        said = b""
        while len(self._rest) >= 8:
            name, length = self._rest[:4], struct.unpack("<I", self._rest[4:8])[0]
            carried = 0 if name in (b"DONE", b"QUIT") else length  # these carry a time, or nothing
            if len(self._rest) < 8 + carried:
                break
            body, self._rest = self._rest[8 : 8 + carried], self._rest[8 + carried :]
            if name == b"STAT":
                said += b"STAT" + struct.pack("<III", 0, 0, 0)
            elif name == b"SEND":
                self._path = body.decode().rpartition(",")[0]
                self._daemon.pushed[self._path] = 0
            elif name == b"DATA":
                self._daemon.pushed[self._path] += carried
            elif name == b"DONE":
                said += b"OKAY" + struct.pack("<I", 0)
            elif name == b"QUIT":
                self.over = True
        return said


class Helper:
    """UiAutomator2's server on a phone, over HTTP; `phone` has the screen and receives the gestures.

    Args:
        phone: answers the session's commands.
    """

    def __init__(self, phone: AppiumDouble) -> None:
        self.phone = phone
        self.started = False
        """Whether its instrumentation was started; before that, nothing listens."""
        self.asked: list[tuple[str, str]] = []
        """Every request's method and path."""
        self._session = ""
        helper = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                status, value = helper.answer(self.command, self.path, body)
                data = json.dumps({"sessionId": helper._session or None, "value": value}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _serve

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and value of the answer to one request."""
        self.asked.append((method, path))
        height, width = self.phone.phone.screen_hw
        command = re.sub(r"^/(session/[^/]+/?)?", "", path)
        match method, command:
            case "GET", "status":
                return 200, {"ready": True, "message": "UiAutomator2 Server is ready to accept commands"}
            case "GET", "sessions":
                return 200, []
            case "POST", "session":
                self._session = str(uuid.uuid4())
                udid = str((body["capabilities"].get("firstMatch") or [{}])[0].get("udid"))
                capabilities = {"appium:automationName": "UiAutomator2", "appium:udid": udid}
                self.phone.helpers.update({"io.appium.settings"})
                made = self.phone._new_session({"capabilities": {"alwaysMatch": capabilities}})
                self._inner = made["sessionId"]
                return 200, {"sessionId": self._session, "capabilities": {}}
            case "DELETE", _:
                self._session, self.started = "", False
                return 200, None
            case "GET", "appium/device/info":
                return 200, {
                    "androidId": "d0ub1e",
                    "manufacturer": "DigiQ",
                    "model": "Double",
                    "brand": "DigiQ",
                    "apiVersion": "34",
                    "platformVersion": "14",
                    "realDisplaySize": f"{width}x{height}",
                    "displayDensity": 160,
                }
            case "GET", "appium/device/pixel_ratio":
                return 200, 1
            case "GET", "appium/device/system_bars":
                return 200, {"statusBar": 0}
            case "POST", "appium/device/press_keycode":
                pressed = {"script": "mobile: pressKey", "args": [{"keycode": body["keycode"]}]}
                command, body = "execute/sync", pressed
            case "GET", "window/current/size":
                return 200, {"width": width, "height": height}
        answer = self.phone.answer(method, f"/session/{self._inner}/{command}", body)
        return 200, json.loads(answer)["value"]

    def type(self, text: str) -> None:
        """Types text, as a keyboard on the phone does."""
        self.phone._extension("mobile: type", {"text": text})

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()


def typed_text(command: str, keyboard: str) -> str:
    """What Android types for an `input text` command: the first word after shell parsing, with `%s` as a space."""
    typed = shlex.split(command)[2].replace("%s", " ")
    if keyboard != _UNICODE:
        return typed

    def decoded(run: re.Match[str]) -> str:
        data = run[1].replace(",", "/")
        return base64.b64decode(data + "=" * (-len(data) % 4)).decode("utf-16-be") if data else "&"

    return re.sub(r"&([^-]*)-", decoded, typed)


def _read(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise OSError("adb has hung up")
        data += more
    return data
