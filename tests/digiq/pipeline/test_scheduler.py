"""Stages in processes: in the order of their inputs, side by side where that is allowed, going on past failures."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from digiq.pipeline.nodes import Node
from digiq.pipeline.scheduler import run_nodes
from tests.digiq.pipeline.test_servers import is_running
from tests.digiq.pipeline.toy_stage import ToyConfig


def toy(
    tmp_path: Path, name: str, *inputs: Path, needs: str = "", tells: str = "", seconds: float = 0.0
) -> Node:
    named = dict(zip(("first", "second"), inputs, strict=False))
    config = ToyConfig(text=name, needs=needs, tells=tells, seconds=seconds)
    return Node(name, "tests.digiq.pipeline.toy_stage", config, named, tmp_path / "store" / name)


@pytest.mark.parametrize("pinned", [False, True])
def test_stages_run_when_their_inputs_are_ready_and_others_go_on_when_one_fails(tmp_path, pinned):
    a = toy(tmp_path, "a")
    b = toy(tmp_path, "b", a.out, needs=str(tmp_path / "needed"))
    c = toy(tmp_path, "c", b.out)
    d = toy(tmp_path, "d", a.out)
    e = toy(tmp_path, "e", a.out, d.out)
    folder = tmp_path / "nodes"
    ended = {n.name: failure for n, failure in run_nodes([a, b, c, d, e], folder=folder, pinned=pinned)}
    assert (e.out / "text").read_text() == "aade"
    assert {name for name, failure in ended.items() if not failure} == {"a", "d", "e"}
    assert ended["c"] == "an earlier stage failed"
    if pinned:
        assert "is not there" in Path(ended["b"].removeprefix("see ")).read_text()
    (tmp_path / "needed").touch()
    left = [n for n in (a, b, c, d, e) if not n.is_complete]
    assert left == [b, c]
    assert [
        n.name for n, failure in run_nodes(left, folder=folder, jobs=1, pinned=pinned) if not failure
    ] == ["b", "c"]
    assert (c.out / "text").read_text() == "abc"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
@pytest.mark.parametrize("light", [False, True])
def test_only_light_stages_run_side_by_side(tmp_path, light):
    nodes = [dataclasses.replace(toy(tmp_path, name, seconds=0.5), one_core=light) for name in "ab"]
    events = []
    for _, failure in run_nodes(
        nodes, folder=tmp_path / "nodes", on_start=lambda n: events.append(f"start {n.name}")
    ):
        assert not failure
        events.append("end")
    beside = ["start a", "start b", "end", "end"]
    assert events == (beside if light else ["start a", "end", "start b", "end"])


def test_leaving_the_loop_ends_what_is_running(tmp_path):
    nodes = [toy(tmp_path, "fails", needs="nowhere"), toy(tmp_path, "slow", seconds=60)]
    running = run_nodes(nodes, folder=tmp_path / "nodes", pinned=True)
    node, failure = next(running)
    assert node.name == "fails" and failure
    running.close()
    assert not nodes[1].is_complete


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("pinned", [False, True])
def test_a_stage_ends_when_its_run_is_killed(tmp_path, pinned):
    started = tmp_path / "pid"
    script = (
        "from pathlib import Path; from digiq.pipeline.scheduler import run_nodes; from tests.digiq.pipeline.toy_stage import ToyConfig; "
        "from tests.digiq.pipeline.test_scheduler import toy; "
        f"nodes = [toy(Path({str(tmp_path)!r}), 'slow', tells={str(started)!r}, seconds=60)]; "
        f"list(run_nodes(nodes, folder=Path({str(tmp_path)!r}) / 'nodes', pinned={pinned}))"
    )
    run = subprocess.Popen([sys.executable, "-c", script])
    while not started.exists():
        time.sleep(0.05)
        assert run.poll() is None
    run.kill()
    run.wait()
    stage, until = int(started.read_text()), time.monotonic() + 20
    while is_running(stage):
        assert time.monotonic() < until, "the stage outlives its run"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_stage_whose_parent_died_before_it_began_to_watch_ends(tmp_path):
    """A process takes seconds to import what it watches with; by then it may have been handed to another parent."""
    from digiq.pipeline.nodes import write_node

    node = toy(tmp_path, "late", tells=str(tmp_path / "pid"), seconds=60)
    write_node(node, tmp_path / "late.json")
    gone = subprocess.Popen(["true"])
    gone.wait()
    command = [sys.executable, "-m", "digiq.cli", "run-node", str(tmp_path / "late.json"), str(gone.pid)]
    stage = subprocess.Popen(command)
    assert stage.wait(timeout=40) == 1
    assert not node.is_complete
