"""Memory and time of every stage from ``propose`` to ``distill`` as the number of steps grows.

Steps are synthesised: noisy screens (PNG, no two alike), goals, actions and rewards in episodes of ten actions. Each stage
runs in its own process, through its ordinary ``run``. It reports its seconds, and its peak of private memory beyond
what it had after its imports (``RssAnon``, sampled; mapped files do not count, since the system can drop them). The
engine of featurize makes rows from the request's digest, so that DigiQ is measured and not a model. Policies normally
keep their small copies of screens in memory up to 1 GiB and then in a file, and featurize keeps the last 256 MB of
screens that it read. Here these limits are 64 and 16 MB, so that the line is that of large data. A line is fitted over
the numbers of steps: slope in bytes and seconds per step, R², and its prediction for 5.7 million steps.

    .venv/bin/python benchmarks/memory.py --steps 10000 30000 100000 --directory /somewhere/with/10/GB
    .venv/bin/python benchmarks/memory.py --quick

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from digiq.config import configclass

STAGES = ("episodes", "fit-policy", "propose", "featurize", "train-q", "distill")
ALL = 5_700_000
LENGTH = 10
DIM = 32
QUICK, FULL = (300, 600, 1200), (10_000, 30_000, 100_000)
_EVERY = 0.02  # seconds between samples


@configclass
class Noise:
    """An engine that makes rows from the requests' digests."""

    packages: ClassVar = ()

    def open(self, reading: Any, vlm: Path) -> NoiseEngine:
        return NoiseEngine()


@dataclasses.dataclass(frozen=True)
class NoiseEngine:
    """See :class:`Noise`."""

    layers: tuple[str, ...] = ("layer_01",)
    by_state: ClassVar[bool] = True  # like the engine ``shared``

    def dim(self, kind: str) -> int:
        return DIM

    def identity(self, kind: str) -> dict[str, Any]:
        return {"noise": 1}

    def rows(self, requests: Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(requests), 64):
            part = requests[start : start + 64]
            rows = [hashlib.sha256(r.digest + r.prompt.text.encode()).digest() for r in part]
            block = np.frombuffer(b"".join(rows), np.uint8).reshape(len(part), 1, DIM).astype(np.float32)
            yield np.arange(start, start + len(part)), block / 128 - 1


def write_episodes(path: Path, steps: int, side: tuple[int, int]) -> None:
    """Writes a finished artefact of ``steps`` steps, counting both actions and last screens."""
    from android_env.actions import Action
    from digiq import artifacts
    from digiq.data.schema import Episode, Step, encode_png
    from digiq.data.store import EpisodeWriter

    rng = np.random.default_rng(0)
    actions = [Action.back(), Action.home(), Action.type_text("lamp"), Action.enter()]
    with artifacts.write(path, stage="collect", version=1, config={"steps": steps}) as w:
        with EpisodeWriter(w.path) as writer:
            for e in range(max(1, steps // LENGTH)):
                made = []
                for t in range(LENGTH + 1):
                    screen = np.repeat(rng.integers(0, 255, (side[0] // 4, side[1] // 4, 3), np.uint8), 4, 0)
                    tap = Action.tap(*rng.uniform(0.05, 0.95, 2).tolist())
                    last = t == LENGTH
                    made.append(
                        Step(
                            screenshot=encode_png(np.repeat(screen, 4, 1)),
                            goal=f"buy a lamp of kind {e % 97}",
                            action=None if last else tap if t % 3 else actions[int(rng.integers(4))],
                            reward=float(t == LENGTH - 1 and e % 3 == 0),
                            is_first=t == 0,
                            is_last=last,
                            is_terminal=last,
                        )
                    )
                writer.write(
                    Episode(episode_id=f"e{e:07d}", screen_hw=side, steps=tuple(made), task_id=f"t{e % 97}")
                )
        w.complete(counts={"episodes": max(1, steps // LENGTH)})


class Watch:
    """Records the peak anonymous memory of this process during the block, bytes."""

    def __enter__(self) -> Watch:
        self.before = self.most = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(_EVERY):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Anonymous memory of this process, bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def run_stage(name: str, root: Path, steps: int, candidates: int, updates: int) -> dict[str, float]:
    """Runs one stage in this process; returns its memory and time."""
    from digiq.config import load
    from digiq.features import plan
    from digiq.memory import return_freed_memory
    from digiq.policies import pictures

    return_freed_memory()
    pictures.IN_MEMORY = 2**26
    plan._KEPT = 2**24
    sources: dict[str, Any] = {"episodes": root / "episodes"}
    own = "benchmarks.memory:Noise"
    heads = {"q_hidden": [64], "v_hidden": [64]}
    fit = {"updates": updates, "batch_size": 32, "evaluate_every": updates}
    work: Any
    if name == "episodes":
        work = lambda: write_episodes(root / "episodes", steps, (320, 192))  # noqa: E731
    elif name == "fit-policy":
        from digiq.policies import fit as stage

        config = load(stage.FitPolicyConfig, {"fit": fit})
        work = lambda: stage.run(config, **sources, out=root / "behavior")  # noqa: E731
    elif name == "propose":
        from digiq.proposals import propose as stage

        policy = root / "behavior"
        told = {"source": "policy" if policy.is_dir() else "perturbed", "num_candidates": candidates}
        config = load(stage.ProposeConfig, told)
        work = lambda: stage.run(  # noqa: E731
            config, **sources, policy=policy if policy.is_dir() else None, out=root / "proposals"
        )
    elif name == "featurize":
        from digiq.features import extract as stage

        (root / "vlm").mkdir(exist_ok=True)
        (root / "vlm" / "config.json").write_text("{}")
        config = load(stage.FeaturizeConfig, {"engine": own, "prompt": "general"})
        work = lambda: stage.run(  # noqa: E731
            config, **sources, proposals=root / "proposals", vlm=root / "vlm", out=root / "features"
        )
    elif name == "train-q":
        from digiq.critics import train as stage

        told = {"heads": heads, "epochs": 1, "steps_per_epoch": 20, "batch_size": 64}
        config = load(stage.TrainQConfig, {"critic": told, "memory": "stream"})
        work = lambda: stage.run(  # noqa: E731
            config, **sources, features=root / "features", out=root / "critic"
        )
    else:
        from digiq.extraction import distill as stage

        config = load(
            stage.DistillConfig,
            {"objective": "best_of_n", "best_of_n": {"threshold": 0.0}, "fit": fit},
        )
        given: dict[str, Any] = {
            part: root / part for part in ("behavior", "proposals", "features", "critic")
        }
        work = lambda: stage.run(config, **sources, **given, out=root / "policy")  # noqa: E731
    started = time.perf_counter()
    spent = sum(os.times()[:2])
    with Watch() as watch:
        work()
    return {
        "memory_mb": (watch.most - watch.before) / 1e6,
        "seconds": time.perf_counter() - started,
        "processor_seconds": sum(os.times()[:2]) - spent,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(slope, intercept, R²) of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    total = np.square(np.asarray(y) - np.mean(y)).sum()
    return float(slope), float(intercept), float(1 - np.square(rest).sum() / total) if total else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of steps, at least two")
    parser.add_argument("--candidates", type=int, default=8, help="N of propose")
    parser.add_argument("--updates", type=int, default=20, help="of the fits")
    parser.add_argument(
        "--stages",
        nargs="+",
        default=STAGES,
        choices=STAGES,
        help="in this order; without fit-policy, another source proposes",
    )
    parser.add_argument("--directory", type=Path, help="where everything is written, and removed")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} steps")
    parser.add_argument("--stage", nargs=3, metavar=("NAME", "ROOT", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        name, root, steps = options.stage
        print(json.dumps(run_stage(name, Path(root), int(steps), options.candidates, options.updates)))
        return
    sizes = options.steps or (QUICK if options.quick else FULL)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.stages}
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        for steps in sizes:
            root = Path(folder) / str(steps)
            root.mkdir()
            for name in found:
                command = [sys.executable, __file__, "--stage", name, str(root), str(steps)]
                command += ["--candidates", str(options.candidates), "--updates", str(options.updates)]
                here = Path(__file__).parents[1]
                paths = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH", "")]))
                done = subprocess.run(
                    command,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": paths},
                )
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{steps:,} steps, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(root)
    report(sizes, found)


def report(sizes: Sequence[int], found: dict[str, list[dict[str, float]]]) -> None:
    """Prints a table, then everything as one JSON object."""
    heads = " | ".join(f"{n:,}" for n in sizes)
    print(
        f"| stage | MB at {heads} | bytes a step | R² | GB at 5.7 M | s at {heads} | ms a step | R² | h at 5.7 M |"
    )
    print("|" + "---|" * (7 + 2 * len(sizes)))
    lines = {}
    for name, rows in found.items():
        memory, seconds = ([row[key] for row in rows] for key in ("memory_mb", "processor_seconds"))
        slope, start, fit = line(sizes, memory)
        pace, begin, straight = line(sizes, seconds)
        lines[name] = {
            "bytes_a_step": slope * 1e6,
            "memory_r2": fit,
            "gb_at_all": (start + slope * ALL) / 1e3,
            "ms_a_step": pace * 1e3,
            "seconds_r2": straight,
            "hours_at_all": (begin + pace * ALL) / 3600,
        }
        cells = [name, *(f"{m:.0f}" for m in memory), f"{slope * 1e6:.0f}", f"{fit:.2f}"]
        cells += [f"{lines[name]['gb_at_all']:.1f}", *(f"{s:.0f}" for s in seconds)]
        cells += [f"{pace * 1e3:.2f}", f"{straight:.2f}", f"{lines[name]['hours_at_all']:.1f}"]
        print("| " + " | ".join(cells) + " |")
    print(json.dumps({"steps": list(sizes), "stages": found, "lines": lines}))


if __name__ == "__main__":
    main()
