"""What needs a package that is not there says so before it does anything."""

import importlib.util

import pytest

from digiq import cli, extras
from digiq.config import load_yaml
from digiq.errors import DigiQError
from digiq.pipeline import plan
from digiq.pipeline.recipe import Recipe

STAGES = {
    ("tune-vlm", "--episodes", "e", "--vlm", "v"): "torch",
    ("featurize", "--episodes", "e", "--proposals", "p", "--vlm", "v"): "torch",
    ("make-tiny-vlm",): "torch",
    ("evaluate", "--tasks", "t", "--agent.scorer", "critic"): "torch",
    ("evaluate", "--device.name", "android", "--agent.kind", "random", "--tasks", "t"): "appium",
    ("collect", "--device.name", "chromium", "--agent.kind", "oracle", "--tasks", "t"): "appium",
}


@pytest.fixture
def bare(monkeypatch):
    """The core alone."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in extras.EXTRAS else find(name)
    )


@pytest.mark.parametrize(("command", "package"), list(STAGES.items()))
def test_a_stage_names_the_extra(bare, command, package, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--out", str(tmp_path / "o")])
    assert stop.value.code == 2 and not (tmp_path / "o").exists()
    extra = extras.EXTRAS[package]
    assert (
        f"needs the package '{package}', which 'pip install digiq[{extra}]' installs"
        in capsys.readouterr().err
    )


def test_a_recipe_names_the_extra_before_its_first_stage(bare, monkeypatch):
    recipe = load_yaml(Recipe, "configs/quickstart.yaml")
    with pytest.raises(DigiQError, match=r"'tune-vlm' needs the package 'torch', .*digiq\[vlm\]"):
        plan.preflight(recipe, plan.plan(recipe))
