"""The row store: what is written reads back, is found by content, and damage is named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from digiq.errors import ArtifactError
from digiq.features.store import _GROWTH, RowStore, row_key

LAYERS, DIM, SIZE = ("layer_02", "layer_05"), 6, 16


def open_store(root, **options):
    return RowStore(root, "group", LAYERS, DIM, rows_per_shard=SIZE, **options)


def rows(*numbers):
    """Keys and features that follow from the numbers alone."""
    keys = [row_key(str(n)) for n in numbers]
    features = np.stack([np.random.default_rng(n).normal(size=(len(LAYERS), DIM)) for n in numbers])
    return keys, features.astype(np.float32)


def check(store, *numbers):
    keys, features = rows(*numbers)
    for i, layer in enumerate(LAYERS):
        np.testing.assert_array_equal(store.read(layer, keys), features[:, i].astype(ml_dtypes.bfloat16))


def shard_file(root, shard, name=LAYERS[0]) -> Path:
    return root / "group" / name / "c" / str(shard) / "0"


def flip_byte(file: Path, position=5):
    data = bytearray(file.read_bytes())
    data[position] ^= 0x10
    file.write_bytes(data)


def test_rows_read_back_in_any_order_and_by_another_process(tmp_path):
    store = open_store(tmp_path)
    store.append(*rows(*range(16)))
    store.append(*rows(*range(16, 20)))
    store.append(*rows(20))
    check(store, 3, 17, 20, 3, 0)
    check(open_store(tmp_path), *reversed(range(21)))
    assert row_key("21") not in store


def test_rows_are_read_when_they_are_asked_for(tmp_path):
    store = open_store(tmp_path)
    for start in (0, 16, 32):
        store.append(*rows(*range(start, start + 16)))
    numbers = [40, 3, 17, 3, 0, 33]
    keys, features = rows(*numbers)
    stored = store.rows(LAYERS[1], keys)
    expected = features[:, 1].astype(ml_dtypes.bfloat16)
    assert stored.shape == (len(stored), DIM) == (6, DIM)
    np.testing.assert_array_equal(stored[np.array([5, 0, 0])], expected[[5, 0, 0]])
    np.testing.assert_array_equal(stored[1:4], expected[1:4])
    assert stored[:0].shape == (0, DIM)
    np.testing.assert_array_equal(stored.load(), expected)
    assert [numbers[n] for n in stored.order] == sorted(numbers)
    with pytest.raises(ArtifactError, match="1 of 2 rows are missing"):
        store.rows(LAYERS[0], [*keys[:1], row_key("99")])


def test_damage_is_named_when_the_row_is_read(tmp_path):
    store = open_store(tmp_path)
    for start in (0, 16, 32):
        store.append(*rows(*range(start, start + 16)))
    keys, _ = rows(*range(48))
    flip_byte(shard_file(tmp_path, 1))
    shard_file(tmp_path, 2).unlink()
    stored = open_store(tmp_path).rows(LAYERS[0], keys)
    assert stored[np.arange(16)].shape == (16, DIM), "rows elsewhere are still good"
    with pytest.raises(ArtifactError, match="c/1/0: Digest mismatch"):
        stored[np.array([2, 20])]
    with pytest.raises(ArtifactError, match="c/2/0: this shard is missing"):
        stored[np.array([40])]


def test_one_row_costs_little_to_read_however_wide_it_is(tmp_path):
    """The least that is read is a chunk: 64 rows of narrow features, few of wide ones."""
    for dim, expected in ((8, 64), (512, 64), (4096, 8), (100_000, 1)):
        store = RowStore(tmp_path, f"of-{dim}", ["layer"], dim)
        store.append([row_key("a")], np.ones((1, 1, dim), np.float32))
        assert store._open("layer").chunk_layout.read_chunk.shape == (expected, dim)


def test_rows_of_zeros_are_stored(tmp_path):
    store = open_store(tmp_path)
    keys, features = rows(1, 2)
    store.append(keys, features * 0)
    assert shard_file(tmp_path, 0).is_file()
    assert not open_store(tmp_path).read(LAYERS[0], keys).astype(np.float32).any()


def test_files_are_plain_zarr(tmp_path):
    keys, features = rows(*range(5))
    open_store(tmp_path).append(keys, features)
    path = {"driver": "file", "path": str(tmp_path / "group" / LAYERS[1])}
    array = ts.open({"driver": "zarr3", "kvstore": path}, open=True).result()
    assert array.dtype == ts.bfloat16 and array.shape[1] == DIM
    np.testing.assert_array_equal(array[:5].read().result(), features[:, 1].astype(ml_dtypes.bfloat16))


def test_metadata_are_written_once_in_many_appends(tmp_path):
    """And by another process's store, too, when one has outgrown what this one knows of."""
    one, other = open_store(tmp_path), open_store(tmp_path)
    known = tmp_path / "group" / LAYERS[0] / "zarr.json"
    shards = _GROWTH + 1
    written = set[int]()
    for shard in range(shards):
        store = (one, other)[shard % 2]
        with store.lock():
            store.append(*rows(*range(16 * shard, 16 * shard + 16)))
        written.add(known.stat().st_mtime_ns)
    assert len(written) == 2
    check(open_store(tmp_path), *range(16 * shards))


def test_a_url_works_as_a_path():
    store = open_store("memory://features")
    store.append(*rows(*range(16)))
    store.append(*rows(16))
    check(store, 16, 2)
    assert store.path.startswith("memory://")


def test_a_missing_shard_is_named(tmp_path):
    store = open_store(tmp_path)
    store.append(*rows(*range(16)))
    store.append(*rows(*range(16, 32)))
    shard_file(tmp_path, 1).unlink()
    check(store, *range(16))
    with pytest.raises(ArtifactError, match=r"layer_02/c/1/0: this shard is missing.*--overwrite"):
        open_store(tmp_path).read(LAYERS[0], rows(20)[0])


def test_missing_keys_are_missing_rows(tmp_path):
    store = open_store(tmp_path)
    store.append(*rows(*range(16)))
    shard_file(tmp_path, 0, "key").unlink()
    with pytest.raises(ArtifactError, match=r"2 of 2 rows are missing"):
        open_store(tmp_path).read(LAYERS[0], rows(0, 1)[0])


@pytest.mark.parametrize("position", [0, 100, -1, -10], ids=["data", "data later", "index crc", "index"])
def test_a_flipped_byte_is_a_digest_mismatch(tmp_path, position):
    open_store(tmp_path).append(*rows(*range(16)))
    flip_byte(shard_file(tmp_path, 0), position)
    with pytest.raises(ArtifactError, match=r"layer_02/c/0/0: Digest mismatch"):
        open_store(tmp_path).read(LAYERS[0], rows(*range(16))[0])


def test_a_flipped_byte_among_the_keys_is_a_digest_mismatch(tmp_path):
    open_store(tmp_path).append(*rows(*range(16)))
    flip_byte(shard_file(tmp_path, 0, "key"))
    with pytest.raises(ArtifactError, match=r"key/c/0/0: Digest mismatch"):
        open_store(tmp_path)


def damage_data(root):
    flip_byte(shard_file(root, 1))


def damage_keys(root):
    flip_byte(shard_file(root, 1, "key"))


def remove_shard(root):
    shard_file(root, 1, LAYERS[1]).unlink()


@pytest.mark.parametrize("harm", [damage_data, damage_keys, remove_shard])
def test_repair_forgets_damaged_shards_alone(tmp_path, harm):
    store = open_store(tmp_path)
    for start in (0, 16, 32):
        store.append(*rows(*range(start, start + 16)))
    harm(tmp_path)
    store = open_store(tmp_path, repair=True)
    assert [n for n in range(48) if row_key(str(n)) not in store] == list(range(16, 32))
    store.append(*rows(*range(16, 32)))
    check(open_store(tmp_path), *range(48))


@pytest.mark.parametrize("name", [LAYERS[0], "key"])
def test_repair_survives_broken_metadata(tmp_path, name):
    open_store(tmp_path).append(*rows(*range(4)))
    (tmp_path / "group" / name / "zarr.json").write_text("{")
    with pytest.raises(ArtifactError, match=f"group/{name}"):
        open_store(tmp_path).read(LAYERS[0], rows(0)[0])
    store = RowStore(tmp_path, "group", LAYERS, DIM, repair=True)
    assert len(store) == 0 and store.rows_per_shard == SIZE
    store.append(*rows(*range(4)))
    check(open_store(tmp_path), *range(4))


def test_a_shard_cut_off_before_its_keys_is_written_again(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.append(*rows(*range(16)))
    grown = store._grown

    def killed(name, count):
        if name == "key":
            raise KeyboardInterrupt
        return grown(name, count)

    monkeypatch.setattr(store, "_grown", killed)
    with pytest.raises(KeyboardInterrupt):
        store.append(*rows(*range(16, 32)))
    store = open_store(tmp_path)
    assert len(store) == 16
    store.append(*rows(*range(40, 44)))
    check(open_store(tmp_path), *range(16), *range(40, 44))


_APPENDER = """
import sys
from digiq.features.store import RowStore, row_key
sys.path.insert(0, {here!r})
from test_store import open_store, rows
store = open_store({root!r})
with store.lock():
    for first in range(len(store), 16 * 10_000, 16):
        store.append(*rows(*range(first, first + 16)))
        print(first, flush=True)
"""


def test_killed_at_any_moment_what_is_listed_is_whole(tmp_path):
    script = _APPENDER.format(here=str(Path(__file__).parent), root=str(tmp_path))
    before = 0
    for shards in (1, 3, 8):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(shards):
            assert child.stdout.readline()
        time.sleep(shards / 5000)  # into the next shard
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        store = open_store(tmp_path)
        assert len(store) >= before + 16 * shards
        before = len(store)
        check(store, *range(before))
    with store.lock():
        store.append(*rows(*range(before, before + 16)))
    check(open_store(tmp_path), *range(before + 16))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_keys_keep_their_parts_apart(a, b):
    assert (row_key(*a) == row_key(*b)) == (a == b)


def test_a_group_keeps_its_shard_size(tmp_path):
    open_store(tmp_path).append(*rows(*range(16)))
    store = RowStore(tmp_path, "group", LAYERS, DIM, rows_per_shard=512)
    assert store.rows_per_shard == SIZE
    store.append(*rows(*range(16, 32)))
    check(store, *range(32))


def test_append_refuses_what_does_not_fit(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="a shard takes"):
        store.append(*rows(*range(17)))
    with pytest.raises(ValueError, match="a shard takes"):
        store.append(rows(1)[0], np.zeros((1, 2, DIM + 1), np.float32))
