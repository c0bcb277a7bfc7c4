"""DeepMind's package has the same import name: whichever shadows the other, the error says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def last_line(code: str, *path: Path) -> str:
    """What Python says last, with these folders first on its path."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, cwd=path[0]
    )
    return (ran.stderr or ran.stdout).strip().splitlines()[-1]


def test_digiq_says_whose_package_shadows_its_own(tmp_path):
    file = tmp_path / "android_env" / "__init__.py"
    file.parent.mkdir()
    file.write_text("")
    error = last_line("import digiq.config", tmp_path, ROOT)
    assert error.startswith(f"ImportError: 'android_env' is {file}, not DigiQ's")
    assert "DeepMind's" in error and "HTTP server" in error and "docs/android_env.md" in error


@pytest.mark.parametrize(
    "line",
    [
        "import android_env.components",
        "from android_env import loader",
        "from android_env.components.action_type import ActionType",
        "import importlib; importlib.import_module('android_env.proto.state_pb2')",
    ],
)
def test_our_package_says_that_it_shadows_deepminds(line):
    error = last_line(line, ROOT)
    assert error.startswith("ImportError: 'android_env.") and "DeepMind's" in error
    assert str(ROOT / "android_env" / "__init__.py") in error and "docs/android_env.md" in error


def test_other_modules_are_missed_as_ever():
    assert last_line("import android_env.nothing", ROOT).startswith("ModuleNotFoundError: No module named")
    assert last_line("from android_env import nothing", ROOT).startswith("ImportError: cannot import name")
    assert last_line("import android_env.env, digiq; print('both')", ROOT) == "both"
