"""A disk that fills, one that cannot be written, two runs at once, and a lock that was left behind."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digiq.pipeline.nodes import Node
from tests.soak.base import DIGIQ, RECIPE, Table, command, environment, finish, one_line, same


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path | None]:
    """A file system in memory, or None where this process may not mount one."""
    path.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True
    )
    try:
        yield path if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", path], check=True)


def full(nodes: list[Node], scratch: Path, table: Table) -> None:
    """Every stage on a disk with room for a part of what it writes; then with room for all."""
    for node in nodes:
        sizes = [path.stat().st_size for path in node.out.rglob("*") if path.is_file()]
        room = max(sum(sizes) // 2 - 8192, 8192)
        with small_disk(scratch / "disk", "256m") as disk:
            if disk is None:
                return
            ballast = disk / "ballast"
            free = shutil.disk_usage(disk).free
            with ballast.open("wb") as file:
                file.write(bytes(free - room))
            out = disk / "out"
            asked = command(node, out, scratch)
            done = finish(asked)
            problem = one_line(done, "No space left", "free some") if done.returncode else "did not notice"
            table.add("disk full", f"{node.name}: {problem}" if problem else "")
            ballast.unlink()
            done = finish(asked)
            table.add("gone on with room", same(out, node) if not done.returncode else done.stderr[-300:])


def unwritable(nodes: list[Node], scratch: Path, table: Table) -> None:
    """Every stage into a directory that cannot be written, and ``digiq run`` as well."""
    with small_disk(scratch / "disk", "1m") as disk:
        if disk is None:
            return
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        asked = [command(node, disk / "out", scratch) for node in nodes]
        for each in (*asked, [*DIGIQ, "run", str(RECIPE), "--output", str(disk)]):
            problem = one_line(finish(each), str(disk), "Read-only")
            table.add("read-only directory", f"{each[len(DIGIQ)]}: {problem}" if problem else "")


def together(nodes: list[Node], scratch: Path, table: Table) -> None:
    """A stage started twice at once: one finishes, the other is told; and beside a lock that nobody holds."""
    for node in nodes:
        out = scratch / "twice"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / ".lock").write_text("")
        asked = command(node, out, scratch)
        first = subprocess.Popen(
            asked, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (out / "manifest.json").exists() and first.poll() is None:
            time.sleep(0.02)
        second = finish(asked)
        problem = ""
        if second.returncode:
            problem = one_line(second, str(out), "another process is writing it")
        first.wait()
        table.add("two at once", problem or same(out, node))
