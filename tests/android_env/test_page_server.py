"""Pages are served on loopback only, and nothing outside their folder is."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from android_env.page_server import PageServer


@pytest.fixture
def server(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.html").write_text("secret")
    (root / "a.html").write_text("<html><head><title>a</title></head></html>")
    (root / "sub" / "b.css").write_text("body { }")
    (root / "out.html").symlink_to(tmp_path / "secret.html")
    with PageServer(root, pages={"/": "home"}, head="<meta name=x>") as server:
        yield server


def get(server, path):
    # urllib would tidy the path up first.
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.getheader("Content-Type"), body


def test_files_and_pages_are_served(server):
    assert server.url.startswith("http://127.0.0.1:")
    assert get(server, "/") == (200, "text/html; charset=utf-8", "home")
    status, kind, body = get(server, "/a.html?seed=1")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert body == "<html><head><meta name=x><title>a</title></head></html>"
    assert get(server, "/sub/b.css") == (200, "text/css; charset=utf-8", "body { }")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html",
        "/sub/../../secret.html",
        "/%2e%2e/secret.html",
        "//etc/passwd",
        "/out.html",
        "/a.html%00",
        "/sub",
        "/none.html",
    ],
)
def test_nothing_else_is(server, path):
    status, _, body = get(server, path)
    assert (status, body) == (404, "")
