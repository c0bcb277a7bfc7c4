"""Everything that may go wrong around a run, tried for a while: kills, signals, damage, full disks, junk from outside.

  python -m tests.soak --minutes 60 --out docs/results/soak.md

Prints a table of what was tried and what survived; exit status 1 if anything did not.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from digiq.artifacts import atomic_write_text, read_manifest
from tests.soak import damage, disks, fuzz, kills
from tests.soak.base import DIGIQ, RECIPE, ROOT, Clock, Table, base_run, environment, stages_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="about how long")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is killed, damaged and mutated, and when"
    )
    parser.add_argument(
        "--scratch", type=Path, help="where the trials run; a finished base run in it is used again"
    )
    parser.add_argument(
        "--aitw", type=Path, default=ROOT.parent / "shared/data/aitw_sample", help="real TFRecords"
    )
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="digiq-soak-") as made:
        scratch = (options.scratch or Path(made)).absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        started, table, rng = time.time(), Table(), random.Random(options.seed)
        run = base_run(scratch)
        nodes = stages_of(run)
        threads = repeat(run, scratch, table)
        left = options.minutes * 60 - (time.time() - started)
        share = left / 10
        quick = nodes if options.minutes > 30 else nodes[:6]
        for name, part in {
            "damage": lambda: damage.damage(run, scratch, table, Clock.of(2 * share), rng),
            "fuzz": lambda: all_fuzz(
                options, scratch, table, rng, scale=1.0 if options.minutes > 30 else 0.1
            ),
            "disks": lambda: (
                disks.full(nodes, scratch, table),
                disks.unwritable(quick, scratch, table),
                disks.together(quick, scratch, table),
            ),
            "signals": lambda: kills.signals(quick, scratch, table, rng),
            "kills": lambda: kills.kills(
                nodes, scratch, table, Clock.of(max(share, started + options.minutes * 60 - time.time())), rng
            ),
        }.items():
            before = time.time()
            part()
            print(f"{name}: {(time.time() - before) / 60:.1f} min", flush=True)
        text = report(table, threads, (time.time() - started) / 60)
    print(text)
    if options.out:
        atomic_write_text(options.out, text)
    raise SystemExit(bool(table.failures))


def repeat(run: Path, scratch: Path, table: Table) -> str:
    """The same run twice more: as before, where every stage's content must be the same, and with one thread.

    Returns:
      How many stages have the same content with one thread: sums in another order differ in their last digits.
    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    one_thread["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    said = ""
    for name, threads in (("again", {}), ("one_thread", one_thread)):
        shutil.rmtree(
            scratch / name, ignore_errors=True
        )  # with its rows of features, which runs share by content
        asked = [*DIGIQ, "run", str(RECIPE), "--output", str(scratch / name)]
        done = subprocess.run(asked, env={**environment(), **threads}, capture_output=True, text=True)
        if done.returncode:
            table.add(f"one seed twice ({name})", done.stderr[-300:])
            continue
        equal = 0
        nodes = stages_of(run)
        for node in nodes:
            other = scratch / name / run.name / node.out.relative_to(run)
            is_equal = read_manifest(other).digest == read_manifest(node.out).digest
            equal += is_equal
            if name == "again":
                table.add("one seed twice", "" if is_equal else f"{node.name}: another content")
        if name == "one_thread":
            said = (
                f"With one thread instead of all, {equal} of {len(nodes)} stages have the same content.\n\n"
            )
    return said


def all_fuzz(
    options: argparse.Namespace, scratch: Path, table: Table, rng: random.Random, scale: float
) -> None:
    fuzz.strings(int(20_000 * scale), table, rng)
    fuzz.configs(int(2_000 * scale), scratch, table, rng)
    fuzz.task_files(int(2_000 * scale), scratch, table, rng)
    fuzz.models(int(300 * scale), scratch, table, rng)
    if options.aitw.is_dir():
        fuzz.records(int(2_000 * scale), options.aitw, scratch, table, rng)


def report(table: Table, threads: str, minutes: float) -> str:
    """The table as a page."""
    rows = "\n".join(f"| {kind} | {tried:,} | {survived:,} |" for kind, tried, survived in table.rows())
    failed = "".join(f"- {kind}: {problem}\n" for kind, problem in table.failures[:50]) or "Nothing failed.\n"
    return (
        "# What runs survive\n\n"
        "`make soak` tries what goes wrong around a run of every stage: processes killed at any moment, files damaged, "
        "disks that fill, junk from outside. Survived means: named in one sentence and nothing finished lost, the same "
        "content in the end as undisturbed, or provably harmless.\n\n"
        f"| trial | tried | survived |\n|---|---:|---:|\n{rows}\n\n{failed}\n{threads}"
        f"{minutes:.0f} minutes on {platform.machine()}, Python {platform.python_version()}.\n"
    )


if __name__ == "__main__":
    main()
