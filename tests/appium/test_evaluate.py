"""`digiq evaluate` with a learned policy on a real browser: every episode recorded, and killed runs go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from digiq import artifacts
from digiq.agents.build import AgentConfig, DeviceConfig
from digiq.config import load_yaml
from digiq.evaluation import evaluate
from digiq.policies.grid import Grid
from tests.appium.conftest import gone, group

CONFIG = "configs/evaluate_miniwob.yaml"


@pytest.fixture(scope="module")
def policy(installed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "policy"
    with artifacts.write(
        folder, stage="fit-policy", version=1, config=Grid(), inputs={}, overwrite=False
    ) as w:
        Grid().create(seed=0).save(w.path)
        w.complete(counts={})
    return folder


def records_of(out: Path) -> list[dict]:
    folders = sorted((out / "records").iterdir())
    records = [json.loads((folder / "record.json").read_text()) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        assert record["screen_hw"] == [320, 192] and record["steps"] and record["outcome"]
        assert len(list(folder.glob("*.png"))) == len(record["steps"]) + 1
        for step in record["steps"]:
            assert step["activity"].startswith("chromium/")
            assert step["report"]["sent"] in ("executed", "nothing")
            if step["report"]["sent"] == "executed":
                assert step["report"]["polls"] >= 1 and step["report"]["act_s"] > 0
    return records


def test_a_grid_policy_runs_unchanged(policy, tmp_path):
    config = load_yaml(evaluate.EvaluateConfig, CONFIG)
    small = evaluate.EvaluateConfig(
        tasks=config.tasks, device=config.device, episodes=3, records=3, batch_size=2
    )
    assert config.records >= config.episodes and small.device == DeviceConfig(name="chromium")
    found = evaluate.run(small, policy=policy, out=tmp_path / "out")
    assert found.manifest.counts["episodes"] == 3 and not found.manifest.counts["infra_error"]
    assert len(records_of(tmp_path / "out")) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="strip"') == 3 and page.count("data:image/png") > 6


def servers_of(pid: int) -> list[int]:
    """The processes that a process has started as leaders of groups of their own."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _, parent, leader = entry.read_text().rpartition(")")[2].split()[:3]
            if int(parent) == pid and leader == entry.parent.name:
                found.append(int(leader))
    return found


def until(holds, cap_s=240.0) -> bool:
    end = time.monotonic() + cap_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


@pytest.fixture
def scratch():
    """A folder for what a killed run leaves, of a path short enough for browsers."""
    with tempfile.TemporaryDirectory(prefix="killed-", ignore_cleanup_errors=True) as folder:
        yield folder


def test_a_killed_evaluation_leaves_no_browser_and_goes_on(policy, tmp_path, scratch):
    out = tmp_path / "out"
    lines = lambda: (out / "episodes.jsonl").read_text().splitlines(True)  # noqa: E731
    command = [
        sys.executable,
        "-m",
        "digiq.cli",
        "evaluate",
        CONFIG,
        "--policy",
        str(policy),
        "--out",
        str(out),
    ]
    command += ["--episodes", "3", "--records", "3", "--batch-size", "1"]
    with (tmp_path / "said").open("wb") as said:
        killed = subprocess.Popen(command, env={**os.environ, "TMPDIR": scratch}, stdout=said, stderr=said)
    assert until(
        lambda: ((out / "episodes.jsonl").is_file() and len(lines()) >= 1) or killed.poll() is not None
    )
    assert killed.poll() is None, (tmp_path / "said").read_text()
    (leader,) = servers_of(killed.pid)
    assert len(group(leader)) > 3
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert gone(leader), "the server and its browsers end with the run"
    before = [line for line in lines() if line.endswith("\n")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = lines()
    assert len(after) == 3 > len(before) >= 1 and after[: len(before)] == before
    results = evaluate.read_results(out / "episodes.jsonl")
    assert len({result.episode_id for result in results}) == 3
    assert not any(result.outcome.is_fault for result in results)
    outcomes = {result.episode_id: str(result.outcome) for result in results}
    assert {record["episode_id"]: record["outcome"] for record in records_of(out)} == outcomes


def test_scripted_players_run_there_too(installed, tmp_path):
    config = evaluate.EvaluateConfig(
        tasks="miniwob/test",
        device=DeviceConfig(name="chromium"),
        agent=AgentConfig(kind="oracle"),
        episodes=2,
        batch_size=1,
    )
    found = evaluate.run(config, out=tmp_path / "out")
    assert found.manifest.counts["success"] == 2
