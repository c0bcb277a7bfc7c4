"""One stage in a process of its own: what ``digiq run`` and ``digiq study`` start."""

from __future__ import annotations

import os
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Runs the stage that ``FILE [--overwrite] [--core K]`` describes, on that core alone."""
    if "--core" in arguments and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(arguments[arguments.index("--core") + 1])})
    from digiq.nodes import read_node
    from digiq.processes import end_with_parent

    end_with_parent()
    read_node(Path(arguments[0])).execute(overwrite="--overwrite" in arguments)
