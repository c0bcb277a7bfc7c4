"""Speed of the row store against plain files of the same bytes, on the same disk, in the same process.

- *append*: rows appended as by ``digiq featurize``, shard by shard with checksums, against ``tofile`` of the same
  bfloat16 numbers with an fsync of each file.
- *warm*: all rows read back, with checksums verified, while they are still in the system's cache, against
  ``np.fromfile``.
- *cold*: the same after they were dropped from the cache (``posix_fadvise``).

Each figure is a ratio of rates, 1.0 if the store is as fast as the plain file: the median over alternating rounds.

    .venv/bin/python benchmarks/feature_store.py
    .venv/bin/python benchmarks/feature_store.py --quick --directory /a/disk

The last line is one JSON object.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ml_dtypes
import numpy as np

DIM = 4096


def forget(root: Path) -> None:
    """Drops the files below ``root`` from the system's cache."""
    for file in (f for f in root.rglob("*") if f.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--directory", type=Path, help="where to write; by default the system's folder for temporary files"
    )
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.rounds = 128, 3

    from digiq.features.store import ROWS_PER_SHARD, RowStore, row_key

    shards = max(1, options.megabytes * 10**6 // (ROWS_PER_SHARD * DIM * 2))
    block = np.random.default_rng(0).normal(size=(ROWS_PER_SHARD, 1, DIM)).astype(np.float32)
    stored = block[:, 0].astype(ml_dtypes.bfloat16)
    keys = [[row_key(f"{s} {n}") for n in range(ROWS_PER_SHARD)] for s in range(shards)]
    size = shards * stored.nbytes
    spent: dict[str, list[float]] = {}

    def timed(name: str, work) -> None:  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        work()
        spent.setdefault(name, []).append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for number in range(options.rounds):
            root, raw = Path(directory) / f"store-{number}", Path(directory) / f"raw-{number}"
            raw.mkdir()
            store = RowStore(root, "rows", ["layer_01"], DIM)

            def write_raw(raw: Path = raw) -> None:
                for shard in range(shards):
                    with (raw / str(shard)).open("wb") as file:
                        block[:, 0].astype(ml_dtypes.bfloat16).tofile(file)
                        os.fsync(file.fileno())

            def append(store: RowStore = store) -> None:
                for shard in range(shards):
                    store.append(keys[shard], block)

            def read_raw(raw: Path = raw) -> None:
                out = np.empty((shards * ROWS_PER_SHARD, DIM), ml_dtypes.bfloat16)
                for shard in range(shards):
                    part = np.fromfile(raw / str(shard), ml_dtypes.bfloat16).reshape(-1, DIM)
                    out[shard * ROWS_PER_SHARD : (shard + 1) * ROWS_PER_SHARD] = part

            def read(root: Path = root) -> None:
                opened = RowStore(root, "rows", ["layer_01"], DIM)
                found = opened.read("layer_01", [key for shard in keys for key in shard])
                assert found.shape == (shards * ROWS_PER_SHARD, DIM)
                assert (found[-1] == stored[-1]).all()

            for name, work in (("append raw", write_raw), ("append", append)):
                timed(name, work)
            for name, work in (("warm raw", read_raw), ("warm", read)):
                work()
                timed(name, work)
            for name, work in (("cold raw", read_raw), ("cold", read)):
                forget(Path(directory))
                timed(name, work)
    metrics = {
        f"{name}_vs_raw": statistics.median(
            raw / ours for raw, ours in zip(spent[f"{name} raw"], spent[name], strict=True)
        )
        for name in ("append", "warm", "cold")
    }
    print(
        f"{size / 1e6:.0f} MB in {shards} shards of {ROWS_PER_SHARD} x {DIM} bfloat16; median of {options.rounds}\n"
    )
    print(f"{'':>8} {'raw GB/s':>9} {'ours GB/s':>10} {'ratio':>6}")
    for name in ("append", "warm", "cold"):
        rates = [size / 1e9 / statistics.median(spent[key]) for key in (f"{name} raw", name)]
        print(f"{name:>8} {rates[0]:>9.2f} {rates[1]:>10.2f} {metrics[f'{name}_vs_raw']:>6.2f}")
    print(
        json.dumps(
            {
                "benchmark": "feature_store",
                "metrics": {name: round(value, 3) for name, value in metrics.items()},
                "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
                "versions": {n: importlib.metadata.version(n) for n in ("numpy", "tensorstore")},
            }
        )
    )


if __name__ == "__main__":
    main()
