"""CONTRIBUTING.md as tests use it: its examples are the toys of the tables' tests, and are followed to the letter."""

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
    """The example of the guide in which this stands."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (code,) = (textwrap.dedent(block) for block in blocks if word in block)
    return code


def import_example(name: str, word: str) -> types.ModuleType:
    """The example as a module of this name, so that ``name:Class`` is a member of one's own."""
    module = types.ModuleType(name)
    module.__file__ = str(ROOT / "CONTRIBUTING.md")
    sys.modules[name] = module
    exec(example(word), vars(module))
    return module


def follow(tmp_path: Path, folder: str, table: str, word: str, code: str, *arguments: str) -> list[str]:
    """Adds the guide's file and line to a copy of ``digiq/FOLDER`` and runs code that finds it there.

    Returns:
      The lines that the code printed.
    """
    (line,) = re.findall(rf"Add its line to `{table}` .*: `(.*)`\.", GUIDE)
    copy = tmp_path / folder
    shutil.copytree(ROOT / "digiq" / folder, copy)
    (copy / f"{line.partition('=')[0]}.py").write_text(example(word))
    source = (copy / "__init__.py").read_text()
    opening = re.findall(rf"^{table} = Table\(\n.*\n    __name__,\n", source, re.MULTILINE)
    assert len(opening) == 1
    (copy / "__init__.py").write_text(source.replace(opening[0], f"{opening[0]}    {line}\n"))
    found = f"import digiq, sys\ndigiq.__path__.insert(0, {str(tmp_path)!r})\n{textwrap.dedent(code)}"
    done = subprocess.run(
        [sys.executable, "-c", found, *arguments], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()
