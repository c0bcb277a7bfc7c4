"""The command line as a new user meets it."""

import subprocess
import sys

import pytest

from digiq import cli
from digiq.cli.stage import parse
from digiq.config import load_yaml
from digiq.critics.train import TrainQConfig
from digiq.errors import ConfigError
from digiq.pipeline.recipe import Recipe


def run(*arguments: str, capsys) -> tuple[int, str, str]:
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_overview_and_version(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    assert all(stage in out for stage in cli.STAGES)
    assert run("--version", capsys=capsys)[1].startswith("digiq 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian-q"], "Did you mean 'train-q'?"),
        (["run", "configs/quikstart.yaml"], "Did you mean configs/quickstart.yaml?"),
        (["run", "--seed", "3"], "the recipe comes first"),
        (
            ["train-q", "--features", "f", "--episodes", "e", "--out", "o", "--critic.gamma", "1.5"],
            "gamma = 1.5",
        ),
        (["import-aitw", "--out", "o", "--source", "/nowhere/at/all"], "no such directory"),
        (["import-aitw", "/nowhere/at/all", "--out", "o"], "/nowhere/at/all: no such directory"),
        (["import", "--format", "jsonl", "/nowhere", "--out", "o"], "/nowhere: "),
        (["import", "--format=aitz", "/nowhere", "--on-bad", "skip", "--out", "o"], "/nowhere: "),
        (["import", "--format", "recordings", "/nowhere", "--out", "o"], "'/nowhere' holds no recordings"),
        (["import", "--format", "jsonl", "one", "two", "--out", "o"], "'two': give one place to read from"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_an_unknown_recipe_key_names_the_nearest(tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train_q: {critic: {gama: 0.9}}\n")
    code, _, err = run("run", str(recipe), capsys=capsys)
    assert code == 2
    assert "unknown key 'train_q.critic.gama'; did you mean 'train_q.critic.gamma'?" in err


def test_options_override_the_recipe():
    recipe = load_yaml(Recipe, "configs/quickstart.yaml")
    options = ["--train-q.critic.gamma", "0.9", "--seed", "7", "--evaluate.episodes", "12", "--name", "other"]
    changed = parse(Recipe, options, default=recipe, program="digiq run")
    assert changed.train_q.critic.gamma == 0.9
    assert (changed.seed, changed.name, changed.evaluate.episodes) == (7, "other", 12)
    assert changed.propose == recipe.propose
    with pytest.raises(ConfigError, match="gamma"):
        parse(Recipe, ["--train-q.critic.gamma", "1.5"], default=recipe, program="digiq run")


@pytest.mark.parametrize("package", ["digiq", "android_env"])
def test_importing_a_package_is_light(package):
    heavy = "{'torch', 'transformers', 'jax', 'appium', 'ray', 'gradio', 'tensorflow'}"
    code = f"import sys, {package}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stage_reads_its_config_from_a_file(tmp_path, capsys):
    recipe = tmp_path / "e.yaml"
    recipe.write_text("tasks: webshop/test\nepisodes: 3\nagent: {kind: oracle}\nrecords: 0\n")
    out = tmp_path / "out"
    code, _, err = run("evaluate", str(recipe), "--episodes", "2", "--out", str(out), capsys=capsys)
    assert code == 0 and "episodes 2" in err
    recipe.write_text("episode: 3\n")
    code, _, err = run("evaluate", str(recipe), "--out", str(out), capsys=capsys)
    assert code == 2 and "unknown key 'episode'; did you mean 'episodes'?" in err


@pytest.mark.parametrize(
    "given",
    [["--population.lr", "1e-5,1e-4"], ["--population.lr=1e-5,1e-4"], ["--population.lr", "1e-5", "1e-4"]],
)
def test_a_population_is_written_with_commas(given):
    config = parse(TrainQConfig, ["--population.seeds", "8", *given], program="digiq train-q")
    assert config.population.seeds == 8
    assert config.population.lr == (1e-5, 1e-4)
    assert config.population.size == 16


def test_texts_with_commas_stay_whole():
    config = parse(TrainQConfig, ["--critic.pair-layers", "a,b", "c"], program="digiq train-q")
    assert config.critic.pair_layers == ("a,b", "c")
