"""One switch moves every stage; what says otherwise stays."""

import os
import types

import pytest

from digiq.cli import run as command
from digiq.config import load_yaml
from digiq.errors import ConfigError
from digiq.pipeline import device as switch
from digiq.pipeline.device import place, take_option
from digiq.pipeline.recipe import Recipe


@pytest.fixture
def recipe() -> Recipe:
    return load_yaml(Recipe, "configs/quickstart.yaml")


@pytest.fixture
def wheels(monkeypatch):
    monkeypatch.setattr(switch.importlib.util, "find_spec", lambda name: types.SimpleNamespace())


def test_every_stage_of_torch_and_jax_moves(recipe, wheels):
    moved, environment = place(recipe, "cuda:1")
    assert moved.tune_vlm and (moved.featurize.device, moved.tune_vlm.device) == ("cuda", "cuda")
    assert environment == {"JAX_PLATFORMS": "cuda,cpu", "CUDA_VISIBLE_DEVICES": "1"}
    stayed, environment = place(recipe, "cpu")
    assert stayed == recipe and environment == {"JAX_PLATFORMS": "cpu"}


def test_a_stages_own_field_stays(wheels):
    recipe = load_yaml(Recipe, "configs/quickstart.yaml")
    moved, _ = place(recipe, "cuda", said=("featurize.device",))
    assert moved.tune_vlm and (moved.featurize.device, moved.tune_vlm.device) == ("cpu", "cuda")
    again, _ = place(moved, "cpu")
    assert again.tune_vlm and again.tune_vlm.device == "cuda"


def test_what_cannot_be_is_refused_with_what_to_do(recipe, wheels, monkeypatch):
    with pytest.raises(ConfigError, match="--device gpu: unknown; use cpu, cuda"):
        place(recipe, "gpu")
    with pytest.raises(ConfigError, match=r"tune_vlm runs on torch.*--tune-vlm\.device cpu"):
        place(recipe, "tpu")
    stayed, environment = place(recipe, "tpu", said=("tune_vlm.device", "featurize.device"))
    assert stayed == recipe and environment == {"JAX_PLATFORMS": "tpu,cpu"}
    monkeypatch.setattr(switch.importlib.util, "find_spec", lambda name: None)
    for name in ("cuda", "tpu"):
        with pytest.raises(ConfigError, match=f"no {name.upper()} wheel here.*docs/install.md"):
            place(recipe, name)


def test_the_command_line_passes_it_on(wheels, monkeypatch):
    assert take_option(["--device", "cuda", "--seed", "3"]) == ("cuda", ["--seed", "3"])
    assert take_option(["--device=cpu"]) == ("cpu", []) and take_option(["--seed"]) == (None, ["--seed"])
    ran = []
    monkeypatch.setattr("digiq.pipeline.run.run", lambda recipe, overwrite: ran.append(recipe))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    command.main(["configs/quickstart.yaml", "--device", "cuda", "--featurize.device", "cpu", "--seed", "3"])
    (recipe,) = ran
    assert (recipe.featurize.device, recipe.tune_vlm.device, recipe.seed) == ("cpu", "cuda", 3)
    assert os.environ["JAX_PLATFORMS"] == "cuda,cpu"
