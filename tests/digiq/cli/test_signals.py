"""A command that is asked to end does so with one line and the shell's status; the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from digiq.artifacts import read_manifest

COLLECT = ("collect", "--agent.kind", "collector", "--num-episodes", "{n}", "--seed", "3", "--out")


def start(out, episodes: int) -> subprocess.Popen[str]:
    asked = [word.format(n=episodes) for word in COLLECT]
    return subprocess.Popen(
        [sys.executable, "-m", "digiq.cli", *asked, str(out)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_is_asked_to_end_says_how_to_go_on(tmp_path, how, status):
    process = start(tmp_path / "episodes", 40)
    while not any(tmp_path.glob("episodes/*.unfinished")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    assert said.count("the same command goes on from here") == 1 and "Traceback" not in said
    assert start(tmp_path / "episodes", 40).wait(timeout=200) == 0
    assert start(tmp_path / "undisturbed", 40).wait(timeout=200) == 0
    found, whole = (read_manifest(tmp_path / name) for name in ("episodes", "undisturbed"))
    assert found.counts == whole.counts == whole.counts | {"episodes": 40}
