"""``digiq recipes``: lists the recipes that come with the package, and their paths."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from digiq.errors import ConfigError

HELP = """usage: digiq recipes [NAME]

Lists the recipes that come with DigiQ, each with what it is for. With a name, prints that one, to start from:

  digiq recipes quickstart > mine.yaml
  digiq run mine.yaml"""


def main(arguments: list[str]) -> None:
    """Runs ``digiq recipes [NAME]``."""
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(HELP)
        return
    if arguments:
        print(found(arguments[0]).read_text(encoding="utf-8"), end="")
        return
    names = dict(sorted(_shipped()))
    width = max(map(len, names))
    for name, path in names.items():
        print(f"{name:<{width}}  {_about(path)}")
    print("\n'digiq run NAME' runs one ('digiq study' those under study/); 'digiq recipes NAME' prints it.")


def found(argument: str) -> Path:
    """The recipe that ``argument`` names: a path, or the name of a recipe that comes with the package.

    Raises:
      ConfigError: there is neither; the message names the recipe with the most similar name.
    """
    path = Path(argument)
    if path.suffix or path.exists():
        return path
    shipped = dict(_shipped())
    if argument in shipped:
        return shipped[argument]
    near = difflib.get_close_matches(argument, list(shipped), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(
        f"{argument}: neither a file nor a recipe that comes with DigiQ.{hint} 'digiq recipes' lists them."
    )


def _shipped() -> Iterator[tuple[str, Path]]:
    # In a wheel the recipes are inside the package; in a checkout they are beside it.
    package = Path(__file__).parents[1]
    folder = next(f for f in (package / "recipes", package.parent / "configs") if f.is_dir())
    for path in folder.rglob("*.yaml"):
        yield path.relative_to(folder).with_suffix("").as_posix(), path


def _about(path: Path) -> str:
    """The first comment line of a recipe, without a colon at its end."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip().rstrip(":")
