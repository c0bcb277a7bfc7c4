"""Runs stages in processes of their own: ``digiq run`` and ``digiq study`` plan nodes, and this module starts them.

Each stage gets a process because the thread pools of torch and XLA compete for cores, and because a stage's memory
should be freed when it ends. Nodes start as soon as their inputs are ready. A node that uses only one core
(:attr:`digiq.pipeline.stages.Stage.one_core`) may run at the same time as another such node; any other has the machine
to itself, unless every node is pinned to a core of its own. Pinned nodes are many and short, so on Linux they are
forked from one process per core that has already imported what they need.
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
"""JAX's cache of compiled programs, in the folder with a run's nodes; a cache that the user sets takes precedence."""


def run_nodes(
    nodes: Sequence[Node],
    *,
    folder: Path,
    jobs: int = 2,
    pinned: bool = False,
    overwrite: bool = False,
    on_start: Callable[[Node], None] = lambda node: None,
) -> Generator[tuple[Node, str], None, None]:
    """Runs stages as their inputs become ready; yields each that ended, with the reason if it failed, otherwise empty.

    Nodes that do not depend on a failed node still run. To stop, leave the loop: this ends the running nodes.

    Args:
      nodes: the nodes, each after those that it reads from; other inputs must exist already.
      folder: folder for the files that describe the nodes and, if pinned, for their logs.
      jobs: maximum number of processes, which never exceeds the number of cores.
      pinned: each node gets one core and one thread, and writes to a log. Otherwise it writes to the output of this
        process, and only one-core nodes run at the same time.
      overwrite: replace artefacts that another configuration left.
      on_start: called with each node that starts.
    """
    # Programs that stages share are compiled once per run. They are not kept: another machine might not run them.
    shutil.rmtree(folder / COMPILED, ignore_errors=True)
    waiting = list(nodes)
    open_outs, failed = {node.out for node in nodes}, set()
    free = usable_cores()[:jobs]
    servers: dict[int, Server] = {}
    running: dict[subprocess.Popen[bytes] | Server, tuple[Node, int, str]] = {}
    try:
        while waiting or running:
            # With all cores taken nothing can start, and checking hundreds of nodes again and again is slow.
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
                    break  # later nodes must not starve earlier ones
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
    """Starts a node; returns it with the place of its error messages. ``servers`` are by core, added if missing."""
    name = f"{node.out.parent.name}-{node.out.name}"
    file, log = folder / f"{name}.json", folder / f"{name}.log"
    write_node(node, file)
    # -P: the current directory comes last on the path, as in the console script (digiq.cli.main).
    program = [sys.executable, "-P", "-m", "digiq.cli"]
    options = ["--overwrite"] if overwrite else []
    me = str(os.getpid())  # passed on now, as a process that starts late may have lost its parent by then
    arguments = [str(file), me, *options]
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / COMPILED),
        # A stage also compiles dozens of small programs; by default JAX caches only those that take a second or more.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **memory.KEEP,
        **os.environ,
    }
    if core is None:
        return subprocess.Popen([*program, "run-node", *arguments], env=environment), "above"
    # One thread per process: pools sized for all cores would compete for its only core.
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
