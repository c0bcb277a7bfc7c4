"""The row store: rows come back, appending adds only what is new, damage is named."""

import numpy as np
import pytest

from digiq.errors import ArtifactError
from digiq.features.store import ROWS_PER_SHARD, RowStore, row_key


def rows(count: int, seed: int = 0) -> np.ndarray:
    # Halves are exact in bfloat16, so equality is meant.
    return np.random.default_rng(seed).integers(-8, 8, (count, 2, 6)).astype(np.float32) / 2


def keys(start: int, count: int) -> list[bytes]:
    return [row_key("row", str(i)) for i in range(start, start + count)]


@pytest.fixture
def store(tmp_path):
    store = RowStore(tmp_path, ["a", "b"], 6)
    store.append(keys(0, 5), rows(5))
    store.append(keys(5, ROWS_PER_SHARD), rows(ROWS_PER_SHARD, seed=1))
    return store


def test_rows_come_back_from_a_new_process_view(store):
    again = RowStore(store.path, ["a", "b"], 6)
    wanted = [*keys(5, 3), *keys(0, 5)]
    expected = np.concatenate([rows(ROWS_PER_SHARD, seed=1)[:3], rows(5)])
    for i, layer in enumerate(("a", "b")):
        got = again.read(layer, again.rows(wanted))
        np.testing.assert_array_equal(got.astype(np.float32), expected[:, i])
    assert keys(0, 1)[0] in again
    assert row_key("row", "9999") not in again


def test_zero_rows_are_stored_and_not_mistaken_for_missing_ones(tmp_path):
    store = RowStore(tmp_path, ["a", "b"], 6)
    store.append(keys(0, 2), np.zeros((2, 2, 6), np.float32))
    assert not store.read("a", store.rows(keys(0, 2))).any()


def test_an_unlisted_shard_is_written_again(store):
    # As after a kill between writing a shard and listing its keys.
    (store.path / "keys/00001.json").unlink()
    again = RowStore(store.path, ["a", "b"], 6)
    assert keys(5, 1)[0] not in again
    again.append(keys(5, 4), rows(4, seed=2))
    got = again.read("b", again.rows(keys(5, 4)))
    np.testing.assert_array_equal(got.astype(np.float32), rows(4, seed=2)[:, 1])


def shard_file(store: RowStore, layer: str, shard: int):
    return store.path / layer / "c" / str(shard) / "0"


def test_a_missing_shard_is_named(store):
    shard_file(store, "a", 1).unlink()
    fresh = RowStore(store.path, ["a", "b"], 6)
    with pytest.raises(ArtifactError, match="shard 1 of layer a is missing"):
        fresh.read("a", fresh.rows(keys(5, 1)))


def test_a_flipped_byte_is_named(store):
    file = shard_file(store, "b", 0)
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    fresh = RowStore(store.path, ["a", "b"], 6)
    with pytest.raises(ArtifactError, match="Digest mismatch in shard 0 of layer b"):
        fresh.read("b", fresh.rows(keys(0, 1)))
    fresh.read("b", fresh.rows(keys(5, 1)))


def test_keys_keep_their_parts_apart():
    assert row_key("ab", "c") != row_key("a", "bc")
    assert row_key("a", b"b") == row_key("a", "b")
