"""Stages in processes of their own, which ``digiq run`` and ``digiq study`` start."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Runs the stage that ``FILE PARENT [--overwrite]`` describes, while the process ``PARENT`` lives."""
    from digiq.processes import end_with_parent

    end_with_parent(int(arguments[1]))
    from digiq.pipeline.nodes import read_node

    read_node(Path(arguments[0])).execute(overwrite="--overwrite" in arguments)


def serve(arguments: list[str]) -> None:
    """Runs the stages that standard input requests, one after another on the core ``K``, while ``PARENT`` lives.

    See ``digiq.pipeline.servers``.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(arguments[0])})
    from digiq.pipeline import servers

    servers.serve(functools.partial(_run_logged, os.getpid()), int(arguments[1]))


def _run_logged(server: int, request: str) -> None:
    about = json.loads(request)
    log = os.open(about["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream, replacement in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(replacement, stream)
    main([about["file"], str(server), *about["options"]])
