"""Runs the cells of :mod:`digiq.laboratory.critic_limits` and makes a page of their records.

    python -m digiq.studies.critic_limits run --seeds 100      cells without a record; may be killed at any time
    python -m digiq.studies.critic_limits page                 docs/results/critic_limits.md, from the records alone

The offline data of a seed are those of :mod:`digiq.studies.causes`. Only tuning seeds are allowed, and
``webshop/tune``: nothing here is a reported result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from digiq import artifacts
from digiq.config import load, to_dict
from digiq.laboratory.critic_limits import COVERAGE, EPOCHS, TARGETS, Cell, best_among, cells
from digiq.statistics import Estimate
from digiq.studies.causes import EPISODES, RESULTS, TASKS, Bench, refuse_reported
from digiq.studies.causes_page import over_seeds, percent, points

if TYPE_CHECKING:
    from digiq.laboratory.ranked import Arcade

RECORDS, SUPPORT, COMMENT, PAGE = (
    RESULTS / "critic_limits/records.jsonl",
    RESULTS / "critic_limits/support.json",
    RESULTS / "critic_limits/comment.md",
    RESULTS / "critic_limits.md",
)
SHARE = 0.1
"""Share of the likeliest candidate's probability: ``support`` of the recipes."""
Record = dict[str, Any]
PLAYS = {"success": 8, "likely": 0}
"""Fields of a record, and the N of their best of N; 0 ranks all candidates that the policy finds likely enough."""


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with nested ``changes`` applied."""
    found = dict(base)
    for name, value in changes.items():
        inner = found.get(name)
        found[name] = (
            merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
        )
    return found


def changed(cls: Any, path: Path, changes: Mapping[str, Any]) -> Any:
    """The config that made the artefact ``path``, with changes."""
    recorded = load(cls, artifacts.read_manifest(path).config, where=str(path), recorded=True)
    return load(cls, merged(to_dict(recorded), changes), where=str(path))


def covered(bench: Bench, coverage: str) -> dict[str, Path]:
    """Features and exact values of a seed's states with these candidates, made if they do not exist."""
    from digiq.features import extract
    from digiq.laboratory import exact_values
    from digiq.proposals import propose
    from digiq.vlm import TINY_VLM_PATH

    run, changes = bench.run, COVERAGE[coverage][1]
    logged: dict[str, Any] = {"episodes": run / "episodes", "rewards": run / "rewards"}
    if not changes:
        return {"features": run / "features", "exact": run / "exact"}
    folder = run / "coverage" / coverage
    proposals = folder / "proposals"
    propose.run(
        changed(propose.ProposeConfig, run / "proposals", changes),
        **logged,
        policy=run / "behavior",
        out=proposals,
    )
    extract.run(
        changed(extract.FeaturizeConfig, run / "features", {}),
        **logged,
        proposals=proposals,
        vlm=TINY_VLM_PATH,
        rows=run / "feature_rows",
        out=folder / "features",
    )
    exact_values.run(
        changed(exact_values.ExactValuesConfig, run / "exact", {}),
        **logged,
        proposals=proposals,
        policy=run / "behavior",
        out=folder / "exact",
    )
    return {"features": folder / "features", "exact": folder / "exact"}


def train_cell(bench: Bench, cell: Cell) -> Path:
    """The critic of a cell, trained if it does not exist."""
    from digiq.critics import train

    run = bench.run
    changes = {"critic": {"epochs": cell.epochs, **TARGETS[cell.targets][1]}}
    config = changed(train.TrainQConfig, run / "critic", changes)
    inputs = covered(bench, cell.coverage)
    out = run / "limits" / f"{cell.targets}-{cell.coverage}-{cell.epochs}"
    train.run(
        config,
        features=inputs["features"],
        exact=inputs["exact"] if config.reads else None,
        episodes=run / "episodes",
        rewards=run / "rewards",
        out=out,
    )
    return out


def heldout_states(run: Path) -> np.ndarray:
    """The observations of episodes that no critic of the seed was trained on."""
    from digiq.critics.train import TrainQConfig, load_training_data

    data, _ = load_training_data(
        changed(TrainQConfig, run / "critic", {}),
        features=run / "features",
        episodes=run / "episodes",
        rewards=run / "rewards",
    )
    return np.unique(data.table.obs[data.heldout_rows])


def count_supported(bench: Bench, path: Path) -> None:
    """Adds a seed's counts to a file: states with a best action among all candidates, and among the supported ones."""
    from digiq.proposals.propose import supported

    proposals = bench.states.proposals
    rows = np.flatnonzero(bench.trained & bench.states.acted)
    found = best_among(
        bench.best[rows],
        proposals.valid[rows],
        supported(proposals.log_prob, proposals.valid, SHARE)[rows],
        [str(bench.truth["screen"][row]) for row in rows],
    )
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    artifacts.atomic_write_json(path, known | {str(bench.seed): found})


def run_cell(bench: Bench, arcade: Arcade, cell: Cell) -> Record:
    """Trains and evaluates one critic; returns its record."""
    from digiq.critics.critic import candidate_values, load_critic
    from digiq.features.extract import open_features
    from digiq.laboratory.ranked import BestOfN, Truth, q_of
    from digiq.laboratory.truth import pairwise_accuracy

    started = time.monotonic()
    if cell.targets == "truth":
        ranks, q = Truth(load_critic(bench.run / "critic").config.gamma), bench.truth["best_q"]
    else:
        critic = load_critic(train_cell(bench, cell))
        ranks = q_of(critic)
        q, _ = candidate_values(critic, open_features(bench.run / "features"))
    trained = time.monotonic()
    seen = bench.first & ~np.isnan(q)
    rows = heldout_states(bench.run)
    record: Record = {
        "seed": bench.seed,
        **dataclasses.asdict(cell),
        "pairs": round(pairwise_accuracy(bench.truth["best_q"], q, seen), 4),
        "pairs_heldout": round(pairwise_accuracy(bench.truth["best_q"][rows], q[rows], seen[rows]), 4),
    }
    for field, count in PLAYS.items():
        won, visits = arcade.play(BestOfN(ranks, count, SHARE))
        record[field] = "".join(str(int(w)) for w in won)
        record[f"visits_{field}"] = visits
    return record | {
        "seconds_training": round(trained - started, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def read_records(path: Path = RECORDS) -> list[Record]:
    """The records; the last one of a cell counts."""
    if not path.is_file():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({(r["seed"], r["targets"], r["coverage"], r["epochs"]): r for r in found}.values())


def run_seeds(
    seeds: Sequence[int], records: Path, wanted: Callable[[Cell], bool] = lambda cell: True
) -> None:
    """Runs the cells without a record, one seed after the other."""
    from digiq.agents.build import device_tasks
    from digiq.agents.rollout import plan_episodes
    from digiq.laboratory.ranked import Arcade

    refuse_reported("critic_limits", seeds)
    for seed in seeds:
        done = {
            Cell(r["targets"], r["coverage"], r["epochs"]) for r in read_records(records) if r["seed"] == seed
        }
        waiting = [cell for cell in cells() if cell not in done and wanted(cell)]
        if not waiting:
            continue
        bench = Bench.open(seed)
        arcade = Arcade(plan_episodes(device_tasks(TASKS), EPISODES, seed), bench.behavior)
        records.parent.mkdir(parents=True, exist_ok=True)
        count_supported(bench, records.with_name(SUPPORT.name))
        for number, cell in enumerate(waiting):
            record = run_cell(bench, arcade, cell)
            with records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            rates = [record[field].count("1") / len(record[field]) for field in PLAYS]
            print(
                f"{number + 1}/{len(waiting)} {cell} {rates} {record['pairs_heldout']} {record['seconds']}",
                flush=True,
            )


# --- the page


def outcomes(record: Record, field: str = "success") -> np.ndarray:
    """float[n], 1 for success."""
    return np.array([float(c) for c in record[field]])


def gap(
    records: Sequence[Record],
    one: Cell,
    other: Cell,
    one_field: str = "success",
    other_field: str = "success",
) -> Estimate | None:
    """Success of one cell minus another's, paired over the seeds that have both."""
    of = {(r["seed"], Cell(r["targets"], r["coverage"], r["epochs"])): r for r in records}
    seeds = sorted({seed for seed, _ in of if (seed, one) in of and (seed, other) in of})
    if not seeds:
        return None
    found = [outcomes(of[s, one], one_field) - outcomes(of[s, other], other_field) for s in seeds]
    return over_seeds(found, seeds, TASKS)


def factors(records: Sequence[Record]) -> list[tuple[str, str, Estimate]]:
    """The effect of each factor, with the others held fixed: title, what is compared, and the difference."""
    td, logged, exact = (Cell(name) for name in ("td", "exact_logged", "exact"))
    wanted: list[tuple[str, Cell, Cell, str, str]] = [
        ("targets: Q* instead of policy evaluation, on the logged action", logged, td, "success", "success"),
        ("targets: IQL instead of policy evaluation", Cell("iql"), td, "success", "success"),
        ("targets: max instead of policy evaluation", Cell("max"), td, "success", "success"),
        ("targets: expectation instead of the logged action", Cell("expectation"), td, "success", "success"),
        ("targets: returns instead of policy evaluation", Cell("mc"), td, "success", "success"),
        (
            "everything: Q* itself instead of policy evaluation",
            Cell("truth", epochs=0),
            td,
            "success",
            "success",
        ),
        ("head: HL-Gauss instead of a number", Cell("hl_gauss"), td, "success", "success"),
        (
            "coverage: Q* of every candidate instead of the logged action",
            exact,
            logged,
            "success",
            "success",
        ),
        (
            "coverage: 32 candidates near uniform instead of 8 of the policy's, under Q*",
            Cell("exact", "hot"),
            exact,
            "success",
            "success",
        ),
        (
            "coverage: 32 candidates of the policy's instead of 8, under Q*",
            Cell("exact", "32"),
            exact,
            "success",
            "success",
        ),
        (
            "at test time: all that is likely enough instead of 8 draws, under TD",
            td,
            td,
            "likely",
            "success",
        ),
    ]
    for name in ("td", "iql", "exact_logged", "exact"):
        for few, many in ((3, 10), (10, 40), (40, 160)):
            title = f"updates: {100 * many:,} instead of {100 * few:,}, {TARGETS[name][0]}"
            wanted.append((title, Cell(name, epochs=many), Cell(name, epochs=few), "success", "success"))
    found = []
    for title, one, other, one_field, other_field in wanted:
        estimate = gap(records, one, other, one_field, other_field)
        if estimate is not None:
            found.append((title.split(":")[0], title.split(": ", 1)[1], estimate))
    return found


def support_table(support: Mapping[str, Mapping[str, Sequence[int]]], least: int = 20) -> list[str]:
    """How often a best action is among the candidates, by kind of screen; kinds with few states share a row."""
    total: dict[str, np.ndarray] = {}
    for of_seed in support.values():
        for kind, counts in of_seed.items():
            total[kind] = total.get(kind, np.zeros(3, int)) + np.array(counts)
    rare = [kind for kind, counts in total.items() if counts[0] < least]
    if rare:
        total["all others"] = np.sum([total.pop(kind) for kind in rare], axis=0)
    if total:
        total["**all**"] = np.sum(list(total.values()), axis=0)
    return [
        "| screen | states | a best action is a candidate | and likely enough | lost by support |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {kind} | {n:,} | {100 * some / n:.0f} % | {100 * kept / n:.0f} % | {100 * (some - kept) / n:.0f} points |"
            for kind, (n, some, kept) in total.items()
        ),
    ]


def make_page(
    records: Sequence[Record], comment: str, support: Mapping[str, Mapping[str, Sequence[int]]]
) -> str:
    """The page, as Markdown."""
    lines = [
        "# What limits a learned Q?",
        "",
        *([comment, ""] if comment else []),
        f"## Does `support: {SHARE:g}` throw the right action away?",
        "",
        f"Logged states of training episodes of tuning seed {', '.join(support)}, eight stored candidates each; likely enough: at "
        f"least {SHARE:g} times as likely as the likeliest of the state's.",
        "",
        *support_table(support),
        "",
    ]
    if not records:
        lines.append("No critic is compared yet; `python -m digiq.studies.critic_limits run` does that.")
        return "\n".join(lines) + "\n"
    seeds = ", ".join(map(str, sorted({r["seed"] for r in records})))
    lines += [
        "## Factors, one at a time",
        "",
        f"Tuning seeds {seeds}; {EPISODES} episodes of `{TASKS}` a cell; 95 % intervals clustered by task. Critics read the device's "
        "own elements, so no VLM has a part; the behaviour policy proposes, from pixels. *Best of 8*: of eight draws of that "
        "policy the one of highest Q acts, anew at every visit. *Of the likely*: of all its actions that are at least "
        f"{SHARE:g} times as likely as the likeliest. *Pairs*: share of candidate pairs in the order of Q*, in episodes that no "
        "critic learned from. 1,000 updates and 8 candidates where nothing else is said; paired differences of success, best of "
        "8, in points.",
        "",
        "| factor | compared | points |",
        "|---|---|---|",
        *(f"| {factor} | {title} | {points(estimate)} |" for factor, title, estimate in factors(records)),
        "",
        "## All cells",
        "",
        "| targets | candidates | updates | best of 8, % | of the likely, % | pairs | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    grouped: dict[Cell, list[Record]] = {}
    for record in sorted(records, key=lambda r: r["seed"]):
        grouped.setdefault(Cell(record["targets"], record["coverage"], record["epochs"]), []).append(record)
    order = {name: k for k, name in enumerate(TARGETS)}
    for cell in sorted(grouped, key=lambda c: (c.coverage, order[c.targets], c.epochs)):
        of = grouped[cell]
        rates = [
            percent(over_seeds([outcomes(r, field) for r in of], [r["seed"] for r in of], TASKS))
            for field in PLAYS
        ]
        pairs = f"{np.mean([r['pairs_heldout'] for r in of]):.3f}"
        lines.append(
            f"| {TARGETS[cell.targets][0]} | {COVERAGE[cell.coverage][0]} | {f'{100 * cell.epochs:,}' if cell.epochs else '–'} | {rates[0]} | {rates[1]} | "
            f"{pairs} | {len(of)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="digiq.studies.critic_limits", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run cells that have no record")
    runs.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    runs.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    runs.add_argument("--epochs", nargs="+", type=int, default=[0, *EPOCHS], choices=(0, *EPOCHS))
    runs.add_argument("--coverage", nargs="+", default=list(COVERAGE), choices=list(COVERAGE))
    runs.add_argument("--records", type=Path, default=RECORDS)
    page = commands.add_parser("page", help="make the page of the records")
    page.add_argument("--records", type=Path, default=RECORDS)
    page.add_argument("--comment", type=Path, default=COMMENT)
    page.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    if given.command == "run":
        run_seeds(
            given.seeds,
            given.records,
            lambda cell: (
                cell.targets in given.targets
                and cell.epochs in given.epochs
                and cell.coverage in given.coverage
            ),
        )
    else:
        comment = given.comment.read_text(encoding="utf-8").strip() if given.comment.is_file() else ""
        counted = given.records.with_name(SUPPORT.name)
        support = json.loads(counted.read_text(encoding="utf-8")) if counted.is_file() else {}
        artifacts.atomic_write_text(given.out, make_page(read_records(given.records), comment, support))


if __name__ == "__main__":
    main()
