"""Runs the commands and Python blocks of README and docs, in order, each page in a fresh directory.

``python tools/run_docs.py [PAGE ...]`` takes all pages by default. A page's directory shows the checkout, but has ``runs`` of
its own, in which a small finished run stands under the names that the page uses. ``tools/docs_commands.yaml`` says which, and
lists the commands that are not run, or are made smaller, each with its reason; an entry of it that no page has
is an error, as is a command that fails. ``--check`` holds the table against the pages and runs nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tools" / "docs_commands.yaml"
SMALL = ROOT / "runs" / "small"
LIMIT_S = 600
_BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)
_SETTING = re.compile(r"(export )?\w+=\S*( \w+=\S*)*")


class DocsError(Exception):
    """A command failed, or the table and the pages do not agree."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One shell command, or one Python block."""

    page: str
    """Relative to the checkout."""
    kind: str
    """``sh`` or ``python``."""
    text: str
    """A command on one line, without its comment; or the whole block."""
    settings: tuple[str, ...] = ()
    """Lines of the same shell block that set variables before it."""


def pages(root: Path) -> list[Path]:
    """README and the pages of docs."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def steps(page: Path, root: Path) -> Iterator[Step]:
    """What a page shows, in order."""
    name = page.relative_to(root).as_posix()
    for kind, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            yield Step(name, kind, block)
            continue
        settings: list[str] = []
        for line in block.replace("\\\n", " ").splitlines():
            command = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
            if command and _SETTING.fullmatch(command):
                settings.append(command)
            elif command:
                yield Step(name, kind, command, tuple(settings))


@dataclasses.dataclass(frozen=True)
class Rule:
    """An entry of the table."""

    why: str
    command: str = ""
    """As the page has it, on one line."""
    python: str = ""
    """A line of one of the page's Python blocks."""
    page: str = ""
    """Only there; everywhere if it is not said."""
    add: str = ""
    """Options that make the command smaller."""
    replace: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What is put in place of what, before it is run."""
    until: str = ""
    """Of a command that goes on until Ctrl-C: the output after which it gets that."""

    def is_of(self, step: Step) -> bool:
        """Whether it says something of a step."""
        if self.page not in ("", step.page):
            return False
        if step.kind == "sh":
            return step.text == self.command
        return bool(self.python) and self.python in step.text


def read_table(path: Path) -> tuple[dict[str, dict[str, str]], list[Rule]]:
    """What stands ready by page, and the rules.

    Raises:
      DocsError: a rule without a reason, or with an unknown field.
    """
    table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        rules = [Rule(**entry) for entry in table["rules"]]
    except TypeError as error:
        raise DocsError(f"{path.name}: a rule has an unknown field or lacks one ({error}).") from None
    for rule in rules:
        if not rule.why or bool(rule.command) == bool(rule.python):
            raise DocsError(
                f"{path.name}: a rule must name a command or a line of Python, and say why: {rule}"
            )
    return table["ready"], rules


def check(found: list[Step], rules: list[Rule], ready: Mapping[str, Any]) -> None:
    """Refuses entries that no page has.

    Raises:
      DocsError: names them.
    """
    unused = [rule.command or rule.python for rule in rules if not any(rule.is_of(step) for step in found)]
    unused += [page for page in ready if page not in {step.page for step in found}]
    if unused:
        raise DocsError("docs_commands.yaml has entries that are on no page: " + "; ".join(unused))


def fresh(folder: Path, ready: Mapping[str, str], root: Path, small: Path) -> None:
    """Makes a page's directory: the checkout's files but its runs, and copies of the small run, or of parts of it."""
    for entry in root.iterdir():
        if entry.name not in ("runs", ".git"):
            (folder / entry.name).symlink_to(entry)
    (folder / "runs").mkdir()
    for name, part in ready.items():
        if part in MADE:
            MADE[part](small, folder / name)
            continue
        source = small / part
        if not source.exists():
            raise DocsError(f"{source}: missing; run 'digiq run configs/small.yaml' first.")
        shutil.copytree(source, folder / name, dirs_exist_ok=True)


def make_recordings(small: Path, out: Path) -> None:
    """Logs of an agent as a folder of JSON lines and screenshots: the first episodes of the small run."""
    from digiq.data.store import EpisodeStore
    from digiq.dialects.plain_json import PlainJson

    lines = []
    for number, episode in zip(range(12), EpisodeStore(small / "episodes"), strict=False):
        shown = []
        for k, step in enumerate(episode.steps):
            name = f"{number}/{k}.png"
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(step.screenshot)
            action = (
                {} if step.action is None else {"action": PlainJson().fields(step.action, episode.screen_hw)}
            )
            shown.append({"screenshot": name, **action})
        about = {"episode_id": str(number), "goal": episode.goal, "outcome": str(episode.outcome)}
        lines.append(json.dumps({**about, "steps": shown}))
    (out / "episodes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_screen(small: Path, out: Path) -> None:
    """The first screenshot of the small run."""
    from digiq.data.store import EpisodeStore

    out.write_bytes(EpisodeStore(small / "episodes")[0].steps[0].screenshot)


MADE = {"a recording": make_recordings, "a screen": make_screen}
"""What may stand ready besides parts of the small run."""


def run_step(step: Step, rule: Rule | None, folder: Path) -> str:
    """Runs it, or what stands for it.

    Returns:
      Why it was not run; empty if it was.

    Raises:
      DocsError: it failed; ends with its last lines.
    """
    text = step.text
    if rule is not None:
        if not (rule.add or rule.replace or rule.until):
            return rule.why
        for old, new in rule.replace.items():
            if old not in text:
                raise DocsError(f"{step.page}: {old!r} is to be replaced, but is not in the command.")
            text = text.replace(old, new)
        text += f" {rule.add}" if rule.add else ""
    if step.kind == "python":
        command = [sys.executable, "-c", text]
    else:
        command = ["bash", "-euc", "\n".join([*step.settings, text])]
    paths = [str(ROOT / ".venv" / "bin"), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    log = folder / "runs" / "docs.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = _wait(process, log, rule.until if rule is not None else "")
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise DocsError(f"{step.page}: this does not work as written (exit {code}):\n  {text}\n{tail}")
    return ""


def _wait(process: subprocess.Popen[bytes], log: Path, until: str) -> int | str:
    """Its exit status; of one that goes on, after Ctrl-C when it has said what it should."""
    end = time.monotonic() + LIMIT_S
    asked = False
    while process.poll() is None:
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"none after {LIMIT_S} s"
        if until and not asked and until in log.read_text(encoding="utf-8", errors="replace"):
            os.killpg(process.pid, signal.SIGINT)
            asked = True
        time.sleep(0.1)
    return process.returncode


def run_page(page: Path, found: list[Step], rules: list[Rule], ready: Mapping[str, str]) -> list[str]:
    """Runs a page's steps; the failures."""
    failures = []
    with tempfile.TemporaryDirectory(prefix="digiq-docs-") as name:
        folder = Path(name)
        fresh(folder, ready, ROOT, SMALL)
        for step in found:
            rule = next((rule for rule in rules if rule.is_of(step)), None)
            start = time.monotonic()
            try:
                why = run_step(step, rule, folder)
            except DocsError as error:
                failures.append(str(error))
                why = "FAILED"
            took = why or f"ran, {time.monotonic() - start:.0f} s"
            first = step.text.strip().splitlines()[0]
            print(f"  {took:12}  {first if len(first) < 90 else first[:87] + '...'}", flush=True)
    return failures


def main() -> None:
    """``python tools/run_docs.py [--check] [PAGE ...]``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pages", nargs="*", type=Path, help="for example docs/features.md; all of them by default"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the table with the pages, and run nothing"
    )
    options = parser.parse_args()
    # Shells have background jobs ignore Ctrl-C, and what is started here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listed = pages(ROOT)
    found = {page: list(steps(page, ROOT)) for page in listed}
    failures = []
    try:
        ready, rules = read_table(TABLE)
        check([step for of_page in found.values() for step in of_page], rules, ready)
        if options.check:
            return
        for page in [path.resolve() for path in options.pages] or listed:
            name = page.relative_to(ROOT).as_posix()
            if found[page]:
                print(name, flush=True)
                failures += run_page(page, found[page], rules, ready.get(name, {}))
    except DocsError as error:
        failures.append(str(error))
    if failures:
        raise SystemExit("\n\n".join(failures))


if __name__ == "__main__":
    main()
