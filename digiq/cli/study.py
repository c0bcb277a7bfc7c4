"""``digiq study``: many arms and seeds as one graph, their records and a page made from them; ``digiq card``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from digiq.cli.following import say_next
from digiq.errors import ConfigError

HELP = """usage: digiq study STUDY.yaml [options]

Runs every cell (an arm under a seed) that has no record yet, sharing stages between cells, and writes the page. Kill
it whenever you like; the same command goes on.

  digiq study configs/study/worth.yaml --plan          what would run, and what it costs
  digiq study configs/study/worth.yaml --seeds 100     try it out on a tuning seed; nothing is reported
  digiq study configs/study/worth.yaml --tune          the search for settings, on tuning seeds and tasks
  digiq study configs/study/worth.yaml --register      write the digests of kernel, grid and analysis
  digiq study configs/study/worth.yaml                 the reported seeds, once registered and committed
  digiq study configs/study/worth.yaml --seeds 30      one of them in full, with its share of the sweeps
  digiq study configs/study/worth.yaml --page          only the page, from the records"""


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    """Runs a study, or shows what would run."""

    plan: bool = False
    """Only show what would run, and its estimated cost."""
    tune: bool = False
    """Run the trials of the section ``tuning`` instead, and print their success."""
    register: bool = False
    """Only write the digests of kernel, grid and analysis into the file."""
    page: bool = False
    """Only write the page anew from the records."""
    seeds: tuple[int, ...] = ()
    """Seeds to run instead of the file's; tuning seeds (100 and above) need no registration."""
    arms: tuple[str, ...] = ()
    """Run only these arms."""
    jobs: int | None = None
    """Stages that run at the same time; by default as the file says."""


def main(arguments: list[str]) -> None:
    """Parses ``STUDY.yaml [options]`` and carries it out."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    if arguments[0].startswith("-"):
        raise ConfigError(f"digiq study: the study comes first, then options; got '{arguments[0]}'.")
    from digiq.cli.recipes import found
    from digiq.cli.stage import parse
    from digiq.config import load_yaml
    from digiq.studies import run as studies
    from digiq.studies.config import StudyConfig
    from digiq.studies.page import print_trials, write_page
    from digiq.studies.records import read_records

    path = found(arguments[0])
    config = load_yaml(StudyConfig, path)
    options = parse(StudyOptions, arguments[1:], program=f"digiq study {path}")
    if options.register:
        studies.register(path)
        print(f"{path}: digests written; commit the file before the reported seeds run.", file=sys.stderr)
        say_next("study --register", study=path)
        return
    if options.tune:
        cells, folder = studies.make_trials(config), config.output / "tuning"
    else:
        seeds = options.seeds or config.seeds
        cells = studies.make_cells(config, seeds, options.arms)
        folder = studies.records_folder(config, seeds)
    if options.plan:
        if print_plan(config, cells, folder, options.jobs or config.jobs):
            rest = [argument for argument in arguments[1:] if argument != "--plan"]
            say_next("study --plan", study=path, options="".join(f" {argument}" for argument in rest))
        return
    if not options.page:
        studies.run(config, cells, folder, jobs=options.jobs)
    if options.tune:
        print_trials(read_records(folder))
        say_next("study --tune", study=path)
        return
    page = write_page(config, read_records(folder), folder)
    print(f"{page}: written.", file=sys.stderr)
    say_next("study", page=page)


def print_plan(config, cells: Sequence, folder: Path, jobs: int) -> bool:
    """Prints what would run, by kind of stage, with estimated minutes on one core and on ``jobs``; False if nothing."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from digiq.pipeline.estimate import words
    from digiq.studies import run as studies

    waiting = studies.open_cells(cells, folder)
    if not waiting:
        print(
            f"{config.name}: all {len(cells)} records are there, so nothing would run; --page writes the page again."
        )
        return False
    nodes = studies.unique_nodes(waiting)
    stages: dict[str, list[float]] = {}
    for node, seconds in zip(nodes, studies.estimate(nodes), strict=True):
        if not node.is_complete:
            stages.setdefault(node.out.name.rpartition("-")[0], []).append(seconds)
    if not stages:
        print(f"{config.name}: every stage is complete; only records and page are left to write.")
        return True
    table = Table(title=f"{config.name}: {len(waiting)} of {len(cells)} cells to run", box=box.SIMPLE_HEAD)
    for name in ("stage", "times", "minutes on one core"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for name, costs in stages.items():
        table.add_row(name, str(len(costs)), f"{sum(costs) / 60:.1f}")
    total = sum(map(sum, stages.values())) / 60
    table.add_row("all", str(sum(map(len, stages.values()))), f"{total:.1f}")
    console = Console()
    console.print(table)
    wall = total / max(jobs, 1)
    verdict = "within" if wall <= config.minutes else "OVER"
    console.print(
        f"About {words(60 * wall)} with {jobs} stages side by side: {verdict} the budget of {config.minutes:g} min."
    )
    return True


def card(arguments: list[str]) -> None:
    """``digiq card RUN``: computes and prints the data card of a run's directory."""
    from digiq.laboratory import card as stage

    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: digiq card RUN\n\nPrints a data card of the run's offline data: the behaviour policy's success, its "
            "mistakes, how likely it is to\ntake the best action, and how often N candidates hold one.\n\n"
            "  digiq card runs/quickstart"
        )
        return
    root = Path(arguments[0])
    made = stage.run(
        stage.CardConfig(), episodes=root / "episodes", policy=root / "behavior", out=root / "card"
    )
    stage.print_card(stage.read_card(made.path))
