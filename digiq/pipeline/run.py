"""``digiq run``: runs one recipe, resumably, with one process per stage."""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from digiq import artifacts
from digiq.config import to_dict
from digiq.errors import DigiQError
from digiq.pipeline.estimate import Remaining, estimate, words
from digiq.pipeline.nodes import Node
from digiq.pipeline.plan import plan, preflight
from digiq.pipeline.recipe import Recipe
from digiq.pipeline.scheduler import run_nodes
from digiq.pipeline.stages import STAGES

RECIPE = "recipe.json"


def run(recipe: Recipe, *, overwrite: bool = False) -> dict[str, float]:
    """Runs the incomplete stages, one process per stage, and writes the summary and the report.

    Args:
      recipe: the recipe of the run.
      overwrite: replace artefacts that another configuration left in the run's directory.

    Returns:
      Seconds by stage, over all attempts.

    Raises:
      DigiQError: the recipe cannot run (raised before anything starts), or a stage failed; finished stages stay.
    """
    nodes = plan(recipe)
    preflight(recipe, nodes)
    recipe.directory.mkdir(parents=True, exist_ok=True)
    artifacts.atomic_write_json(recipe.directory / RECIPE, to_dict(recipe))
    waiting = [node for node in nodes if not node.is_complete] if not overwrite else nodes
    if not waiting:
        print(f"{recipe.directory}: everything is complete; nothing to do.", file=sys.stderr)

    started = itertools.count(len(nodes) - len(waiting) + 1)
    costs = dict(zip((node.name for node in nodes), estimate(nodes), strict=True))
    left = Remaining(waiting, [costs[node.name] for node in waiting])
    about = {stage.module: stage.about for stage in STAGES.values()}

    def announce(node: Node) -> None:
        print(
            f"[{next(started)}/{len(nodes)}] {node.name}: {about[node.module]} (about {words(costs[node.name])}; about "
            f"{words(left.seconds)} left in all)",
            file=sys.stderr,
            flush=True,
        )

    folder = recipe.directory / "nodes"
    running = run_nodes(waiting, folder=folder, overwrite=overwrite, on_start=announce)
    with artifacts.verified_once(folder / "verified"), contextlib.closing(running):
        for node, failure in running:
            if failure:
                raise DigiQError(
                    f"stage '{node.name}' failed ({failure}). Finished work is kept; run the same command again to go on."
                )
            left.ended(node)
    seconds = {node.name: _seconds(node) for node in nodes}
    _conclude(recipe, nodes, seconds, changed=bool(waiting))
    return seconds


def _seconds(node: Node) -> float:
    return float(artifacts.read_manifest(node.out).environment["seconds"])


def _conclude(recipe: Recipe, nodes: list[Node], seconds: Mapping[str, float], *, changed: bool) -> None:
    """Writes summary and report and prints the table; an unchanged run only prints the table again."""
    from digiq.evaluation.summary import print_summary, write_summary
    from digiq.laboratory.truth_section import truth_section
    from digiq.report.run_report import RunArtifacts, write_report

    out = {node.name: node.out for node in nodes}
    evaluations = {name.split("/")[1]: path for name, path in _under(out, "evaluation")}
    if evaluations:
        report = recipe.directory / "report.html"
        summary_file = recipe.directory / "summary.json"
        if changed or not (report.is_file() and summary_file.is_file()):
            started = time.time()
            policies = {name.split("/")[1]: path for name, path in _under(out, "policy")}
            shown = ("behavior", "episodes", "rewards", "proposals", "vlm", "features", "critic")
            run_artifacts = RunArtifacts(
                **{name: out[name] for name in shown if name in out},
                policies=policies,
                evaluations=evaluations,
            )
            write_report(
                run_artifacts,
                report,
                title=f"DigiQ · {recipe.name}",
                seconds=seconds,
                further=(truth_section,),
            )
            write_summary(evaluations, {**seconds, "report": time.time() - started}, summary_file)
        print_summary(json.loads(summary_file.read_text(encoding="utf-8")), report)
        print(f"Look closer: open {report}", file=sys.stderr)
    print(f"Step by step: digiq view {recipe.directory}", file=sys.stderr)
    if recipe.rank is not None:
        from digiq.report.ranking import print_ranking

        print_ranking(out["ranking"])


def _under(paths: Mapping[str, Path], folder: str) -> Iterator[tuple[str, Path]]:
    return ((name, path) for name, path in paths.items() if name.startswith(f"{folder}/"))
