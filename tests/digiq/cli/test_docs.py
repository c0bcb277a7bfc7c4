"""Commands that README and docs show are commands, with options that they have; their Python blocks are Python."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest

from digiq import cli
from digiq.cli.recipes import found
from digiq.pipeline.stages import STAGES

ROOT = Path(__file__).parents[3]
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md")})
PLAIN = {"recipes", "status", "verify", "doctor", "card", "compare"}
"""Commands that take words and no options."""


def commands(page: Path) -> list[list[str]]:
    """The words of every digiq command in a page's shell blocks."""
    lines = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                starts = [n for n, word in enumerate(words) if word == "digiq" or word.endswith("/digiq")]
                if starts:
                    lines.append(words[starts[0] + 1 :])
    return lines


@functools.cache
def help_of(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main(arguments)
    return out.getvalue()


def known(command: str, words: list[str]) -> str:
    if command == "run":
        recipe = words[0] if Path(words[0]).is_file() or not words[0].endswith(".yaml") else "quickstart"
        return help_of("run", recipe, "--help-all") + " --overwrite --device "
    if command == "devices":
        return help_of("devices", words[0], "--help")
    if command == "study":
        return help_of("study", "study/core", "--help")
    if command in ("view", "init", "rejudge"):
        return (ROOT / f"digiq/cli/{command}.py").read_text() + str(
            importlib.import_module(f"digiq.cli.{command}").HELP
        )
    if command == "evaluate" and "--proposer" in words:
        command = "evaluate-agent"
    return help_of("offline" if command == "evaluate" and "--offline" in words else command, "--help")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_pages_show_are_there(page):
    for command, *words in commands(page):
        if command.startswith("-"):
            continue
        assert command in {*STAGES, "run", "study", "card", *cli.COMMANDS}, command
        options = [w.partition("=")[0] for w in words if w.startswith("--")]
        assert not (command in PLAIN and options), (command, options)
        for option in options:
            if option in ("--offline", "--help", "--help-all", "--schema", *cli.FLAGS):
                continue
            name = option.removeprefix("--")
            text = known(command, words)
            written = name.replace("-", "_") if command in ("view", "init", "rejudge") else option
            assert re.search(rf"{re.escape(written)}\b", text), f"{page.name}: digiq {command} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_and_python_that_pages_show_are_there(page):
    for command, *words in commands(page):
        if command in ("run", "study") and words and words[0] != "mine.yaml" and not words[0].isupper():
            assert found(words[0]).is_file(), words[0]
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize(
    "line", ["train-q --no-such 1", "no-such", "status run --now", "run quickstart --train-q.no-such 1"]
)
def test_a_page_that_shows_what_is_not_there_is_found_out(line, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```sh\n.venv/bin/digiq {line}\n```\n")
    with pytest.raises(AssertionError):
        test_commands_that_pages_show_are_there(page)
