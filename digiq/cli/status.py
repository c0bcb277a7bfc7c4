"""``digiq status``: the progress of a run, and the next command."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from digiq import artifacts
from digiq.errors import ConfigError, DigiQError

HELP = """usage: digiq status RUN

Lists the stages of a run: how far each is, what it holds, its size and the time it took, and the command that comes next.

  digiq status runs/quickstart

States: complete, partial (the same command goes on from there), running, waiting (not begun), changed (complete, but
with other settings than the recipe has now), damaged ('digiq verify' says where)."""


class Line(NamedTuple):
    """One stage of a run."""

    name: str
    state: str
    manifest: artifacts.Manifest | None
    size: int
    """Size on disk, bytes."""


def main(arguments: list[str]) -> None:
    """Runs ``digiq status RUN``."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(HELP)
        return
    run = Path(arguments[0])
    if not run.is_dir():
        near = (
            ", ".join(sorted(p.name for p in run.parent.glob("*") if p.is_dir())[:6])
            if run.parent.is_dir()
            else ""
        )
        raise ConfigError(f"{run}: no such run{f'; there are: {near}' if near else ''}.")
    lines = list(stages(run))
    if not lines:
        raise ConfigError(
            f"{run}: holds neither a recipe nor an artefact; start one with 'digiq run quickstart'."
        )
    console = Console()
    console.print(table(run, lines))
    for command, why in following(run, lines):
        console.print(Text(f"{why}:\n  {command}"), soft_wrap=True)


def stages(run: Path) -> Iterator[Line]:
    """The stages that the run's recipe plans, in order; without a recipe, the existing artefacts.

    Raises:
      DigiQError: the recipe cannot be read.
    """
    from digiq.pipeline.run import RECIPE

    if (run / RECIPE).is_file():
        import dataclasses

        from digiq.config import load_yaml
        from digiq.pipeline.plan import plan
        from digiq.pipeline.recipe import Recipe

        # The run may have been moved, or its path may be relative to another directory than at its start.
        recipe = dataclasses.replace(
            load_yaml(Recipe, run / RECIPE), output=run.parent, name=run.resolve().name
        )
        for node in plan(recipe):
            state, manifest = artifacts.state_of(node.out)
            if state == "complete" and not _current(node):
                state = "changed"
            yield Line(node.name, "waiting" if state == "absent" else state, manifest, _size(node.out))
        return
    for file in sorted(run.rglob(artifacts.MANIFEST)):
        state, manifest = artifacts.state_of(file.parent)
        yield Line(file.parent.relative_to(run).as_posix(), state, manifest, _size(file.parent))


def _current(node) -> bool:
    try:
        return node.is_complete
    except DigiQError:
        return False


def table(run: Path, lines: list[Line]) -> Table:
    """The stages as a table."""
    made = Table(title=str(run), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = (("stage", 16), ("state", 8), ("holds", 12), ("size", 7), ("time", 6))
    for name, width in columns:
        side = "right" if name in ("size", "time") else "left"
        made.add_column(name, justify=side, no_wrap=True, min_width=width)
    styles = {
        "complete": "green",
        "running": "cyan",
        "partial": "yellow",
        "changed": "yellow",
        "damaged": "red",
        "waiting": "dim",
    }
    for line in lines:
        environment = {} if line.manifest is None else line.manifest.environment
        seconds = environment.get("seconds")
        made.add_row(
            line.name,
            Text(line.state, styles.get(line.state, "")),
            _counts(line.manifest),
            _bytes(line.size),
            "" if seconds is None else _clock(float(seconds)),
        )
    spent = sum(
        float(line.manifest.environment.get("seconds", 0)) for line in lines if line.manifest is not None
    )
    done = sum(line.state == "complete" for line in lines)
    made.add_section()
    made.add_row(
        f"{done} of {len(lines)} complete",
        "",
        "",
        _bytes(sum(line.size for line in lines)),
        _clock(spent),
        "",
    )
    return made


def following(run: Path, lines: list[Line]) -> Iterator[tuple[str, str]]:
    """The next commands, in order, with the purpose of each."""
    from digiq.pipeline.run import RECIPE

    states = {line.state for line in lines}
    recipe = run / RECIPE
    if "damaged" in states:
        yield f"digiq verify {run}", "Which files are damaged, and what to rebuild"
        return
    if "running" in states:
        yield f"digiq status {run}", "It is running; look again later"
    elif "changed" in states:
        yield f"digiq run {recipe} --overwrite", "Replace what other settings left"
    elif states != {"complete"} and recipe.is_file():
        yield f"digiq run {recipe}", "Go on from here"
    elif (run / "report.html").is_file():
        yield f"open {run / 'report.html'}", "The report"
    if any(line.state == "complete" and line.name.startswith(("episodes", "evaluation")) for line in lines):
        yield f"digiq view {run}", "Its episodes, with candidates, Q and V"
    critic = next((line for line in lines if line.name == "critic" and line.state == "complete"), None)
    if critic is not None and states == {"complete"}:
        yield (
            f"digiq diagnose --critic {run}/critic --features {run}/features --episodes {run}/episodes "
            f"--rewards {run}/rewards --out {run}/diagnostics",
            "What the critic's held-out numbers say",
        )


def _counts(manifest: artifacts.Manifest | None) -> str:
    counts = {} if manifest is None else manifest.counts
    shown = [
        f"{_plain(value)} {key.replace('_', ' ')}"
        for key, value in counts.items()
        if _is_number(value) and value
    ]
    return textwrap.shorten(", ".join(shown[:2]), 27, placeholder=" …")


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(path: Path) -> int:
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # a temporary file that has since been deleted
                continue
    return total


def _bytes(size: int) -> str:
    if not size:
        return ""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if unit != "B" else f"{size} B"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
