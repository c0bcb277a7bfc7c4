"""Peak memory of training a critic on a feature store larger than memory.

A store of synthetic features (bfloat16, 4,096 numbers per row, in the layout that ``digiq featurize`` writes) is made
under ``--directory``. A separate process trains heads of at most 50 M parameters on it and reports its peak resident
memory. From the checks and statistics of the stored rows on, it runs the code of ``digiq train-q --memory stream``,
with its epochs, diagnostics and checkpoints. What the stage does before and after is left out: transitions are arrays
made here instead of being read from episodes and rewards (``load_training_data``), and no manifest is written. The
target is 4 GB for a store of 10 GB.

The bound printed with it is what must be resident: parameters, target, two moments and a gradient of the heads, and one
copy of the first four for the checkpoint that is being written.

    .venv/bin/python benchmarks/streaming_memory.py --directory /somewhere/with/12/GB
    .venv/bin/python benchmarks/streaming_memory.py --objective cql --candidates 16 --directory ...
    .venv/bin/python benchmarks/streaming_memory.py --quick

The store is removed at the end. The last line is one JSON object.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIM = 4096
LENGTH = 10  # transitions per episode
LAYER = "layer_01"
HEADS = {"q_hidden": (2048, 1024), "v_hidden": (1024,)}
"""46 M parameters on 4,096 + 4,096 inputs."""
QUICK_HEADS = {"q_hidden": (256,), "v_hidden": (256,)}


def make_store(path: Path, gigabytes: float, candidates: int) -> int:
    """Writes rows and their index; returns the number of states, each of which has a row and ``candidates`` pairs."""
    from digiq import artifacts
    from digiq.features.extract import INDEX, STAGE, VERSION, FeaturizeConfig
    from digiq.features.store import KEY_BYTES, ROWS_PER_SHARD, RowStore, row_key

    states = max(LENGTH, round(gigabytes * 1e9 / (2 * DIM * (1 + candidates))) // LENGTH * LENGTH)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2 * ROWS_PER_SHARD, 1, DIM)).astype(np.float32)
    groups: dict[str, tuple[str, int]] = {}
    index: dict[str, np.ndarray] = {
        "candidate_row": np.arange(states * candidates, dtype=np.int32).reshape(candidates, states).T
    }
    for kind, count in (("observation", states), ("pair", states * candidates)):
        keys = [row_key(f"{kind} {n}") for n in range(count)]
        index[f"{kind}_key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        groups[kind] = kind, DIM
        rows = RowStore(path / "rows", kind, [LAYER], DIM)
        # As after featurize, neighbours in the index are not neighbours in the store.
        order = rng.permutation(count)
        for start in range(0, count, ROWS_PER_SHARD):
            part = order[start : start + ROWS_PER_SHARD]
            offset = int(rng.integers(ROWS_PER_SHARD))
            rows.append([keys[n] for n in part], noise[offset : offset + len(part)])
    with artifacts.write(
        path / "features", stage=STAGE, version=VERSION, config=FeaturizeConfig(), inputs={}
    ) as writer:
        np.savez(writer.path / INDEX, **index)
        extra = {"rows": str(path / "rows"), "groups": groups, "layers": [LAYER]}
        writer.complete(counts={"observations": states}, extra=extra)
    return states


def train(path: Path, states: int, steps: int, objective: str, heads: dict[str, Any]) -> dict[str, float]:
    """Trains on the store in this process; returns the figures."""
    import jax

    from digiq.critics.streaming import StoredRows
    from digiq.critics.train import TrainQConfig, _prepare, _train_resumably, monitor_of
    from digiq.features.extract import open_features
    from digiq.memory import return_freed_memory

    config = TrainQConfig(
        critic={
            "objective": objective,
            "heads": heads,
            "epochs": 2,
            "steps_per_epoch": steps,
            "batch_size": 256,
        },
        memory="stream",
        checkpoint_every=1,
        keep=1,
    )
    at = np.arange(states)
    done = at % LENGTH == LENGTH - 1
    transitions = {
        "obs": at,
        "next_obs": np.where(done, -1, at + 1),
        "reward": (done & (at // LENGTH % 2 == 0)).astype(np.float32),
        "terminated": done,
        "truncated": np.zeros(states, bool),
        "episode": at // LENGTH,
    }
    started = time.perf_counter()
    return_freed_memory()
    stored = open_features(path / "features")
    joined = {
        "observation": StoredRows([stored.observation[LAYER]]),
        "pair": StoredRows([stored.pair[LAYER]]),
        "candidate_row": stored.candidate_row,
    }
    data = _prepare(transitions, joined, config.critic, config.heldout_fraction, config.seed)
    prepared = time.perf_counter()
    _train_resumably(config, data, monitor_of(config, data), stored, path / "critic")
    trained = time.perf_counter()
    parameters = sum(
        x.size
        for x in jax.tree.leaves(
            jax.eval_shape(lambda k: config_heads(config).init(k, DIM, DIM), jax.random.PRNGKey(0))
        )
    )
    return {
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "parameters_million": parameters / 1e6,
        "bound_gb": 9 * 4 * parameters / 1e9,
        "statistics_seconds": prepared - started,
        "updates_per_second": 2 * steps / (trained - prepared),
    }


def config_heads(config: Any) -> Any:
    """The networks of a stage's configuration."""
    from digiq.critics.learner import Learner

    return Learner(config.critic).heads


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a store of 0.1 GB and small heads: under 50 s")
    parser.add_argument("--gigabytes", type=float, help="size of the store (10, or 0.1 with --quick)")
    parser.add_argument("--steps", type=int, default=20, help="updates in each of two epochs")
    parser.add_argument("--objective", default="td", help="of the critic; cql reads every candidate")
    parser.add_argument("--candidates", type=int, default=4, help="pairs a state")
    parser.add_argument("--directory", type=Path, help="where the store is made; the system's by default")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    heads = QUICK_HEADS if arguments.quick else HEADS
    if arguments.train:
        path, states = arguments.train
        print("> " + json.dumps(train(Path(path), int(states), arguments.steps, arguments.objective, heads)))
        return
    gigabytes = arguments.gigabytes or (0.1 if arguments.quick else 10.0)
    if arguments.directory:
        arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="digiq-store-", dir=arguments.directory) as directory:
        free = shutil.disk_usage(directory).free / 1e9
        if free < 1.2 * gigabytes + 2:
            raise SystemExit(
                f"{directory}: {free:.0f} GB free, but a store of {gigabytes:g} GB needs more; name another folder with --directory."
            )
        started = time.perf_counter()
        states = make_store(Path(directory), gigabytes, arguments.candidates)
        size = sum(f.stat().st_size for f in Path(directory).rglob("*") if f.is_file()) / 1e9
        made = time.perf_counter() - started
        print(
            f"store: {size:.2f} GB, {states:,} states, {arguments.candidates} candidates each, made in {made:.0f} s",
            flush=True,
        )
        command = [
            sys.executable,
            __file__,
            "--train",
            directory,
            str(states),
            "--steps",
            str(arguments.steps),
            "--objective",
            arguments.objective,
        ]
        done = subprocess.run(
            [*command, "--quick"] if arguments.quick else command,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    line = next(line for line in done.stdout.splitlines() if line.startswith("> "))
    metrics = {"store_gb": size, **json.loads(line[2:])}
    for name, value in metrics.items():
        print(f"{name:<22}{value:>10.3g}")
    print(
        json.dumps(
            {
                "benchmark": "streaming_memory",
                "metrics": {name: round(value, 3) for name, value in metrics.items()},
                "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
                "versions": {
                    name: importlib.metadata.version(name) for name in ("jax", "tensorstore", "grain")
                },
            }
        )
    )


if __name__ == "__main__":
    main()
