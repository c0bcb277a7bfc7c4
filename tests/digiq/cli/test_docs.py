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
from tools import run_docs

ROOT = Path(__file__).parents[3]
PAGES = run_docs.pages(ROOT)
PLAIN = {"recipes", "status", "verify", "doctor", "card", "compare"}
"""Commands that take words and no options."""


def commands(page: Path) -> list[list[str]]:
    """The words of every digiq command in a page's shell blocks."""
    lines = []
    for step in run_docs.steps(page, page.parent):
        for part in step.text.split("&&") if step.kind == "sh" else ():
            words = shlex.split(part)
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
    for step in run_docs.steps(page, page.parent):
        if step.kind == "python":
            ast.parse(step.text)


@pytest.mark.parametrize(
    "line", ["train-q --no-such 1", "no-such", "status run --now", "run quickstart --train-q.no-such 1"]
)
def test_a_page_that_shows_what_is_not_there_is_found_out(line, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```sh\n.venv/bin/digiq {line}\n```\n")
    with pytest.raises(AssertionError):
        test_commands_that_pages_show_are_there(page)


def page_of(tmp_path, text: str) -> list[run_docs.Step]:
    page = tmp_path / "README.md"
    page.write_text(text)
    return list(run_docs.steps(page, tmp_path))


def test_the_table_of_commands_that_are_not_run_is_of_these_pages():
    ready, rules = run_docs.read_table(run_docs.TABLE)
    found = [step for page in run_docs.pages(ROOT) for step in run_docs.steps(page, ROOT)]
    run_docs.check(found, rules, ready)
    with pytest.raises(run_docs.DocsError, match="digiq no-such"):
        run_docs.check(found, [*rules, run_docs.Rule(why="none", command="digiq no-such")], ready)
    with pytest.raises(run_docs.DocsError, match=r"docs/gone\.md"):
        run_docs.check(found, rules, {**ready, "docs/gone.md": {}})


def test_a_rule_says_why(tmp_path):
    (tmp_path / "table.yaml").write_text("ready: {}\nrules: [{command: make test, why: ''}]\n")
    with pytest.raises(run_docs.DocsError, match="say why"):
        run_docs.read_table(tmp_path / "table.yaml")


def test_commands_are_read_as_a_shell_reads_them(tmp_path):
    sh = "```sh\nF=a\ntouch $F \\\n    b   # a comment\necho 'x y'\n```\n```json\n{}\n```\n```python\n1 + 1\n```\n"
    found = page_of(tmp_path, sh)
    assert [(step.kind, step.text) for step in found] == [
        ("sh", "touch $F b"),
        ("sh", "echo 'x y'"),
        ("python", "1 + 1\n"),
    ]
    (tmp_path / "runs").mkdir()
    assert run_docs.run_step(found[0], None, tmp_path) == "" and (tmp_path / "a").is_file()


def test_what_does_not_work_as_written_is_said_with_its_last_lines(tmp_path):
    sh, python = page_of(
        tmp_path, "```sh\necho because; false\n```\n```python\nraise ValueError('why')\n```\n"
    )
    (tmp_path / "runs").mkdir()
    with pytest.raises(run_docs.DocsError, match=r"README\.md: .*exit 1(.|\n)*because"):
        run_docs.run_step(sh, None, tmp_path)
    with pytest.raises(run_docs.DocsError, match="ValueError: why"):
        run_docs.run_step(python, None, tmp_path)
    mended = run_docs.Rule(why="", python="raise", replace={"raise ValueError('why')": "pass"})
    assert run_docs.run_step(python, mended, tmp_path) == ""
    assert run_docs.run_step(sh, run_docs.Rule(why="it fails", command=sh.text), tmp_path) == "it fails"


def test_what_serves_is_stopped_when_it_has_said_so(tmp_path):
    code = "import time; print('ready', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('stopped')\n"
    (step,) = page_of(tmp_path, f"```python\n{code}```\n")
    (tmp_path / "runs").mkdir()
    assert run_docs.run_step(step, run_docs.Rule(why="", python="import", until="ready"), tmp_path) == ""
    assert "stopped" in (tmp_path / "runs" / "docs.log").read_text()


def test_options_that_are_added_make_a_command_smaller(tmp_path):
    (step,) = page_of(tmp_path, "```sh\ntest 1 -gt\n```\n")
    (tmp_path / "runs").mkdir()
    assert run_docs.run_step(step, run_docs.Rule(why="", command=step.text, add="0"), tmp_path) == ""
