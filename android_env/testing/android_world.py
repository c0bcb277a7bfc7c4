"""`AndroidWorldDouble`: AndroidWorld's HTTP server, with its routes and quirks and a tiny phone, for tests."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

GOALS = {
    "OpenSettings": "Open the settings.",
    "TypeName": "Type 'Ada' and finish.",
    "Broken": "Do what cannot be set up.",
}
ICON = (0.2, 0.2, 0.4, 0.4)
"""The settings' icon: top, left, bottom and right, fractions of the screen."""


class AndroidWorldDouble:
    """The server; it listens on a free port of the loopback interface until `close`. A context manager.

    A click on the icon opens the settings; `input_text` types and presses enter, as the real one does. Errors are
    status 500 without a message. Setting up a task before the last one was torn down is an error.
    """

    def __init__(self) -> None:
        self.screen_hw = (60, 40)
        self.actions: list[dict[str, Any]] = []
        self.calls: Counter[str] = Counter()
        self.seed, self.combinations = 42, 2
        self.fails: Counter[str] = Counter()
        """How many more times each route fails before it works again."""
        self.initialized: tuple[str, int] | None = None
        self._home()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> AndroidWorldDouble:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        self.calls[path] += 1
        if self.fails[path]:
            self.fails[path] -= 1
            raise RuntimeError(path)
        match (method, path):
            case ("GET", "/health"):
                return {"status": "success"}
            case ("POST", "/reset"):
                if query["go_home"] == "true":
                    self._home()
            case ("GET", "/screenshot"):
                _ = query["wait_to_stabilize"]
                return {"pixels": self._pixels().tolist()}
            case ("POST", "/execute_action"):
                self._act(body)
            case ("GET", "/suite/task_list"):
                return {"task_list": list(GOALS)}
            case ("GET", "/suite/task_length"):
                return {"length": self.combinations if query["task_type"] in GOALS else 1 / 0}
            case ("GET", "/suite/reinitialize"):
                self.combinations, self.seed = int(query["n_task_combinations"]), int(query["seed"])
            case ("GET", "/task/goal"):
                return {"goal": GOALS[query["task_type"]]}
            case ("POST", "/task/initialize"):
                if self.initialized is not None or query["task_type"] == "Broken":
                    raise RuntimeError("initialize_task() is called twice")
                self.initialized = (query["task_type"], int(query["task_idx"]))
                self.typed = ""
            case ("POST", "/task/tear_down"):
                if self.initialized is None:
                    raise RuntimeError("nothing to tear down")
                self.initialized = None
            case ("GET", "/task/score"):
                won = {"OpenSettings": self.screen == "settings", "TypeName": self.typed == "Ada\n"}
                return {"score": float(won[query["task_type"]])}
            case _:
                raise KeyError(path)
        return {"status": "success", "message": ""}

    def _home(self) -> None:
        self.screen, self.typed = "home", ""

    def _pixels(self) -> np.ndarray:
        height, width = self.screen_hw
        pixels = np.full((height, width, 3), 200 if self.screen == "home" else 90, np.uint8)
        if self.screen == "home":
            top, left, bottom, right = ICON
            pixels[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = 20
        pixels[-1, : len(self.typed)] = 255
        return pixels

    def _act(self, action: dict[str, Any]) -> None:
        known = {
            "action_type", "x", "y", "text", "direction", "app_name", "goal_status", "index", "keycode",
        }  # fmt: skip
        if set(action) - known:
            raise TypeError(action)
        self.actions.append(action)
        match action["action_type"]:
            case "click":
                (top, left, bottom, right), (height, width) = ICON, self.screen_hw
                y, x = action["y"] / height, action["x"] / width
                if self.screen == "home" and top <= y < bottom and left <= x < right:
                    self.screen = "settings"
            case "input_text":
                self.typed += action["text"] + "\n"
            case "navigate_home" | "navigate_back":
                self.screen = "home"
            case "open_app":
                self.screen = action["app_name"].lower()
            case "scroll" | "keyboard_enter" | "wait" | "status" | "long_press" | "double_tap" | "answer":
                pass
            case other:
                raise ValueError(other)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                parts = urlsplit(self.path)
                try:
                    answer = double.answer(self.command, parts.path, dict(parse_qsl(parts.query)), body)
                    status, data = 200, json.dumps(answer).encode()
                except Exception:
                    status, data = 500, b"Internal Server Error"
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
