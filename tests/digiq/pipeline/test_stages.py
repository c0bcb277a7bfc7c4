"""The one list of stages: each line is true of its module, and one more line is a command and a section."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from digiq.pipeline.recipe import Recipe
from digiq.pipeline.stages import STAGES

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("command", STAGES)
def test_a_stage_is_what_its_line_says(command):
    stage = STAGES[command]
    module = stage.open()
    assert command == module.STAGE and isinstance(module.VERSION, int)
    parameters = inspect.signature(module.run).parameters
    assert {"config", "out", "overwrite"} <= set(parameters)
    assert set(stage.reads) <= set(parameters)
    # What it cannot do without, its line says; or its config does, or it has no place in recipes.
    needed = {
        name
        for name, p in parameters.items()
        if p.default is inspect.Parameter.empty and name not in ("config", "out")
    }
    by_hand = command in ("diagnose", "select", "make-tiny-vlm")
    assert by_hand or needed <= {*stage.reads, *getattr(stage.config(), "reads", ())}
    if stage.section:
        assert getattr(Recipe(), stage.section) is None


FOLLOWED = """
import sys
from digiq.agents.collect import CollectConfig, run
from digiq.cli import main
from digiq.config import load
from digiq.pipeline.plan import plan
from digiq.pipeline.recipe import Recipe
from pathlib import Path

out = Path(sys.argv[1])
collector = {"agent": {"kind": "collector"}, "num_episodes": 4}
run(load(CollectConfig, collector), out=out / "episodes")
main(["count", "--episodes", str(out / "episodes"), "--out", str(out / "count")])
recipe = load(Recipe, {"name": "r", "output": out, "demonstrations": collector, "collect": collector, "count": {"split": "test"}})
(node,) = [node for node in plan(recipe) if node.name == "count"]
print(node.config.split, node.inputs["episodes"].name)
"""


def test_the_contributors_guide_to_stages_works_as_it_stands(tmp_path):
    """Its file and its line, added to a copy of the package, are a command and a section of recipes."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if '"count", 1' in block
    )
    (line,) = re.findall(r"^`(\"count\": Stage\(.*)`\.$", guide, re.MULTILINE)
    shutil.copytree(
        ROOT / "digiq", tmp_path / "digiq", ignore=shutil.ignore_patterns("weights", "__pycache__")
    )
    (tmp_path / "digiq" / "counting.py").write_text(example)
    table = tmp_path / "digiq" / "pipeline" / "stages.py"
    opening = "STAGES: Mapping[str, Stage] = {\n"
    assert table.read_text().count(opening) == 1
    table.write_text(table.read_text().replace(opening, f"{opening}    {line}\n"))
    done = subprocess.run(
        [sys.executable, "-c", FOLLOWED, str(tmp_path / "out")],
        capture_output=True, text=True, cwd=tmp_path, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "complete. episodes 4" in done.stderr
    assert done.stdout.split() == ["test", "episodes"]
