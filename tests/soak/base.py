"""What the trials share: a small finished run, its stages as commands, and the table of what was tried."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from digiq.artifacts import read_manifest
from digiq.pipeline.nodes import Node, read_node
from digiq.pipeline.stages import STAGES

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).with_name("tiny.yaml")
DIGIQ = (sys.executable, "-P", "-m", "digiq.cli")


class Table:
    """Counts what was tried and what survived, by kind of trial, and keeps what did not."""

    def __init__(self) -> None:
        self.tried: collections.Counter[str] = collections.Counter()
        self.failures: list[tuple[str, str]] = []

    def add(self, kind: str, problem: str = "") -> None:
        """One trial; ``problem`` is empty if it ended well."""
        self.tried[kind] += 1
        if problem:
            self.failures.append((kind, problem))
            print(f"FAILED  {kind}: {problem}", flush=True)

    def rows(self) -> list[tuple[str, int, int]]:
        """(kind, tried, survived)."""
        failed = collections.Counter(kind for kind, _ in self.failures)
        return [(kind, count, count - failed[kind]) for kind, count in sorted(self.tried.items())]


@dataclasses.dataclass(frozen=True)
class Clock:
    """A part's time."""

    until: float

    @classmethod
    def of(cls, seconds: float) -> Clock:
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> bool:
        return time.monotonic() < self.until


def base_run(scratch: Path) -> Path:
    """The run of :data:`RECIPE`, made if it is not there."""
    run = scratch / "tiny"
    done = subprocess.run(
        [*DIGIQ, "run", str(RECIPE), "--output", str(scratch)], env=environment(), check=False
    )
    if done.returncode:
        raise SystemExit("the base run failed; nothing can be tried on it.")
    return run


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def stages_of(run: Path) -> list[Node]:
    """The stages of a run, quick ones first."""
    nodes = [read_node(file) for file in sorted((run / "nodes").glob("*.json"))]
    return sorted(nodes, key=lambda node: read_manifest(node.out).environment["seconds"])


def command(node: Node, out: Path, scratch: Path) -> list[str]:
    """The command that runs a stage into ``out``, its settings in a file."""
    settings = json.loads((node.out / "manifest.json").read_text(encoding="utf-8"))["config"]
    file = scratch / f"{node.name.replace('/', '-')}.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    name = next(name for name, stage in STAGES.items() if stage.module == node.module)
    inputs = [word for key, path in node.inputs.items() for word in (f"--{key}", str(path))]
    return [*DIGIQ, name, str(file), *inputs, "--out", str(out)]


def finish(asked: list[str], timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(asked, env=environment(), capture_output=True, text=True, timeout=timeout)


def same(out: Path, node: Node) -> str:
    """What is wrong with a finished stage that should be as the base run's is: nothing, if it is."""
    try:
        found, expected = read_manifest(out), read_manifest(node.out)
    except Exception as error:
        return f"{node.name}: {error}"
    if found.digest != expected.digest:
        files = {
            name
            for name in {*found.files, *expected.files}
            if found.files.get(name) != expected.files.get(name)
        }
        return f"{node.name}: another content, {sorted(files)[:3]}"
    left = [path.name for path in out.rglob("*.tmp")]
    return f"{node.name}: left {left}" if left else ""


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """What is wrong with an error that should be a sentence on the last line."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    if "Traceback" in done.stderr or len(lines) != 1:
        return f"status {done.returncode}, not one sentence: {done.stderr[-300:]}"
    missing = [word for word in words if word not in lines[0]]
    return f"does not say {missing}: {lines[0]}" if missing else ""
