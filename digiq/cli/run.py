"""``digiq run``: a whole recipe, any field overridden on the command line."""

from __future__ import annotations

from digiq.errors import ConfigError

HELP = """usage: digiq run RECIPE.yaml [--overwrite] [--FIELD VALUE ...]

Runs every stage of a recipe that is not complete yet, each in a process of its own, and ends with a table and a
report. Kill it whenever you like; the same command goes on. 'digiq run RECIPE.yaml --help' lists every field.

  digiq run configs/quickstart.yaml
  digiq run configs/quickstart.yaml --seed 7 --name other
  digiq run configs/aitw_sample.yaml --episodes.source DIR"""


def main(arguments: list[str]) -> None:
    """Parses ``RECIPE.yaml [--overwrite] [--field value ...]`` and runs it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    if arguments[0].startswith("-"):
        raise ConfigError(f"digiq run: the recipe comes first, then options; got '{arguments[0]}'.")
    from digiq.cli.stage import parse
    from digiq.config import load_yaml
    from digiq.pipeline import run
    from digiq.pipeline.recipe import Recipe

    recipe = load_yaml(Recipe, arguments[0])
    rest = [a for a in arguments[1:] if a != "--overwrite"]
    recipe = parse(Recipe, rest, default=recipe, program=f"digiq run {arguments[0]}")
    run.run(recipe, overwrite="--overwrite" in arguments)
