"""Runs the cells of :mod:`digiq.laboratory.causes` and makes a page of their records.

    python -m digiq.studies.causes run --seeds 100 101          cells without a record; may be killed at any time
    python -m digiq.studies.causes page                         docs/results/causes.md, from the records alone

The offline data of a seed are a run of ``configs/causes.yaml``. Its cells share collection, proposals, features,
critics and the compiled network, all in one process. Only tuning seeds and ``webshop/tune`` are allowed: nothing here
is a reported result.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digiq import artifacts
from digiq.errors import DigiQError
from digiq.laboratory import causes
from digiq.laboratory.causes import Cell, Protocol, StudentKind
from digiq.studies.causes_page import make_page

RECIPE, RUNS = Path("configs/causes.yaml"), Path("runs/causes")
RESULTS = Path("docs/results")
RECORDS, COMMENT, PAGE = (
    RESULTS / "causes/records.jsonl",
    RESULTS / "causes/comment.md",
    RESULTS / "causes.md",
)
TASKS, EPISODES = "webshop/tune", 300
BATCH = 32
EPOCHS = {"pixels": 4.5, "elements": 10.0}
"""Epochs of the protocol ``epochs``, by student; 300 updates of the first studies were 4.5 epochs of half the states."""
ROWS, UPDATES = 1000, {"pixels": 300, "elements": 600}
"""Rows and updates of the protocol ``rows``."""
STEP = 50
"""Updates are a multiple of this, so that few programs are compiled."""
CLONED, CLONING = 512, 4000
"""Number of demonstrations that students without pixels imitate first, and of updates for that."""
RATE = 2e-3
"""Learning rate of students without pixels."""


def base_of(seed: int) -> Path:
    """The run of a seed, made if it does not exist."""
    run = RUNS / f"seed-{seed}"
    try:
        if artifacts.read_manifest(run / "critic", stage="train-q").state == "complete":
            return run
    except DigiQError:
        pass  # does not exist yet
    command = [sys.executable, "-m", "digiq.cli", "run", str(RECIPE)]
    command += ["--seed", str(seed), "--name", f"seed-{seed}"]
    subprocess.run(command, check=True)
    return run


@dataclasses.dataclass
class Bench:
    """Data that the cells of a seed share."""

    seed: int
    run: Path
    states: Any
    actions: list[list[Any]]
    """[S][N], None where there is no candidate."""
    trained: np.ndarray
    truth: dict[str, np.ndarray]
    cluster: np.ndarray
    values: dict[str, Any]
    first: np.ndarray
    """bool[S, N], the first column of each distinct action."""
    best: np.ndarray

    @classmethod
    def open(cls, seed: int) -> Bench:
        """Opens a seed's data, trains its critics, and reads all values."""
        from digiq.critics.critic import load_critic
        from digiq.critics.training_data import concatenate_layers
        from digiq.data.rewards import LabelledEpisodes
        from digiq.extraction.base import read_states
        from digiq.features import load_features
        from digiq.laboratory.controls import CollectorValues, ExactValues
        from digiq.laboratory.truth import best_actions
        from digiq.proposals.propose import first_of_action, load_proposals
        from digiq.proposals.values import load_exact

        run = base_of(seed)
        store = LabelledEpisodes(run / "episodes", run / "rewards")
        states, splits = read_states(store)
        proposals = load_proposals(run / "proposals")
        states = dataclasses.replace(states, proposals=proposals)
        truth = load_exact(run / "exact")
        valid = proposals.valid
        actions = [
            [proposals.action(s, n) if valid[s, n] else None for n in range(valid.shape[1])]
            for s in range(len(valid))
        ]
        first = first_of_action(actions)
        same = np.array([[row.index(action) for action in row] for row in actions])
        features = load_features(run / "features")
        observation = concatenate_layers(features.observation, load_critic(run / "critic").observation_layers)
        bench = cls(
            seed=seed,
            run=run,
            states=states,
            actions=actions,
            trained=splits == "train",
            truth=truth,
            cluster=causes.clusters_of(np.asarray(observation, np.float32), causes.CLUSTERS, seed),
            values={},
            first=first,
            best=best_actions(truth["best_q"], truth["best_v"]),
        )
        exact = ExactValues().read(states, frozenset(), {"exact": run / "exact"}, 0)
        bench.values["exact"] = exact
        for name, accuracy in {"noise_83": 0.83, "noise_76": 0.76}.items():
            rng = np.random.default_rng([seed, int(100 * accuracy)])
            q = causes.noisy(truth["best_q"], first, same, accuracy, rng)
            bench.values[name] = dataclasses.replace(exact, q=q.astype(np.float32))
        bench.values["collector"] = CollectorValues().read(states, frozenset(), {"exact": run / "exact"}, 0)
        return bench

    @functools.cached_property
    def behavior(self) -> Any:
        """The policy that collected the data."""
        from digiq.policies.base import load_policy

        return load_policy(self.run / "behavior")

    @functools.cached_property
    def inputs(self) -> list[Any]:
        """For every state, its screenshot at the network's size, and the goal."""
        from digiq.data.rewards import LabelledEpisodes
        from digiq.data.schema import decode_png
        from digiq.policies.base import PolicyInput
        from digiq.policies.network import fit_screenshot

        return [
            PolicyInput(
                np.ascontiguousarray(fit_screenshot(decode_png(step.screenshot), self.behavior.config)),
                step.goal,
            )
            for episode in LabelledEpisodes(self.run / "episodes")
            for step in episode.steps
            if not step.is_terminal
        ]

    @functools.cached_property
    def screens(self) -> tuple[Any, np.ndarray]:
        """The actions that logged screens offer a student without pixels, and each candidate's number, int[S, N]."""
        from digiq.data.rewards import LabelledEpisodes
        from digiq.laboratory.student import Examples, looks_of
        from digiq.laboratory.truth import displays

        store = LabelledEpisodes(self.run / "episodes")
        shown, index = looks_of(zip(displays(self.run / "episodes", store), self.actions, strict=True))
        return Examples.of(shown), index

    @functools.cached_property
    def clone(self) -> Any:
        """A student that imitates the demonstrations, as the behaviour policy does."""
        from digiq.data.store import EpisodeStore
        from digiq.laboratory.student import Examples, Student, looks_of
        from digiq.laboratory.truth import displays

        store = EpisodeStore(self.run / "demonstrations")
        some = [store[number] for number in range(CLONED)]
        logged = [[step.action] for episode in some for step in episode.steps if not step.is_terminal]
        shown, index = looks_of(zip(displays(self.run / "demonstrations", some), logged, strict=True))
        rows = np.flatnonzero(index[:, 0] >= 0)
        examples = Examples.of(shown)
        return Student.fresh(examples.features.shape[-1], self.seed).fit(
            examples,
            rows,
            index[rows, 0],
            np.ones(len(rows)),
            updates=CLONING,
            batch_size=BATCH,
            learning_rate=RATE,
            seed=self.seed,
        )

    @functools.cached_property
    def arcade(self) -> Any:
        """The episodes that students without pixels play."""
        from digiq.agents.build import device_tasks
        from digiq.agents.rollout import plan_episodes
        from digiq.laboratory.student import Arcade

        return Arcade(plan_episodes(device_tasks(TASKS), EPISODES, self.seed))

    def values_of(self, name: str) -> Any:
        """Values by name; critics are trained when their values are first asked for."""
        if name not in self.values:
            self.values[name] = learned_values(self.run, name, self.states)
        return self.values[name]

    def accuracy(self, name: str) -> float:
        """The share of candidate pairs that the values order as Q* does."""
        from digiq.laboratory.truth import pairwise_accuracy

        q = self.values_of(name).q
        return pairwise_accuracy(self.truth["best_q"], q, self.first & ~np.isnan(q))


def learned_values(run: Path, name: str, states: Any) -> Any:
    """Values of one critic of a seed, which is trained if it does not exist."""
    from digiq.artifacts import read_manifest
    from digiq.config import load
    from digiq.critics import train
    from digiq.critics.objectives.td import TD
    from digiq.extraction.critic_values import CriticValues

    path = run / "critic"
    if name != "td":
        recorded = load(train.TrainQConfig, read_manifest(path).config, where=str(path), recorded=True)
        how: dict[str, Any] = (
            {"objective": "iql"} if name == "iql" else {"td": TD(backup="max"), "baseline": "candidate_mean"}
        )
        config = dataclasses.replace(recorded, critic=dataclasses.replace(recorded.critic, **how))
        path = run / "critics" / name
        train.run(
            config, features=run / "features", episodes=run / "episodes", rewards=run / "rewards", out=path
        )
    paths = {"features": run / "features", "critic": path}
    return CriticValues().read(states, frozenset({"q", "v", "members"}), paths, 0)


def plan(protocols: tuple[Protocol, ...], students: tuple[StudentKind, ...]) -> list[Cell]:
    """The cells of a seed, in the order in which they run: the most decisive come first."""
    early = {"exact": 0, "td": 0, "iql": 2, "noise_76": 2, "collector": 3, "noise_83": 3, "td_max": 4}
    late = {"progress": 0, "positive": 0, "quantile": 0, "awr": 1, "lower_bound": 1, "clusters": 1}
    found = []
    for student in students:
        for values, gate in (
            ("none", "behavior"),
            ("none", "filtered_bc"),
            ("td", "digirl"),
            ("collector", "digirl"),
        ):
            found.append(Cell(values, gate, 1, "epochs", student))
        for protocol in protocols:
            every = causes.cells(protocol, student)
            found += sorted(every, key=lambda cell: early[cell.values] + late[cell.gate])
    return found


def targets_of(bench: Bench, cell: Cell) -> tuple[Any, np.ndarray] | None:
    """A cell's targets, and the states that it could imitate; None for the behaviour policy, which imitates nothing."""
    from digiq.extraction.digirl import DigiRL
    from digiq.extraction.filtered_bc import FilteredBC

    if cell.gate == "behavior":
        return None
    values = None if cell.values == "none" else bench.values_of(cell.values)
    states = dataclasses.replace(bench.states, values=values)
    known = bench.trained & bench.states.acted
    rows = np.flatnonzero(known if cell.gate != "digirl" else bench.trained)
    chosen = states.where(np.isin(np.arange(len(states)), rows))
    rng = np.random.default_rng(0)
    if cell.gate == "filtered_bc":
        targets = FilteredBC().select(chosen, rng)
    elif cell.gate == "digirl":
        targets = DigiRL().select(chosen, rng)
    else:
        targets = causes.select(cell, chosen, bench.cluster[rows])
    return dataclasses.replace(targets, row=rows[targets.row]), known


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Distils and evaluates one cell; returns its record."""
    started = time.monotonic()
    found = targets_of(bench, cell)
    record: dict[str, Any] = {"seed": bench.seed, **dataclasses.asdict(cell)}
    targets, updates = None, 0
    if found is not None:
        targets, considered = found
        rows = len(targets.row)
        record |= {
            "pair_accuracy": None if cell.values == "none" else round(bench.accuracy(cell.values), 4),
            "kept": round(len(np.unique(targets.row)) / max(int(considered.sum()), 1), 4),
            "rows": rows,
        }
        updates = max(STEP, STEP * round(EPOCHS[cell.student] * rows / BATCH / STEP))
        if cell.protocol == "rows":
            targets, updates = causes.fewer(targets, ROWS, bench.seed), UPDATES[cell.student]

        def is_best(row: int, action: Any) -> bool:
            here = zip(bench.actions[row], bench.best[row], strict=True)
            return any(best and other == action for other, best in here)

        screens = [str(s) for s in bench.truth["screen"]]
        right = causes.rightness(targets, considered, screens, is_best)
        record |= {"used": len(targets.row), "updates": updates, "screens": right}
    if cell.student == "pixels":
        outcomes, visits = with_pixels(bench, targets, updates)
    else:
        outcomes, visits = without_pixels(bench, targets, updates)
    record |= {
        "success": "".join(str(int(won)) for won in outcomes),
        "visits": visits,
        "seconds": round(time.monotonic() - started, 1),
    }
    return record


def without_pixels(bench: Bench, targets: Any, updates: int) -> tuple[list[bool], dict[str, int]]:
    """Distils into a student that reads elements, and evaluates it; without targets, evaluates the clone."""
    student = bench.clone
    if targets is not None:
        examples, index = bench.screens
        choice = [
            index[row, bench.actions[row].index(action)]
            for row, action in zip(targets.row.tolist(), targets.action, strict=True)
        ]
        student = student.fit(
            examples,
            targets.row,
            np.array(choice),
            targets.weight,
            updates=updates,
            batch_size=BATCH,
            learning_rate=RATE,
            seed=bench.seed,
        )
    # Like the behaviour policy, the clone acts with more confidence than what it imitates.
    return bench.arcade.play(student, 0.7 if targets is None else 1.0)


def with_pixels(bench: Bench, targets: Any, updates: int) -> tuple[list[bool], dict[str, int]]:
    """Distils into the policy of all recipes, from the behaviour policy as the studies do, and evaluates it."""
    from digiq.agents.agent import Agent
    from digiq.agents.build import EMBEDDED, device_tasks, env_factory
    from digiq.agents.rollout import plan_episodes, rollout
    from digiq.extraction.distill import DistillFitConfig
    from digiq.laboratory.q_metrics import CountingActor
    from digiq.policies.base import Row
    from digiq.policies.grid_fit import GridRefitting

    policy, temperature = bench.behavior, 1.0
    if targets is not None:
        config = DistillFitConfig(updates=updates, grid=GridRefitting(shift=3), evaluate_every=updates)
        weighed = zip(targets.row.tolist(), targets.action, targets.weight.tolist(), strict=True)
        rows = [Row(bench.inputs[s], action, w, int(bench.states.group[s])) for s, action, w in weighed]
        policy = policy.fit(rows, config, lambda metrics: None, description="distill")
        temperature = 1.4  # undoes the behaviour policy's temperature
    tasks = device_tasks(TASKS)
    agent = CountingActor(Agent(policy, temperature=temperature, num_candidates=1))
    specs = plan_episodes(tasks, EPISODES, bench.seed)
    runs = rollout(agent, specs, env_factory(EMBEDDED, tasks), record=lambda spec: False)
    return [run.outcome == "success" for run in runs], dict(sorted(agent.visits.items()))


def read_records(path: Path = RECORDS) -> list[dict[str, Any]]:
    """The records; the last one of a cell counts."""
    if not path.is_file():
        return []
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        found[key_of(record)] = record
    return list(found.values())


def key_of(record: dict[str, Any]) -> tuple[int, Cell]:
    """Seed and cell of a record."""
    names = ("values", "gate", "candidates", "protocol", "student")
    return record["seed"], Cell(*(record[name] for name in names))


def refuse_reported(study: str, seeds: Sequence[int]) -> None:
    """Ends the program of an exploratory study if it was given a seed that results are reported on."""
    from digiq.studies.config import FIRST_TUNING_SEED

    low = [seed for seed in seeds if seed < FIRST_TUNING_SEED]
    if low:
        raise SystemExit(f"{study}: seed {low[0]} is not a tuning seed; use {FIRST_TUNING_SEED} or above.")


def run_seeds(
    seeds: list[int],
    protocols: tuple[Protocol, ...],
    students: tuple[StudentKind, ...],
    records: Path,
    values: tuple[str, ...] = (*causes.VALUES, "none"),
    gates: tuple[str, ...] = (),
) -> None:
    """Runs the cells without a record, one seed after the other; if ``gates`` are given, only theirs."""
    refuse_reported("causes", seeds)
    for seed in seeds:
        done = {key_of(record) for record in read_records(records)}
        waiting = [
            cell
            for cell in plan(protocols, students)
            if (seed, cell) not in done and cell.values in values and (not gates or cell.gate in gates)
        ]
        if not waiting:
            continue
        bench = Bench.open(seed)
        for number, cell in enumerate(waiting):
            record = run_cell(bench, cell)
            with records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            rate = record["success"].count("1") / len(record["success"])
            print(f"{number + 1}/{len(waiting)} {cell} {rate:.3f} {record['seconds']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="digiq.studies.causes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run cells that have no record")
    runs.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    runs.add_argument("--protocols", nargs="+", default=["epochs"], choices=["epochs", "rows"])
    runs.add_argument("--students", nargs="+", default=["elements"], choices=["elements", "pixels"])
    runs.add_argument("--values", nargs="+", default=[*causes.VALUES, "none"])
    runs.add_argument("--gates", nargs="+", default=[], help="only these; all by default")
    runs.add_argument("--records", type=Path, default=RECORDS)
    page = commands.add_parser("page", help="make the page of the records")
    page.add_argument("--records", type=Path, default=RECORDS)
    page.add_argument("--comment", type=Path, default=COMMENT)
    page.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run_seeds(
            arguments.seeds,
            tuple(arguments.protocols),
            tuple(arguments.students),
            arguments.records,
            tuple(arguments.values),
            tuple(arguments.gates),
        )
    else:
        comment = arguments.comment.read_text(encoding="utf-8").strip() if arguments.comment.is_file() else ""
        artifacts.atomic_write_text(arguments.out, make_page(read_records(arguments.records), TASKS, comment))


if __name__ == "__main__":
    main()
