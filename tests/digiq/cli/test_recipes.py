"""Recipes are found by name, wherever one stands."""

from pathlib import Path

import pytest

from digiq import cli
from digiq.cli.recipes import found
from digiq.errors import ConfigError


def test_all_are_listed_and_each_is_printed_as_it_is(capsys):
    cli.main(["recipes"])
    out = capsys.readouterr().out
    names = {
        path.relative_to("configs").with_suffix("").as_posix() for path in Path("configs").rglob("*.yaml")
    }
    assert all(any(line.split()[:1] == [name] for line in out.splitlines()) for name in names)
    cli.main(["recipes", "quickstart"])
    assert capsys.readouterr().out == Path("configs/quickstart.yaml").read_text(encoding="utf-8")


def test_a_name_is_a_recipe_and_a_path_is_itself(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    assert found(str(file)) == file
    monkeypatch.chdir(tmp_path)
    assert found("study/core").is_file()
    with pytest.raises(
        ConfigError, match=r"quikstart: neither a file nor a recipe .* Did you mean 'quickstart'\?"
    ):
        found("quikstart")
