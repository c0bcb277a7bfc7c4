"""``digiq init``: writes a recipe for the user's own logs, from flags or by asking questions."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import tyro

from digiq.errors import ConfigError

HELP = """usage: digiq init RECIPE.yaml [--logs DIR] [options]

Writes a recipe that imports logs of your own, learns Q on them and ranks the held-out episodes' actions. On a
terminal it asks for what is not given; elsewhere it uses defaults.

  digiq init mine.yaml
  digiq init mine.yaml --logs recordings/ --vlm models/Qwen2.5-VL-3B-Instruct
  digiq run mine.yaml"""

_REWARDS = {
    "outcome": "the log says whether an episode succeeded",
    "other_goals": "every episode succeeded; failures are episodes shown under another goal",
}


@dataclasses.dataclass(frozen=True)
class InitOptions:
    """Writes a recipe for logs of your own."""

    recipe: tyro.conf.Positional[Path]
    """The YAML file to write."""
    logs: Path | None = None
    """Folder or file of recordings."""
    format: str = ""
    """Format of the recordings; empty: detected from the files."""
    rewards: str = ""
    """`outcome` if the logs say how episodes ended, `other_goals` if all episodes succeeded."""
    vlm: Path | None = None
    """A Hugging Face image-text-to-text directory; if not given, the embedded tiny model."""
    candidates: int | None = None
    """Candidate actions per state."""
    heldout: str = ""
    """Split of the logs whose actions are ranked at the end; empty: none, and `digiq diagnose` evaluates the critic."""
    overwrite: bool = False
    """Replace an existing file."""


def main(arguments: list[str]) -> None:
    """Runs ``digiq init RECIPE.yaml``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    from digiq.cli.stage import parse

    options = parse(InitOptions, arguments, program="digiq init")
    if options.recipe.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{options.recipe}: name a file that ends in .yaml.")
    if options.recipe.exists() and not options.overwrite:
        raise ConfigError(f"{options.recipe}: already exists; add --overwrite, or name another file.")
    if sys.stdin.isatty() and sys.stdout.isatty():
        options = asked(options)
    text = recipe(options)
    check(options.recipe, text)
    options.recipe.parent.mkdir(parents=True, exist_ok=True)
    options.recipe.write_text(text, encoding="utf-8")
    print(f"{options.recipe}: written. Next: digiq run {options.recipe}", file=sys.stderr)


def asked(options: InitOptions) -> InitOptions:
    """Asks for settings that the flags left open; an empty answer takes the default shown in brackets."""

    def ask(question: str, default: str) -> str:
        return input(f"{question} [{default}]: ").strip() or default

    logs = options.logs or Path(ask("Folder of your recordings", "recordings"))
    rewards = options.rewards
    if not rewards:
        for name, about in _REWARDS.items():
            print(f"  {name}: {about}")
        rewards = ask("Where do rewards come from", "outcome")
    vlm = options.vlm
    if vlm is None and (said := ask("Directory of a VLM; empty for the embedded tiny one", "")):
        vlm = Path(said)
    candidates = options.candidates
    if candidates is None:
        said = ask("Candidate actions per state", "8")
        if not said.isdigit():
            raise ConfigError(f"candidates is '{said}'; use a whole number.")
        candidates = int(said)
    return dataclasses.replace(options, logs=logs, rewards=rewards, vlm=vlm, candidates=candidates)


def recipe(options: InitOptions) -> str:
    """The recipe as YAML, with comments on the fields that people change.

    Raises:
      ConfigError: there are no logs, their format is unknown, or the source of rewards needs more than a name.
    """
    from digiq.data.importers import IMPORTERS
    from digiq.data.importers.files import format_of

    if options.logs is None:
        raise ConfigError("digiq init: name the folder of your recordings with --logs.")
    if not options.logs.exists():
        raise ConfigError(f"{options.logs}: no such file or folder; name your recordings with --logs.")
    found = options.format or format_of(options.logs)
    if found is None:
        raise ConfigError(
            f"{options.logs}: its format is not recognised; give --format, one of {', '.join(IMPORTERS)}, or write "
            "JSON lines (docs/data_formats.md shows how in twenty lines)."
        )
    if found not in IMPORTERS:
        raise ConfigError(f"--format {found}: unknown format; use one of {', '.join(IMPORTERS)}.")
    rewards = options.rewards or "outcome"
    if rewards not in _REWARDS:
        raise ConfigError(
            f"--rewards {rewards}: use one of {', '.join(_REWARDS)}; docs/labels.md has the others."
        )
    quoted = json.dumps  # a JSON string is a YAML string
    lines = [
        f"# Q on your own recordings ({found}). 'digiq run FILE --help' says what else can be set:",
        f"#   digiq run {options.recipe}",
        f"name: {quoted(options.recipe.stem)}",
        "episodes:",
        f"  format: {found}",
        f"  {found}: {{source: {quoted(str(options.logs))}}}",
        "label:",
        f"  source: {rewards}  # {_REWARDS[rewards]}",
        "propose:",
        "  # From a policy fitted to the logs; docs/candidates.md has others, such as your agent's own candidates.",
        f"  num_candidates: {options.candidates or 8}",
    ]
    if options.vlm is not None:
        lines += [f"vlm: {quoted(str(options.vlm))}", "featurize: {engine: shared, grounding: text}"]
    lines += [
        "train_q: {critic: {epochs: 20}}",
        "distill:",
        "  digiq: {objective: best_of_n}",
    ]
    if options.heldout:
        lines.append(f"rank: {{split: {quoted(options.heldout)}}}  # where logged actions of this split rank")
    return "\n".join(lines) + "\n"


def check(path: Path, text: str) -> None:
    """Refuses a recipe that could not be read, before it is written."""
    import yaml

    from digiq.config import load
    from digiq.pipeline.plan import plan
    from digiq.pipeline.recipe import Recipe

    plan(load(Recipe, yaml.safe_load(text), where=str(path)))
