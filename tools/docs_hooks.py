"""What the docs' build does beside MkDocs: links out of docs/, CONTRIBUTING as a page, and no public name without a docstring."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
"""Files beside docs/ that are pages of the site."""
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_MODULE = re.compile(r"(?m)^::: ([\w.]+)$")


def on_pre_build(config: Any) -> None:
    """Fails where a module of the API pages has a public name that says nothing of itself."""
    named = [
        m for page in sorted((ROOT / "docs/api").glob("*.md")) for m in _MODULE.findall(page.read_text())
    ]
    loader = griffe.GriffeLoader(search_paths=[str(ROOT)])
    packages = {name: loader.load(name) for name in ("digiq", "android_env")}
    silent = []
    for module in named:
        root, _, inside = module.partition(".")
        silent += undocumented(packages[root][inside] if inside else packages[root])
    if silent:
        raise PluginError("public names without a docstring: " + ", ".join(sorted(silent)))


def undocumented(found: Any) -> list[str]:
    """Public functions and classes of a module, and their public methods, that have no docstring.

    A method that a base class of this project documents, and properties and fields, which a line of their own may explain,
    need none.
    """
    silent = []
    for name, member in found.members.items():
        if name.startswith("_") or member.is_alias or not (member.is_function or member.is_class):
            continue
        if member.docstring is None and not (member.is_function and found.is_class):
            silent.append(member.path)
        if member.is_class:
            silent += undocumented(member)
    return silent


def on_files(files: Any, config: Any) -> Any:
    """Adds the files of :data:`PAGES` that docs/ does not have."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links that leave docs/ into links to pages, or into code where the file is no page; it must exist."""
    here = ROOT if page.file.src_uri == "contributing.md" else (ROOT / "docs" / page.file.src_uri).parent

    def turned(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        file = (here / target).resolve()
        if not file.exists():
            return match[0]  # MkDocs says that it is broken
        inside = file.relative_to(ROOT).as_posix()
        if (
            inside.startswith("docs/")
            and file.suffix not in (".jsonl", ".yaml", ".json")
            and file.name != "comment.md"
        ):
            wanted = inside.removeprefix("docs/")
        elif inside in PAGES:
            wanted = PAGES[inside]
        else:
            return text if "`" in text else f"{text} (`{inside}`)"
        up = "../" * page.file.src_uri.count("/")
        return f"[{text}]({up}{wanted}{anchor})"

    return _LINK.sub(turned, markdown)
