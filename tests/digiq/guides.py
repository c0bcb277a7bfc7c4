"""The examples of CONTRIBUTING.md, taken as they stand: as members of one's own, and as a file and a line more."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def example(word: str) -> str:
    """The one example in which this stands."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (code,) = (textwrap.dedent(block) for block in blocks if word in block)
    return code


def import_example(module: str, word: str) -> types.ModuleType:
    """The example as a module of that name, as if it were one's own."""
    made = types.ModuleType(module)
    made.__file__ = str(ROOT / "CONTRIBUTING.md")
    sys.modules[module] = made
    exec(example(word), vars(made))
    return made


def follow(package: str, table: str, word: str, script: str, folder: Path, *arguments: object) -> str:
    """What a script, with ``arguments``, prints after the example and its line were added to a copy of a table's package."""
    ((file, line),) = re.findall(
        rf"Write `{package.replace('.', '/')}/(\w+)\.py`.*?Add its line (?:to|at the end of) `{table}`[^:]*: `(.*?)`\.",
        GUIDE,
        re.DOTALL,
    )
    copy = folder / package.rpartition(".")[2]
    shutil.copytree(ROOT / package.replace(".", "/"), copy)
    (copy / f"{file}.py").write_text(example(word))
    lines = (copy / "__init__.py").read_text().splitlines()
    start = next(n for n, text in enumerate(lines) if text.startswith(f"{table} = "))
    end = next(n for n in range(start, len(lines)) if lines[n] == ")")
    (copy / "__init__.py").write_text("\n".join([*lines[:end], f"    {line}", *lines[end:]]) + "\n")
    parent = package.rpartition(".")[0]
    start_up = f"import {parent}; {parent}.__path__.insert(0, {str(folder)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", start_up + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def identity(config: object) -> str:
    """What an artefact with this config is called by."""
    from digiq.artifacts import Manifest
    from digiq.config import to_dict

    return Manifest(stage="any", version=1, config=to_dict(config), inputs={}, state="partial").identity
