"""Serves the viewer to browsers on this machine; episodes are read when the page asks for them."""

from __future__ import annotations

import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from digiq.errors import ConfigError
from digiq.report.viewer.gather import RunView, image_kind
from digiq.report.viewer.pages import episode_script, page

HOST = "127.0.0.1"
_DATA = re.compile(r"/data/(\d{1,9})\.js")
_SCREEN = re.compile(r"/screens/(\d{1,9})/(\d{1,9})\.(?:png|jpeg|webp)")


class ViewServer:
    """A read-only server that listens only on the loopback interface.

    Args:
      view: the run.
      port: port to listen on; 0 for any free one.

    Raises:
      ConfigError: the port is taken.
    """

    def __init__(self, view: RunView, port: int = 0):
        self._view = view
        self._html = page(view, version=secrets.token_hex(4)).encode()
        self._lock = threading.Lock()
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        except OSError as error:
            raise ConfigError(f"port {port}: {error.strerror}; name another one with --port.") from None
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def serve(self) -> None:
        """Serves until :meth:`close`, or Ctrl-C."""
        self._server.serve_forever(0.1)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[bytes, str] | None:
        """The content at a path and its media type; None if there is nothing."""
        if path in ("/", "/index.html"):
            return self._html, "text/html; charset=utf-8"
        try:
            with self._lock:  # only one thread at a time reads artefacts
                if match := _DATA.fullmatch(path):
                    return episode_script(
                        self._view, int(match[1])
                    ).encode(), "text/javascript; charset=utf-8"
                if match := _SCREEN.fullmatch(path):
                    image = self._view.screen(int(match[1]), int(match[2]))
                    return image, f"image/{image_kind(image)}"
        except IndexError:
            return None
        return None


def _handler(server: ViewServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # A foreign page whose domain name resolves to this machine (DNS rebinding) must not read screens.
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            found = server.answer(self.path.partition("?")[0]) if host in (HOST, "localhost") else None
            body, kind = found or (b"", "text/plain")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store" if kind.startswith("text/html") else "max-age=3600")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Logs nothing: a line per request helps nobody."""

    return Handler
