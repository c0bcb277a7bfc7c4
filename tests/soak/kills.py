"""SIGKILL at any moment to a stage's group or to its parent alone, and signals that ask it to end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from digiq.artifacts import read_manifest
from digiq.pipeline.nodes import Node, write_node
from tests.soak.base import DIGIQ, Clock, Table, command, environment, finish, same

PARENT = """
import os, subprocess, sys
child = subprocess.Popen([*sys.argv[2:], str(os.getpid())])
print(child.pid, flush=True)
child.wait()
"""


def kills(nodes: list[Node], scratch: Path, table: Table, clock: Clock, rng: random.Random) -> None:
    """Each stage is killed one to three times on its way, the first time in its first second, and must end as the base run's."""
    while clock.left:
        for node in nodes:
            if not clock.left:
                return
            _killed(node, scratch / "killed", scratch, table, rng)


def _killed(node: Node, out: Path, scratch: Path, table: Table, rng: random.Random) -> None:
    shutil.rmtree(out, ignore_errors=True)
    file = scratch / "killed.json"
    write_node(Node(node.name, node.module, node.config, node.inputs, out), file)
    length = read_manifest(node.out).environment["seconds"] + 4  # with what it imports
    moments = [rng.uniform(0, 1), *(rng.uniform(0, length) for _ in range(rng.randrange(3)))]
    for moment in moments:
        alone = rng.random() < 0.5
        asked = [*DIGIQ, "run-node", str(file)]
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, "-", *asked],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(moment)
        if alone:
            parent.kill()
            parent.wait()
            # It may import for seconds before it can look for its parent.
            problem = (
                "" if _gone(child, 20) else f"{node.name}: outlives its parent, killed after {moment:.2f} s"
            )
            table.add("parent killed alone", problem)
            if problem:
                os.kill(child, signal.SIGKILL)
        else:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()
            table.add("group killed")
        _gone(child, 20)
    done = finish([*DIGIQ, "run-node", str(file), str(os.getpid())])
    problem = same(out, node) if done.returncode == 0 else f"{node.name}: {done.stderr[-300:]}"
    table.add("gone on after kills", problem)


def _gone(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.1)
    return False


def signals(nodes: list[Node], scratch: Path, table: Table, rng: random.Random) -> None:
    """SIGTERM and SIGINT while a stage surely runs: status 143 or 130, one line, and it goes on from there."""
    for node in nodes:
        for kind, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            out = scratch / "signalled"
            shutil.rmtree(out, ignore_errors=True)
            asked = command(node, out, scratch)
            process = subprocess.Popen(
                asked, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            while not (out / "manifest.json").exists() and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, read_manifest(node.out).environment["seconds"] / 2))
            if process.poll() is not None:
                continue  # it was quicker: nothing was tried
            process.send_signal(kind)
            try:
                _, said = process.communicate(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
                table.add("asked to end", f"{node.name}: {kind.name} is not heard")
                continue
            if process.returncode == 0 and "complete" in said:
                continue  # it ended in the same moment
            lines = [line for line in said.splitlines() if "goes on from here" in line]
            problem = ""
            if process.returncode != status or len(lines) != 1 or "Traceback" in said:
                problem = f"{node.name}: {kind.name} gives {process.returncode}: {said[-300:]}"
            table.add("asked to end", problem)
            if kind is signal.SIGTERM:
                done = finish(asked)
                table.add(
                    "gone on after a signal", same(out, node) if not done.returncode else done.stderr[-300:]
                )
