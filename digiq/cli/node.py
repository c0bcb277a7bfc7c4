"""One stage in a process of its own: what ``digiq run`` and ``digiq study`` start."""

from __future__ import annotations

import os
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Runs the stage that ``FILE [--core K]`` describes, on that core alone."""
    if arguments[1:2] == ["--core"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(arguments[2])})
    from digiq.nodes import execute
    from digiq.processes import end_with_parent

    end_with_parent()
    execute(Path(arguments[0]))
