"""Builds the wheel and tries it as a new user would, in clean environments, from an empty directory.

  python tools/check_wheel.py [FOLDER]

For each Python from 3.11 to 3.13 on this machine: the core alone, with the docs' array example and every command that
needs an extra. For one of them with ``[vlm]``: the quickstart, cut down to its bones. Environments are made in FOLDER (a
temporary one by default).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
TORCH = re.search(r"(?m)^TORCH := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"))

NEEDS = {
    ("run", "quickstart"): "vlm",
    ("tune-vlm", "--episodes", "e", "--vlm", "v", "--out", "o"): "vlm",
    ("featurize", "--episodes", "e", "--proposals", "p", "--vlm", "v", "--out", "o"): "vlm",
    ("make-tiny-vlm", "--out", "o"): "vlm",
    (
        "evaluate",
        "--device.name",
        "chromium",
        "--agent.kind",
        "oracle",
        "--tasks",
        "miniwob",
        "--out",
        "o",
    ): "appium",
    (
        "evaluate",
        "--device.name",
        "android",
        "--agent.kind",
        "random",
        "--tasks",
        "t",
        "--out",
        "o",
    ): "appium",
}
"""Commands that the core alone cannot do, and the extra that they must name."""

SHORT = """
--name short --demonstrations.num-episodes 12 --collect.agent.kind collector --collect.num-episodes 24 --fit-policy.fit.updates 4
--propose.num-candidates 2 --tune-vlm.max-examples 32 --tune-vlm.max-heldout 8 --train-q.critic.epochs 2
--evaluate.episodes 2
""".split()


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).absolute()
        wheel = build(folder)
        pythons = dict(found())
        print(
            f"Pythons: {', '.join(pythons)}; not here: {', '.join({*VERSIONS} - {*pythons}) or 'none'}",
            flush=True,
        )
        for version, python in pythons.items():
            tools = environment(folder / version, python, str(wheel))
            core(tools, empty(folder / f"{version}-core"))
            print(f"{version}: the core works, and names the extras that it lacks", flush=True)
        # torch comes first and pinned, as in the Makefile.
        last = folder / next(iter(pythons))
        with_vlm(last / "bin", wheel, empty(folder / "vlm"))
        print("[vlm]: the quickstart runs from an empty directory", flush=True)


def build(folder: Path) -> Path:
    """The wheel of this checkout; what an earlier build left does not get into it."""
    shutil.rmtree(ROOT / "build/lib", ignore_errors=True)
    out = empty(folder / "dist")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, ROOT], check=True
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def found() -> Iterator[tuple[str, Path]]:
    """Interpreters on the path, and those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        places = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
        for place in filter(None, places):
            said = subprocess.run([place, "--version"], capture_output=True, text=True)
            if said.returncode == 0 and f"Python {version}." in said.stdout:
                yield version, Path(place)
                break


def environment(where: Path, python: Path, *packages: str) -> Path:
    """A clean virtual environment with these packages; its ``bin``."""
    subprocess.run([python, "-m", "venv", "--clear", where], check=True)
    subprocess.run([where / "bin/pip", "install", "--quiet", *packages], check=True)
    return where / "bin"


def core(tools: Path, cwd: Path) -> None:
    listed = run(tools, cwd, "recipes").stdout
    assert all(name in listed for name in ("quickstart", "aitw_sample", "study/core")), listed
    run(tools, cwd, "--help")
    page = (ROOT / "docs" / "your_logs.md").read_text(encoding="utf-8")
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "fit_critic" in code)
    check = """
assert q.shape == (400, 3) and v.shape == (400,)
assert q[done & success, 0].mean() > q[done & ~success, 0].mean() + 0.5
"""
    subprocess.run([tools / "python", "-c", example + check], cwd=cwd, check=True, env=clean(), timeout=300)
    for command, extra in NEEDS.items():
        done = run(tools, cwd, *command, status=2)
        assert f"pip install digiq[{extra}]" in done.stderr, (command, done.stderr)
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, (command, done.stderr)


def with_vlm(tools: Path, wheel: Path, cwd: Path) -> None:
    assert TORCH is not None
    subprocess.run([tools / "pip", "install", "--quiet", *TORCH[1].split()], check=True)
    subprocess.run([tools / "pip", "install", "--quiet", f"{wheel}[vlm]"], check=True)
    run(tools, cwd, "run", "quickstart", *SHORT)
    assert (cwd / "runs/short/report.html").is_file()
    again = run(tools, cwd, "run", "quickstart", *SHORT)
    assert "nothing to do" in again.stderr, again.stderr


def run(tools: Path, cwd: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [tools / "digiq", *arguments], cwd=cwd, env=clean(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == status, (arguments, done.returncode, done.stderr[-2000:])
    return done


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}


def empty(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


if __name__ == "__main__":
    main()
