"""The next command, printed at the end of each command with the paths that it was given."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DATA = "--episodes {episodes} --rewards {rewards}"
NEXT = {
    "import": "digiq label --episodes {out} --out {beside}/rewards",
    "collect": "digiq label --episodes {out} --out {beside}/rewards",
    "fit-policy": "digiq collect --agent.kind policy --policy {out} --out {beside}/episodes",
    "label": "digiq propose --episodes {episodes} --rewards {out} --policy {behavior} --out {beside}/proposals",
    "propose": f"digiq featurize {_DATA} --proposals {{out}} --vlm {{vlm}} --out {{beside}}/features",
    "tune-vlm": f"digiq featurize {_DATA} --proposals {{proposals}} --vlm {{out}} --out {{beside}}/features",
    "featurize": f"digiq train-q --features {{out}} {_DATA} --out {{beside}}/critic",
    "train-q": f"digiq diagnose --critic {{out}} --features {{features}} {_DATA} --out {{beside}}/diagnostics",
    "diagnose": f"digiq distill {_DATA} --behavior {{behavior}} --proposals {{proposals}} --features {{features}} "
    "--critic {critic} --out {beside}/policy",
    "select": "cat {out}/selection.json",
    "distill": "digiq evaluate --policy {out} --tasks webshop/test --out {beside}/evaluation",
    "import-features": "digiq train-q --features {out} --episodes {episodes} --out {beside}/critic",
    "evaluate-agent": "digiq compare {out} {beside}/evaluation",
    "export": "less {out}/README.md",
    "evaluate": "digiq view {out}",
    "offline": "digiq evaluate --policy {policy} --out {beside}/evaluation",
    "card": "digiq status {beside}",
    "value": "digiq status {beside}",
    "q-metrics": "digiq status {beside}",
    "rank": "open {out}/report.html",
    "probe": "open {out}/probe.png",
    "make-tiny-vlm": "digiq tune-vlm --episodes {episodes} --vlm {out} --out {beside}/vlm",
}
"""The next command by stage; paths that were not given are those of a run's own directories."""

AFTER = {
    "compare": "digiq view {run}",
    "rejudge": "digiq rejudge {folder} --judge.name {judge} --out rows.jsonl",
    "rejudge --out": "digiq compare A B --judge {rows}",
    "verify": "digiq status {run}",
    "verify, damaged": "rm -r {damaged} && digiq run {recipe}",
    "study": "open {page}",
    "study --plan": "digiq study {study}{options}",
    "study --tune": "digiq study {study} --register",
    "study --register": "git commit {study} && digiq study {study}",
}
"""The next command by command that is not a stage and by its ending, with names that its module fills in."""


def following(command: str, given: Mapping[str, Any]) -> str:
    """The next command.

    Args:
      command: the command that has ended; after one that :data:`NEXT` lacks, the run's status comes next.
      given: its ``out`` and the artefacts that it read; None for those that were not given.
    """
    beside = Path(given["out"]).parent

    class Paths(dict[str, Any]):
        def __missing__(self, name: str) -> Path:
            return beside / name

    told = {name: value for name, value in given.items() if isinstance(value, Path)}
    return NEXT.get(command, NEXT["card"]).format_map(Paths(told | {"beside": beside}))


def say_next(ending: str, **given: object) -> None:
    """Prints the command that :data:`AFTER` has for an ending, to standard error, so that results can be piped."""
    print(f"Next: {AFTER[ending].format_map(given)}", file=sys.stderr)


def run_of(path: Path) -> Path:
    """The directory of an artefact's run, at most three folders above it; the artefact itself if it is in no run."""
    from digiq.pipeline.run import RECIPE

    above = [folder for folder in list(path.absolute().parents)[:3] if (folder / RECIPE).is_file()]
    return Path(os.path.relpath(above[0])) if above else path
