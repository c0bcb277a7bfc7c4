"""Notebooks are committed as they were executed, use the public API alone, and fail CI where a cell fails."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 400_000
"""Bytes of a notebook; larger ones are slow to read on the web."""
MACHINE = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|work|usr|opt|var|mnt)/|[A-Z]:\\\\")


def cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def execute_module():
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_four():
    assert [p.stem for p in NOTEBOOKS] == ["01_features", "02_q_learning", "03_best_of_n", "04_evaluation"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed_and_say_nothing_of_the_machine(path):
    assert path.stat().st_size < LARGEST
    assert [cell.execution_count for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    outputs = [output for cell in cells(path) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    for output in outputs:
        text = json.dumps({k: v for k, v in output.get("data", {}).items() if k != "image/png"})
        assert not MACHINE.search(output.get("text", "") + text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_import_no_private_name(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not [part for part in parts if part.startswith("_")]
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), ast.unparse(node)


def notebook(path: Path, *sources: str) -> Path:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(made, path)
    return path


def test_a_cell_that_fails_fails_the_notebook_and_chatter_is_left_out(tmp_path):
    execute = execute_module().execute
    good = execute(
        notebook(tmp_path / "good.ipynb", "import sys\nprint('seen')\nprint('bar', file=sys.stderr)")
    )
    assert [output.text for output in good.cells[0].outputs] == ["seen\n"]
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook(tmp_path / "bad.ipynb", "1 / 0"))
