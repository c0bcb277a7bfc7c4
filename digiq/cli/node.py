"""One stage of a study in a process of its own: what ``digiq study`` starts.

It imports its stage and no other, since a study starts hundreds of these.
"""

from __future__ import annotations

import importlib
import json
import os
import typing
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Runs the stage that ``FILE [--core K]`` describes, on that core alone."""
    file = Path(arguments[0])
    if arguments[1:2] == ["--core"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(arguments[2])})
    from digiq.config import load

    about = json.loads(file.read_text())
    module = importlib.import_module(about["module"])
    config = load(typing.get_type_hints(module.run)["config"], about["config"], where=str(file))
    inputs = {name: Path(path) for name, path in about["inputs"].items()}
    module.run(config, **inputs, out=Path(about["out"]))
