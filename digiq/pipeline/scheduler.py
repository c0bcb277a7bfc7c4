"""Stages in processes of their own: ``digiq run`` and ``digiq study`` plan nodes, and this starts them.

A stage gets a process because the thread pools of torch and XLA fight over cores, and because a stage's memory should
go when it ends. Nodes start as soon as what they read is there; one whose
work fits one core (:attr:`digiq.pipeline.stages.Stage.one_core`) runs beside another such, all else has the machine to itself, unless every
node is pinned to a core of its own. Pinned nodes are many and short: on Linux they are forked from a process a core that
has imported what they need.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from digiq import memory
from digiq.pipeline.nodes import Node, write_node
from digiq.pipeline.servers import Server
from digiq.processes import usable_cores

COMPILED = "compiled"
"""JAX's cache of compiled programs, in the folder that describes a run's nodes; the user's own comes first."""


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
                light = node.one_core and all(other.one_core for other, _, _ in running.values())
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
    options = ["--overwrite"] if overwrite else []
    me = str(os.getpid())  # said now: whoever starts late may have lost its parent by then
    arguments = [str(file), me, *options]
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / COMPILED),
        # A stage compiles dozens of small programs too; JAX keeps only those of a second or more by itself.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **memory.KEEP,
        **os.environ,
    }
    if core is None:
        return subprocess.Popen([*program, "run-node", *arguments], env=environment), "above"
    # One thread a process: pools sized for all cores would fight over the one it has.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if sys.platform != "linux":
        command = [*program, "run-node", *arguments]
        with log.open("a", encoding="utf-8") as stream:
            process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        return process, str(log)
    if core not in servers or not servers[core].is_alive:
        servers[core] = Server([*program, "serve-nodes", str(core), me], environment)
    servers[core].ask(json.dumps({"file": str(file), "options": options, "log": str(log)}))
    return servers[core], str(log)
