"""Every command has help that opens and says what its inputs are; a recipe's is short enough to read."""

import dataclasses
import re

import pytest

from digiq import cli
from digiq.cli.run import COMMON
from digiq.cli.stage import _options
from digiq.config import load, load_yaml
from digiq.pipeline.recipe import Recipe
from digiq.pipeline.stages import STAGES


def help_of(*arguments: str, capsys) -> str:
    try:
        cli.main(arguments)
    except SystemExit as stop:
        assert not stop.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [*STAGES, "run", "study", "devices"])
def test_help_opens(command, capsys):
    assert f"digiq {command}" in help_of(command, "--help", capsys=capsys)


@pytest.mark.parametrize("command", [name for name in STAGES if name != "card"])
def test_every_input_is_described(command, capsys):
    out = help_of(command, "--help", capsys=capsys)
    options = _options(STAGES[command].open().run, STAGES[command].about)
    assert "--no-" not in out and ".no-" not in out
    for field in dataclasses.fields(options):
        if field.name != "config":
            (line,) = re.findall(rf"--{field.name.replace('_', '-')}\b[^\n]*\n?[^\n]*", out)[:1]
            words = re.sub(r"--\S+|\(required\)|\(default: .*?\)|[^A-Za-z ]", " ", line).split()
            assert len([word for word in words if word.islower()]) >= 2, line


def test_choices_are_listed(capsys):
    out = " ".join(help_of("train-q", "--help", capsys=capsys).replace("│", " ").split())
    assert "One of td, mc, nstep, td_lambda, iql, cql, cal_ql" in out


def test_a_switch_is_set_by_its_own_name(tmp_path, capsys):
    from digiq.cli.stage import parse

    recipe = parse(
        Recipe, ["--train-q.critic.standardize", "False"], program="t", default=Recipe(), switches=True
    )
    assert recipe.train_q.critic.standardize is False
    # Alone it is on, also as the last word; and a recipe without options is as its file says.
    alone = parse(Recipe, ["--train-q.data-parallel"], program="t", default=Recipe(), switches=True)
    assert alone.train_q.data_parallel is True
    assert parse(Recipe, [], program="t", default=Recipe(), switches=True) == Recipe()


def test_a_recipes_help_is_what_people_change(capsys):
    out = help_of("run", "configs/quickstart.yaml", "--help", capsys=capsys)
    assert 15 <= out.count("  --") <= 24 and len(out.splitlines()) < 60
    assert "--train-q.critic.objective  (here: td)" in out and "--help-all" in out
    every = help_of("run", "configs/quickstart.yaml", "--help-all", capsys=capsys)
    assert "--train-q.critic.gradient-clip" in every and "train_q.critic" in every.replace("-", "_")


def test_what_is_common_is_there():
    sections = {"episodes": {}, "demonstrations": {}, "collect": {}, "evaluate": {}}
    recipe = load(Recipe, sections)
    for path in COMMON:
        owner = recipe
        for part in path.split("."):
            owner = getattr(owner, part)
    assert load_yaml(Recipe, "configs/quickstart.yaml").name == "quickstart"
