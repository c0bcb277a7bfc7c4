"""Stages in processes of their own: ``digiq run`` and ``digiq study`` plan nodes, and this starts them.

A stage gets a process because the thread pools of torch and XLA fight over cores, and because a stage's memory should
go when it ends. Nodes start as soon as what they read is there; one whose
work fits one core (a module's ``ONE_CORE``) runs beside another such, all else has the machine to itself, unless every
node is pinned to a core of its own. Pinned nodes are many and short: on Linux they are forked from a process a core that
has imported what they need.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from digiq import artifacts
from digiq.config import load, to_dict
from digiq.processes import Server, usable_cores

COMPILED = "compiled"
"""JAX's cache of compiled programs, in the folder that describes a run's nodes; the user's own comes first."""

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Has glibc keep what XLA and torch free and ask for again at every step: a sixth of a stage's time went into the kernel
zeroing the same pages. A stage's memory goes when its process ends."""


@dataclasses.dataclass(frozen=True)
class Node:
    """One stage, with what it reads and where it writes."""

    name: str
    """Unique in the run, e.g. ``evaluation/digiq``."""
    module: str
    """Holds ``STAGE``, ``VERSION`` and ``run``."""
    config: Any
    inputs: Mapping[str, Path]
    """Keyword arguments of ``run``."""
    out: Path

    @property
    def is_complete(self) -> bool:
        stage = importlib.import_module(self.module)
        return artifacts.is_complete(
            self.out, stage=stage.STAGE, version=stage.VERSION, config=self.config, inputs=self.inputs
        )

    @property
    def is_light(self) -> bool:
        """Whether one core is all it can use, so that another may run beside it."""
        return getattr(importlib.import_module(self.module), "ONE_CORE", False)

    def execute(self, overwrite: bool = False) -> artifacts.Artifact:
        """Runs the stage in this process."""
        stage = importlib.import_module(self.module)
        return stage.run(self.config, **self.inputs, out=self.out, overwrite=overwrite)


def write_node(node: Node, file: Path) -> None:
    """Describes a node in a file."""
    about = {
        "name": node.name,
        "module": node.module,
        "config": to_dict(node.config),
        "inputs": {name: str(path) for name, path in node.inputs.items()},
        "out": str(node.out),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    artifacts.atomic_write_json(file, about)


def read_node(file: Path) -> Node:
    """The node that a file describes; imports its stage and no other."""
    about = json.loads(file.read_text())
    run = importlib.import_module(about["module"]).run
    config = load(typing.get_type_hints(run)["config"], about["config"], where=str(file))
    inputs = {name: Path(path) for name, path in about["inputs"].items()}
    return Node(about["name"], about["module"], config, inputs, Path(about["out"]))


def run_nodes(
    nodes: Sequence[Node],
    *,
    folder: Path,
    jobs: int = 2,
    pinned: bool = False,
    overwrite: bool = False,
    on_start: Callable[[Node], None] = lambda node: None,
) -> Generator[tuple[Node, str], None, None]:
    """Runs stages as their inputs get ready, and yields each that ended with why it failed: nothing, if it did not.

    What does not depend on a failed node still runs; whoever wants to stop leaves the loop, which ends what is running.

    Args:
      nodes: in an order in which each comes after what it reads; what they read from elsewhere is there already.
      folder: for the files that describe the nodes and, if pinned, their logs.
      jobs: processes at most, and never more than there are cores.
      pinned: each node gets one core and one thread, and writes into a log. Otherwise it writes where this process
        does, and only light ones run side by side.
      overwrite: throw away what another configuration left.
      on_start: told of each node that starts.
    """
    # Programs that stages share are compiled once a run. Not longer: on another machine they might not run at all.
    shutil.rmtree(folder / COMPILED, ignore_errors=True)
    # Ended like this process is, stages leave artefacts that they resume from.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    waiting = list(nodes)
    open_outs, failed = {node.out for node in nodes}, set()
    free = usable_cores()[:jobs]
    servers: dict[int, Server] = {}
    running: dict[subprocess.Popen[bytes] | Server, tuple[Node, int, str]] = {}
    try:
        while waiting or running:
            # With all cores taken nothing can start, and looking through hundreds of nodes all the time is felt.
            for node in list(waiting) if free else ():
                needs = [path for path in node.inputs.values() if path in open_outs]
                if any(path in failed for path in needs):
                    failed.add(node.out)
                    waiting.remove(node)
                    yield node, "an earlier stage failed"
                    continue
                if needs or not free:
                    continue
                light = node.is_light and all(other.is_light for other, _, _ in running.values())
                if not pinned and running and not light:
                    break  # what comes first in the order is not starved by what comes later
                waiting.remove(node)
                core = free.pop(0)
                on_start(node)
                process, log = _start(node, folder, core if pinned else None, overwrite, servers)
                running[process] = (node, core, log)
            ended = [process for process in running if process.poll() is not None]
            for process in ended:
                node, core, log = running.pop(process)
                free.append(core)
                if process.returncode:
                    failed.add(node.out)
                    yield node, f"see {log}"
                else:
                    open_outs.discard(node.out)
                    yield node, ""
            if not ended and running:
                time.sleep(0.05)
    finally:
        processes = {*running, *servers.values()}
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _start(
    node: Node, folder: Path, core: int | None, overwrite: bool, servers: dict[int, Server]
) -> tuple[subprocess.Popen[bytes] | Server, str]:
    """Starts a node, and says where it tells what goes wrong. ``servers`` are by core, and found or put there."""
    name = f"{node.out.parent.name}-{node.out.name}"
    file, log = folder / f"{name}.json", folder / f"{name}.log"
    write_node(node, file)
    # -P: the directory one stands in comes last on the path, as in the console script (digiq.cli.main).
    program = [sys.executable, "-P", "-m", "digiq.cli"]
    arguments = [str(file), *(["--overwrite"] if overwrite else [])]
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / COMPILED),
        # A stage compiles dozens of small programs too; JAX keeps only those of a second or more by itself.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **KEEP_MEMORY,
        **os.environ,
    }
    if core is None:
        return subprocess.Popen([*program, "run-node", *arguments], env=environment), "above"
    # One thread a process: pools sized for all cores would fight over the one it has.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if sys.platform != "linux":
        command = [*program, "run-node", *arguments]
        with log.open("a") as stream:
            process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        return process, str(log)
    if core not in servers or not servers[core].is_alive:
        servers[core] = Server([*program, "serve-nodes", str(core)], environment)
    servers[core].ask(json.dumps({"arguments": arguments, "log": str(log)}))
    return servers[core], str(log)
