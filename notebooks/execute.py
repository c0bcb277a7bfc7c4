"""Runs every notebook in this folder on a small finished run, making that run first; fails where a cell fails."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
RUN = HERE.parent / "runs" / "small"


def main() -> None:
    """``python notebooks/execute.py``; the executed copies go to ``runs/notebooks``."""
    if not (RUN / "summary.json").is_file():
        command = [sys.executable, "-m", "digiq.cli", "run", "configs/small.yaml"]
        subprocess.run(command, cwd=HERE.parent, check=True)
    os.environ["DIGIQ_RUN"] = str(RUN.resolve())
    out = HERE.parent / "runs" / "notebooks"
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=170, resources={"metadata": {"path": str(HERE)}}).execute()
        nbformat.write(notebook, out / path.name)
        print(f"{path.name}: every cell ran")


if __name__ == "__main__":
    main()
