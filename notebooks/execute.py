"""Runs every notebook in this folder on a small finished run, making that run first; fails where a cell fails.

``python notebooks/execute.py`` leaves the executed copies in ``runs/notebooks``; with ``--write`` they take the place of the
committed ones, outputs and all. Names, such as ``02_q_learning``, choose notebooks.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
RUN = HERE.parent / "runs" / "small"
LONGEST = 120
"""Seconds that a notebook may take on two cores; CI's are at times half as fast."""


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, and nothing in it that differs between two executions but them.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=2 * LONGEST, record_timing=False, resources={"metadata": {"path": str(HERE)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if (
            cell.cell_type == "code"
        ):  # progress bars and what libraries say of themselves, with paths of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    """``python notebooks/execute.py [--write] [NAME ...]``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="notebooks, without .ipynb; all of them by default")
    parser.add_argument("--write", action="store_true", help="replace the committed notebooks")
    options = parser.parse_args()
    if not (RUN / "summary.json").is_file():
        command = [sys.executable, "-m", "digiq.cli", "run", "configs/small.yaml"]
        subprocess.run(command, cwd=HERE.parent, check=True)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    out = HERE if options.write else HERE.parent / "runs" / "notebooks"
    out.mkdir(parents=True, exist_ok=True)
    for path in [HERE / f"{name}.ipynb" for name in options.names] or sorted(HERE.glob("*.ipynb")):
        start = time.monotonic()
        notebook = execute(path)
        # Line ends and key order as they are committed, so that a change of outputs alone is a small diff.
        (out / path.name).write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(f"{path.name}: every cell ran, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
