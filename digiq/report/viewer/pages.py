"""The viewer's page: one HTML text, whose data are files beside it or are embedded in it."""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from digiq import artifacts
from digiq.errors import ConfigError
from digiq.progress import progress
from digiq.report.viewer.gather import RunView, image_kind

MOST_INSIDE = 64 * 2**20
"""Most bytes of a page with everything embedded; browsers get slow beyond that."""


def page(view: RunView, inside: str = "", version: str = "") -> str:
    """The page as HTML.

    Args:
      view: the run.
      inside: JavaScript with the episodes; without it, the page loads ``data/<number>.js`` and images on demand.
      version: version of the served data; a new one keeps the browser from using cached files.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("viewer.html.jinja")
    return template.render(
        title=view.title,
        css=_asset("viewer.css"),
        js=_asset("viewer.js"),
        index=script_json({**view.index, "version": version}),
        inside=inside,
    )


def episode_script(view: RunView, key: int) -> str:
    """An episode as a script, which a page opened as a file can load, unlike JSON."""
    return f"DIGIQ.put({key},{script_json(view.episode(key))});"


def write(view: RunView, out: Path) -> int:
    """Writes the page: as one file if ``out`` ends in ``.html``, otherwise as a folder with ``index.html``.

    Returns:
      Bytes written.

    Raises:
      ConfigError: as one file it would be larger than :data:`MOST_INSIDE`, or the folder holds something else.
    """
    if out.suffix.lower() in (".html", ".htm"):
        return _write_file(view, out)
    if out.exists() and not (
        out.is_dir() and {p.name for p in out.iterdir()} <= {"index.html", "data", "screens"}
    ):
        raise ConfigError(
            f"{out}: already exists and is no page of the viewer; name another folder, or FILE.html."
        )
    size = 0
    with artifacts.atomic_path(out) as folder, progress("view", len(view), unit="episodes") as bar:
        (folder / "data").mkdir(parents=True)
        for key in range(len(view)):
            (folder / "data" / f"{key}.js").write_text(episode_script(view, key), encoding="utf-8")
            for number, step in enumerate(view.episode(key)["steps"]):
                image = folder / step["img"]
                image.parent.mkdir(parents=True, exist_ok=True)
                size += image.write_bytes(view.screen(key, number))
            bar.advance()
        (folder / "index.html").write_text(page(view), encoding="utf-8")
        size += sum(f.stat().st_size for f in (*folder.glob("data/*"), folder / "index.html"))
    return size


def _write_file(view: RunView, out: Path) -> int:
    parts, size = [], 0
    with progress("view", len(view), unit="episodes") as bar:
        for key in range(len(view)):
            episode = view.episode(key)
            steps = [
                {**step, "img": _data_uri(view.screen(key, number))}
                for number, step in enumerate(episode["steps"])
            ]
            parts.append(f"DIGIQ.put({key},{script_json({**episode, 'steps': steps})});")
            size += len(parts[-1])
            if size > MOST_INSIDE:
                raise ConfigError(
                    f"{out}: would be larger than {MOST_INSIDE >> 20} MiB after {key + 1} of {len(view)} episodes; name a "
                    "folder (--html PATH without .html), or fewer episodes with --most."
                )
            bar.advance()
    html = page(view, "\n".join(parts))
    artifacts.atomic_write_text(out, html)
    return len(html.encode())


def script_json(value: Any) -> str:
    """JSON that is safe in a ``script`` element, whatever text it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _data_uri(image: bytes) -> str:
    return f"data:image/{image_kind(image)};base64,{base64.b64encode(image).decode()}"


def _asset(name: str) -> str:
    return (resources.files("digiq.report.viewer") / name).read_text(encoding="utf-8")
