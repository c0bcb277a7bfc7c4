"""``digiq study``: many recipes as one graph. A cell is one arm under one seed; stages that cells share run once.

Every cell is a recipe (:mod:`digiq.pipeline` plans it): the study's recipe with the arm's differences laid over it.
Each planned stage moves to a directory named after everything that decides it, so equal stages of different cells are
one. Stages run side by side, each in its own process on its own core. On two cores, two processes of one thread are
faster than one of two, and results do not depend on the number of cores. A finished cell leaves a record; a cell with a
record needs no artefacts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from digiq import artifacts
from digiq.agents.build import AgentConfig
from digiq.config import load, load_yaml, to_dict
from digiq.errors import ConfigError, DigiQError
from digiq.pipeline.estimate import estimate
from digiq.pipeline.nodes import Node
from digiq.pipeline.plan import plan, preflight
from digiq.pipeline.recipe import Recipe
from digiq.pipeline.scheduler import run_nodes
from digiq.progress import progress
from digiq.studies.analysis import analysis_digest
from digiq.studies.config import (
    FIRST_TUNING_SEED,
    ArmConfig,
    StudyConfig,
    check_registration,
    kernel_digest,
    overlay,
)
from digiq.studies.records import (
    CellRecord,
    read_records,
    record_cell,
    record_name,
    write_record,
)
from digiq.tables import own_sources

POLICY = "policy"
"""The name under which an arm's recipe distils the evaluated policy."""
_NOT_GRID = ("registration", "output", "results", "jobs", "minutes", "title")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One arm under one seed, and the stages that it needs."""

    arm: str
    seed: int
    sweep: str
    point: str
    nodes: tuple[Node, ...]
    """Its stages in the order in which they run, each in its shared directory."""
    parts: Mapping[str, Path]
    """Artefacts of the record: ``evaluation``, and ``policy``, ``q_metrics`` and ``card`` if it has them."""
    digest: str
    """Digest of everything that decides the cell."""

    @property
    def record(self) -> str:
        """Name of the cell's record."""
        return record_name(self.arm, self.seed, self.sweep, self.point)


def resolve(config: StudyConfig, arm: str, seed: int, *over: Mapping[str, Any], where: str = "") -> Recipe:
    """The recipe of an arm under a seed, with further differences laid over it.

    Raises:
      ConfigError: the recipe is invalid, or lacks what the arm needs.
    """
    about: ArmConfig = config.arms[arm]
    name = where or f"{config.name}: arm '{arm}'"
    layered = overlay(config.recipe, about.recipe, *over)
    # An arm has one policy; sections of others, inherited from the study's recipe, would not be used.
    mine = (layered.get("distill") or {}).get(POLICY)
    if about.acts == "policy" and mine is None:
        raise ConfigError(f"{name}: its recipe has no section 'distill.{POLICY}'; add it.")
    layered["distill"] = {POLICY: mine} if about.acts == "policy" else {}
    layered["agents"] = (layered.get("agents") or {}) if about.acts == "policy" else {}
    layered["critic_on_device"] = about.acts == "critic"
    recipe = load(Recipe, {**layered, "name": config.name, "seed": seed}, where=name)
    if recipe.evaluate is None:
        raise ConfigError(f"{name}: its recipe has no section 'evaluate'; add it.")
    return recipe


def make_cell(
    config: StudyConfig,
    arm: str,
    seed: int,
    *over: Mapping[str, Any],
    sweep: str = "",
    point: str = "",
) -> Cell:
    """Plans one cell; see :func:`resolve` for ``over`` and errors."""
    recipe = resolve(config, arm, seed, *over)
    acts = config.arms[arm].acts
    nodes = plan(recipe)
    evaluated = next(n for n in nodes if n.name == "evaluation/behavior")
    wanted: dict[str, str] = {}
    if acts in ("oracle", "random"):
        agent = AgentConfig(kind=acts)
        # Exact success costs a script next to nothing, because it neither draws nor reads pixels.
        scripted = dataclasses.replace(evaluated.config, agent=agent, arm=acts, exact=True)
        nodes = [Node("evaluation", evaluated.module, scripted, {}, evaluated.out.with_name(acts))]
        wanted["evaluation"] = "evaluation"
    else:
        wanted["evaluation"] = f"evaluation/{POLICY if acts == 'policy' else acts}"
        names = {node.name for node in nodes}
        extra = {"card": "card"} if acts == "behavior" else {}
        extra |= (
            {"policy": f"policy/{POLICY}", "q_metrics": f"q_metrics/{POLICY}"} if acts == "policy" else {}
        )
        wanted |= {key: name for key, name in extra.items() if name in names}
    moved = _share(_needed(nodes, wanted.values()), config.output / "store")
    parts = {key: moved[name].out for key, name in wanted.items()}
    digest = _digest(sorted(path.name for path in parts.values()))
    return Cell(arm, seed, sweep, point, tuple(moved.values()), parts, digest)


def make_cells(config: StudyConfig, seeds: Sequence[int], arms: Iterable[str] = ()) -> list[Cell]:
    """All cells of the study: every seed's arms, then the sweeps.

    Args:
      config: the study.
      seeds: seeds of the cells.
      arms: only these arms; all if empty.
    """
    only = set(arms) or set(config.arms)
    strangers = sorted(only - set(config.arms))
    if strangers:
        raise ConfigError(f"{config.name}: there is no arm '{strangers[0]}'; arms: {', '.join(config.arms)}.")
    # First seeds are counted in the study's list, so that it can be run seed by seed; tuning seeds count apart.
    order = config.seeds if set(seeds) <= set(config.seeds) else tuple(seeds)
    cells = []
    for seed in seeds:
        for name, arm in config.arms.items():
            if name in only and seed in order[: arm.seeds]:
                cells.append(make_cell(config, name, seed))
    for name, sweep in config.sweeps.items():
        for seed in (s for s in seeds if s in order[: sweep.seeds]):
            for point, over in sweep.points.items():
                cells += [
                    make_cell(config, arm, seed, over, sweep=name, point=point)
                    for arm in sweep.arms
                    if arm in only
                ]
    return cells


def make_trials(config: StudyConfig) -> list[Cell]:
    """The cells of the search for settings, on the tuning seeds and tasks.

    Raises:
      ConfigError: there is no section 'tuning', or the trials of two arms differ in their total number of updates, or of
        epochs where fits are given in these.
    """
    if config.tuning is None:
        raise ConfigError(f"{config.name}: has no section 'tuning'; add it.")
    where = {"evaluate": {"tasks": config.tuning.tasks, "episodes": config.tuning.episodes}}
    cells: list[Cell] = []
    spent: dict[str, dict[str, float]] = {}
    for seed in config.tuning.seeds:
        for arm, trials in config.tuning.trials.items():
            for number, over in enumerate(trials):
                recipe = resolve(config, arm, seed, over, where)
                for fit in (distilled.fit for distilled in recipe.distill.values()):
                    unit, much = ("updates", fit.updates) if fit.epochs is None else ("epochs", fit.epochs)
                    of_arm = spent.setdefault(arm, {})
                    of_arm[unit] = of_arm.get(unit, 0) + much
                cells.append(
                    make_cell(config, arm, seed, over, where, sweep="tuning", point=f"trial{number}")
                )
    said = {arm: " and ".join(f"{much:g} {unit}" for unit, much in of.items()) for arm, of in spent.items()}
    first = next(iter(said), "")
    for other in said:
        if said[other] != said[first]:
            raise ConfigError(
                f"{config.name}: the trials of every arm must have the same number of updates in all, but {first} has "
                f"{said[first]} and {other} {said[other]}."
            )
    return cells


def grid_digest(config: StudyConfig) -> str:
    """Digest of everything that decides what a study runs: its file, every default in force, the embedded VLM."""
    about = {key: value for key, value in to_dict(config).items() if key not in _NOT_GRID}
    cells = make_cells(config, config.seeds)
    # Directories are named after stages, versions, configs and inputs.
    return _digest([about, sorted(f"{cell.record} {cell.digest}" for cell in cells), kernel_digest()])


def register(path: Path) -> None:
    """Writes the digests of a study into its file; committing it is the registration.

    Raises:
      ConfigError: the file has no section ``registration`` with the keys ``kernel``, ``grid`` and ``analysis``.
    """
    config, text = load_yaml(StudyConfig, path), path.read_text(encoding="utf-8")
    digests = {"kernel": kernel_digest(), "grid": grid_digest(config), "analysis": analysis_digest()}
    for key, value in digests.items():
        text, count = re.subn(rf"(?m)^(\s+{key}:)[ \t]*\S*$", rf'\g<1> "{value}"', text)
        if count != 1:
            raise ConfigError(f"{path}: write 'registration: {{...}}' as a block with one line '{key}:'.")
    artifacts.atomic_write_text(path, text)


def records_folder(config: StudyConfig, seeds: Sequence[int]) -> Path:
    """The folder of these seeds' records: with the results; for tuning seeds, with the artefacts.

    Raises:
      ConfigError: tuning seeds are mixed with reported ones, and would be reported with them.
    """
    if len({seed >= FIRST_TUNING_SEED for seed in seeds}) > 1:
        raise ConfigError(
            f"{config.name}: run tuning seeds and reported seeds apart, not together as {list(seeds)}."
        )
    trial = all(seed >= FIRST_TUNING_SEED for seed in seeds) and tuple(seeds) != config.seeds
    return config.output / "records" if trial else config.results / config.name


def open_cells(cells: Iterable[Cell], folder: Path) -> list[Cell]:
    """The cells that have no record with their current digest."""
    found = _digests(folder)
    return [cell for cell in cells if found.get(cell.record) != cell.digest]


def _digests(folder: Path) -> dict[str, str]:
    """The digests of the cells that have records, by name."""
    return {record.name: record.digest for record in read_records(folder)}


def run(
    config: StudyConfig,
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int | None = None,
) -> None:
    """Runs the cells that have no record yet.

    Args:
      config: the study.
      cells: cells from :func:`make_cells` or :func:`make_trials`.
      folder: folder of the records.
      jobs: number of stages that run side by side; by default the config's, and never more than there are cores.

    Raises:
      ConfigError: reported seeds of an unregistered or changed study.
      DigiQError: stages failed; everything that does not depend on them has run, and finished work is kept.
    """
    check_registration(
        config,
        seeds=tuple(dict.fromkeys(cell.seed for cell in cells)),
        kernel=kernel_digest(),
        grid=grid_digest(config),
    )
    for arm in dict.fromkeys(cell.arm for cell in cells):
        of_arm = next(cell for cell in cells if cell.arm == arm)
        preflight(resolve(config, arm, of_arm.seed), of_arm.nodes)
    waiting = longest_first(open_cells(cells, folder))
    nodes = unique_nodes(waiting)
    cost = {node.out: seconds for node, seconds in zip(nodes, estimate(nodes), strict=True)}
    done = {node.out for node in nodes if node.is_complete}
    print(
        f"{config.name}: {len(cells) - len(waiting)} of {len(cells)} cells have records; "
        f"{len(done)} of {len(nodes)} stages of the others are complete.",
        file=sys.stderr,
    )
    failed: list[str] = []
    already = sum(cost[out] for out in done)
    running = run_nodes(
        [node for node in nodes if node.out not in done],
        folder=config.output / "nodes",
        jobs=jobs or config.jobs,
        pinned=True,
    )
    with (
        progress(config.name, sum(cost.values()), unit="estimated s", done=already) as bar,
        artifacts.verified_once(config.output / "nodes" / "verified"),
        contextlib.closing(running),
    ):
        _record_finished(waiting, done, folder)
        for node, failure in running:
            if failure:
                failed.append(f"{node.out.name} ({failure})")
                print(f"stage {failed[-1]} did not finish", file=sys.stderr, flush=True)
                continue
            done.add(node.out)
            left = len(_record_finished(waiting, done, folder))
            bar.advance(cost[node.out], stages=f"{len(done)}/{len(nodes)}", cells_left=left, last=node.name)
    if failed:
        raise DigiQError(
            f"{config.name}: {len(failed)} stages failed: {'; '.join(failed)}. Finished work is kept; run the same "
            "command again to go on."
        )


def unique_nodes(cells: Iterable[Cell]) -> list[Node]:
    """The stages of all cells, each once and after the stages that it reads."""
    return list({node.out: node for cell in cells for node in cell.nodes}.values())


def longest_first(cells: Sequence[Cell]) -> list[Cell]:
    """The cells by the total time of their stages, longest first, so that no long one is left to run alone."""
    nodes = unique_nodes(cells)
    end: dict[Path, float] = {}
    for node, seconds in zip(nodes, estimate(nodes), strict=True):
        end[node.out] = seconds + max((end.get(path, 0.0) for path in node.inputs.values()), default=0.0)
    return sorted(cells, key=lambda cell: -max(end[node.out] for node in cell.nodes))


def _needed(nodes: Sequence[Node], targets: Iterable[str]) -> list[Node]:
    """The named nodes and all nodes that they read, directly or not, in order."""
    targets = set(targets)
    by_out = {node.out: node for node in nodes}
    wanted: set[Path] = set()
    for node in reversed(nodes):
        if node.name in targets or node.out in wanted:
            wanted.add(node.out)
            wanted.update(path for path in node.inputs.values() if path in by_out)
    return [node for node in nodes if node.out in wanted]


def _share(nodes: Sequence[Node], store: Path) -> dict[str, Node]:
    """The nodes by name, each moved to the directory of its identity."""
    moved: dict[Path, Path] = {}
    result: dict[str, Node] = {}
    for node in nodes:
        stage = importlib.import_module(node.module)
        inputs = {name: moved.get(path, path) for name, path in node.inputs.items()}
        identity = {
            name: path.name if path in moved.values() else _content(path) for name, path in inputs.items()
        }
        identity |= own_sources(node.config)
        digest = _digest([stage.STAGE, stage.VERSION, to_dict(node.config), identity])
        out = store / f"{stage.STAGE}-{digest[:16]}"
        moved[node.out] = out
        result[node.name] = dataclasses.replace(node, inputs=inputs, out=out)
    return result


_CONTENT: dict[Path, str] = {}


def _content(path: Path) -> str:
    """Content digest of an input from outside the study, read only once: the embedded VLM has many megabytes."""
    if path not in _CONTENT:
        _CONTENT[path] = artifacts.content_digest(path)
    return _CONTENT[path]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _record_finished(cells: Sequence[Cell], done: set[Path], folder: Path) -> list[Cell]:
    """Writes the missing records whose artefacts are complete; returns the cells that are left."""
    left, found = [], _digests(folder)
    for cell in cells:
        if not all(node.out in done for node in cell.nodes):
            left.append(cell)
            continue
        if found.get(cell.record) == cell.digest:
            continue
        about = CellRecord(
            arm=cell.arm,
            seed=cell.seed,
            sweep=cell.sweep,
            point=cell.point,
            digest=cell.digest,
            tasks="",
        )
        seconds = {
            node.name: float(artifacts.read_manifest(node.out).environment["seconds"]) for node in cell.nodes
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_record(record_cell(about, **cell.parts, seconds=seconds), folder)
    return left
