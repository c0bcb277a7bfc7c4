"""A model behind HTTP that says what it is told to, and misbehaves as told: the double of OpenAI-compatible servers."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Served:
    """``answer(payload)`` gives the text, or a (status, body) pair; ``asked`` holds (path, headers, payload)."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any]):
        self.answer, self.asked = answer, []
        self.url = ""
        self.most_at_once = self._now = 0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[Served]:
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served.lock:
                    served.asked.append((self.path, dict(self.headers), payload))
                    served._now += 1
                    served.most_at_once = max(served.most_at_once, served._now)
                said = served.answer(payload)
                with served.lock:
                    served._now -= 1
                headers: dict[str, str] = {}
                if callable(said):
                    said(self)
                    return
                status, body = said[:2] if isinstance(said, tuple) else (200, said)
                if isinstance(said, tuple) and len(said) > 2:
                    headers = said[2]
                if isinstance(body, str):
                    choice = {
                        "message": {"role": "assistant", "content": body},
                        "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]},
                    }
                    usage = {"prompt_tokens": 100, "completion_tokens": 10}
                    body = json.dumps({"choices": [choice], "usage": usage}).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Answers nothing for longer than anyone waits."""
    time.sleep(3)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """An answer that does not end."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
