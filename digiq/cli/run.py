"""``digiq run``: runs a whole recipe; any field can be overridden on the command line."""

from __future__ import annotations

import os
from typing import Any

from digiq.errors import ConfigError

HELP = """usage: digiq run RECIPE [--overwrite] [--device cpu|cuda|cuda:1|tpu] [--FIELD VALUE ...]

Runs every stage of a recipe that is not complete yet, each in a process of its own, and ends with a table and a
report. Kill it whenever you like; the same command goes on. A recipe is a YAML file, or the name of one that comes with
DigiQ ('digiq recipes' lists them).

  digiq run quickstart
  digiq run quickstart --seed 7 --name other
  digiq run quickstart --vlm DIR --device cuda   every stage there; --featurize.device overrides one
  digiq run mine.yaml
  digiq run quickstart --help       what people change, with this recipe's values
  digiq run quickstart --help-all   every field, by stage"""

COMMON = (
    "name",
    "output",
    "seed",
    "vlm",
    "episodes.format",
    "episodes.aitw.source",
    "demonstrations.num_episodes",
    "fit_policy.fit.updates",
    "collect.tasks",
    "collect.num_episodes",
    "label.source",
    "propose.num_candidates",
    "propose.policy.temperature",
    "tune_vlm.max_examples",
    "featurize.layers",
    "featurize.dtype",
    "featurize.device",
    "featurize.batch_size",
    "train_q.critic.objective",
    "train_q.critic.gamma",
    "train_q.critic.epochs",
    "train_q.critic.batch_size",
    "evaluate.tasks",
    "evaluate.episodes",
)
"""The fields that ``--help`` shows, if the recipe has their sections."""


def main(arguments: list[str]) -> None:
    """Parses ``RECIPE [--overwrite] [--field value ...]`` and runs it."""
    if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
        print(HELP)
        return
    if arguments[0].startswith("-"):
        raise ConfigError(f"digiq run: the recipe comes first, then options; got '{arguments[0]}'.")
    from digiq.cli.recipes import found
    from digiq.cli.stage import parse
    from digiq.config import load_yaml
    from digiq.pipeline import run
    from digiq.pipeline.device import place, take_option
    from digiq.pipeline.recipe import Recipe

    recipe = load_yaml(Recipe, found(arguments[0]))
    if "--help" in arguments or "-h" in arguments:
        print(common_help(recipe, arguments[0]))
        return
    device, rest = take_option(arguments[1:])
    if device is not None:
        said = tuple(a[2:].partition("=")[0].replace("-", "_") for a in rest if a.startswith("--"))
        recipe, environment = place(recipe, device, said)
        os.environ.update(environment)
    rest = ["--help" if a == "--help-all" else a for a in rest if a != "--overwrite"]
    recipe = parse(Recipe, rest, default=recipe, program=f"digiq run {arguments[0]}", switches=True)
    run.run(recipe, overwrite="--overwrite" in arguments)


def common_help(recipe: Any, file: str) -> str:
    """The fields of a recipe that people change, with their values."""
    lines = [f"usage: digiq run {file} [--overwrite] [--FIELD VALUE ...]", ""]
    for path in COMMON:
        owner, (*sections, name) = recipe, path.split(".")
        for section in sections:
            owner = getattr(owner, section, None)
        if owner is None or not hasattr(owner, name):
            continue
        value, about = getattr(owner, name), _about(type(owner), name)
        lines += [f"  --{path.replace('_', '-')}  (here: {value})", f"      {about}"]
    return "\n".join([*lines, "", f"digiq run {file} --help-all shows every field, by stage."])


def _about(cls: Any, name: str) -> str:
    """The first sentence of a config class's documentation of a field."""
    field = cls.__pydantic_fields__[name]
    said = field.description or next(
        (m.documentation for m in field.metadata if hasattr(m, "documentation")), ""
    )
    first, dot, _ = " ".join(said.split()).replace("``", "").partition(". ")
    return first + ("." if dot else "")
