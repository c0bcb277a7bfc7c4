"""The parts of a report page, and their rendering to one self-contained HTML file."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from digiq.drawing.figures import Drawn
from digiq.drawing.strips import Strip


@dataclasses.dataclass(frozen=True)
class Tile:
    """A headline number."""

    value: str
    label: str
    note: str = ""
    tone: str = ""
    """An arm's name, for its colour."""


@dataclasses.dataclass(frozen=True)
class Cell:
    text: str
    small: str = ""
    """Shown beside the text in a softer colour, e.g. an interval."""


@dataclasses.dataclass(frozen=True)
class Row:
    cells: tuple[Cell, ...]
    color: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    best: int = -1
    """Number of the row to highlight; -1 for none."""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Term:
    """A name and its meaning."""

    name: str
    text: str
    color: str = ""


@dataclasses.dataclass(frozen=True)
class Detail:
    """Text that is collapsed until clicked."""

    name: str
    note: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and its content, in the order of the fields."""

    anchor: str
    name: str
    lead: str = ""
    terms: tuple[Term, ...] = ()
    wide_figures: tuple[tuple[str, str], ...] = ()
    """SVG and caption."""
    narrow_figures: tuple[tuple[str, str], ...] = ()
    """Shown instead of the wide ones on a phone."""
    tables: tuple[Table, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    strips: tuple[Strip, ...] = ()
    pairs: tuple[tuple[Strip, ...], ...] = ()
    """Episodes of the same task by several arms, one below the other."""
    details: tuple[Detail, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    title: str
    subtitle: str
    verdict: str = ""
    """The conclusion, in a sentence or two; shown first."""
    tiles: tuple[Tile, ...] = ()
    sections: tuple[Section, ...] = ()
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML; all text is escaped, all images are embedded, nothing is fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_uri": lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(),
        "json_uri": lambda data: (
            "data:application/json;base64," + base64.b64encode(plain_json(data).encode()).decode()
        ),
        "px": lambda value: f"{value:.1f}",
        "num": lambda value: f"{value:z.2f}",  # z: no minus sign before zero
        "signed": lambda value: f"{value:+z.2f}",
    }
    return environment.get_template("page.html.jinja").render(page=page)


def plain_json(data: Any) -> str:
    """JSON of a figure's numbers, arrays as lists and NaN as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(data), indent=1, ensure_ascii=False)


def figure_data(page: Page) -> dict[str, Any]:
    """The numbers of every figure of a page, by section and title."""
    found: dict[str, Any] = {}
    for section in page.sections:
        for svg, _ in (*section.wide_figures, *section.figures):
            if isinstance(svg, Drawn) and svg.data:
                found.setdefault(section.anchor, {})[svg.title] = svg.data
    return found


def _template(name: str) -> str:
    return (resources.files("digiq.drawing") / "templates" / name).read_text(encoding="utf-8")
