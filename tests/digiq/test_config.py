"""Configs: unknown keys name the nearest one, values are checked, YAML errors name the file."""

from typing import Annotated

import pytest
from pydantic import Field

from digiq.config import configclass, load, load_yaml, to_dict
from digiq.errors import ConfigError


@configclass
class Inner:
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.95


@configclass
class Outer:
    critic: Inner = Inner()
    extra: Inner | None = None
    steps: int = 10


def test_nested_values_and_defaults():
    config = load(Outer, {"critic": {"gamma": 0.5}, "extra": {}})
    assert to_dict(config) == {"critic": {"gamma": 0.5}, "extra": {"gamma": 0.95}, "steps": 10}
    assert load(Outer, to_dict(config)) == config


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"critic": {"gama": 1}}, r"f.yaml: unknown key 'critic.gama'; did you mean 'critic.gamma'\?"),
        ({"extra": {"zzz": 1}}, r"unknown key 'extra.zzz'; known keys: gamma"),
        ({"stepz": 3}, r"unknown key 'stepz'; did you mean 'steps'\?"),
        ({"critic": {"gamma": 1.5}}, r"critic.gamma = 1.5: input should be less than 1"),
        ({"steps": "many"}, r"steps = 'many'"),
        ([1], "expected a mapping"),
    ],
)
def test_refusals(mapping, message):
    with pytest.raises(ConfigError, match=message):
        load(Outer, mapping, where="f.yaml")


def test_yaml_files(tmp_path):
    file = tmp_path / "quickstart.yaml"
    file.write_text("critic: {gamma: 0.9}\n")
    assert load_yaml(Outer, file).critic.gamma == 0.9
    with pytest.raises(ConfigError, match=r"Did you mean .*quickstart.yaml"):
        load_yaml(Outer, tmp_path / "quikstart.yaml")
    file.write_text("critic: {gamma: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(Outer, file)
