"""Importing Android in the Wild: synthetic shards of many episodes, in one process and in one process per core.

    .venv/bin/python benchmarks/import_aitw.py --episodes 10000

For each, it prints steps per second, processor time per step, and the peak memory of the importing process. Shards are
written as in the tests, with noise in place of screens, which is the worst case for PNG. Each import runs in its own
process, so that its memory is measured alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

_IMPORT = """
import json, resource, sys, time
from pathlib import Path
from digiq.data.import_episodes import ImportConfig, run
from digiq.data.importers import ahead
from digiq.data.importers.aitw import AitW

if __name__ == "__main__":
    source, out, cores = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    ahead.LARGE = 0
    ahead.usable_cores = lambda: list(range(cores))
    started = time.monotonic()
    counts = run(ImportConfig(format="aitw", aitw=AitW(source=source, held_out_apps=0)), out=out).manifest.counts
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = dict(counts, wall=time.monotonic() - started, cpu=sum(u.ru_utime + u.ru_stime for u in (own, others)))
    print(json.dumps(found | {"own_mib": own.ru_maxrss / 1024, "other_mib": others.ru_maxrss / 1024}))
"""


def main() -> None:
    """Writes the shards, imports them and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=3, help="of an episode")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--height", type=int, default=96, help="of a screen; it is half as wide")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.monotonic()
        size = write(root / "source", options)
        print(f"{size / 1e6:.0f} MB of shards in {time.monotonic() - started:.0f} s", file=sys.stderr)
        script = root / "import_it.py"
        script.write_text(_IMPORT)
        print(
            "| processes | episodes | steps | steps a second | ms of processor time a step | own MiB | largest other, MiB |"
        )
        print("|---|---|---|---|---|---|---|")
        for cores in options.cores:
            command = [
                sys.executable,
                str(script),
                str(root / "source"),
                str(root / f"out-{cores}"),
                str(cores),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            cells = [cores, found["episodes"], found["steps"], round(found["steps"] / found["wall"])]
            cells += [f"{1000 * found['cpu'] / found['steps']:.2f}", round(found["own_mib"])]
            cells += [round(found["other_mib"]) if cores > 1 else "–"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(
        f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", file=sys.stderr
    )


def write(source: Path, options: argparse.Namespace) -> int:
    """Writes the shards; returns their size in bytes."""
    from tests.digiq.data.test_aitw import example, framed, step

    draw, screen = np.random.default_rng(0), (options.height, options.height // 2, 3)
    size = {"image/height": [screen[0]], "image/width": [screen[1]]}
    # A few screens are reused, since drawing them is not measured.
    screens = [draw.integers(0, 255, screen, np.uint8).tobytes() for _ in range(16)]
    total = 0
    for shard in range(options.shards):
        steps = []
        for number in range(shard, options.episodes, options.shards):
            for t in range(options.steps):
                kind = 10 if t == options.steps - 1 else 4
                image = {"image/encoded": [screens[(number + t) % len(screens)]]}
                steps.append(step(f"episode {number}", t, options.steps, kind, **size, **image))
        path = source / f"app/app-{shard:05d}-of-{options.shards:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"".join(framed(example(s)) for s in steps), 1))
        total += path.stat().st_size
    return total


if __name__ == "__main__":
    main()
