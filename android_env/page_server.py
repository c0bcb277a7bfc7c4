"""`PageServer`: serves folders of web pages to the browsers of this machine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

HOST = "127.0.0.1"


class PageServer:
    """An HTTP server on a free port of the loopback interface; it only reads, and only inside its folders.

    Args:
        root: the folder.
        pages: further pages, HTML by path, for example `{"/": "<h1>Home</h1>"}`; they take precedence over files.
        head: HTML inserted after the `<head>` of every `.html` file of the folder.
        folders: further folders, by the first part of the URL's path, for example `{"cdn": Path("media")}`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        pages: Mapping[str, str] | None = None,
        head: str = "",
        folders: Mapping[str, Path] | None = None,
    ) -> None:
        self.root = Path(root).resolve()
        self.pages = dict(pages or {})
        self.head = head
        self.folders = {name: Path(folder).resolve() for name, folder in (folders or {}).items()}
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def body(self, path: str) -> bytes | None:
        """What is served at a URL's path; None if there is nothing, or nothing that may be served."""
        path = unquote(urlsplit(path).path)
        if path in self.pages:
            return self.pages[path].encode()
        if "\0" in path:
            return None
        name, _, rest = path.lstrip("/").partition("/")
        root, rest = (self.folders[name], rest) if name in self.folders else (self.root, path.lstrip("/"))
        file = (root / rest).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            return None
        body = file.read_bytes()
        if file.suffix == ".html":
            body = body.replace(b"<head>", b"<head>" + self.head.encode(), 1)
        return body

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _handler(pages: PageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = pages.body(self.path)
            path = urlsplit(self.path).path
            kind = "text/html" if path in pages.pages else guess_type(path)[0] or "application/octet-stream"
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
            self.send_header("Cache-Control", "max-age=3600")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            """Does nothing, since nobody reads one line per request."""

    return Handler
