"""The row store: append-only Zarr v3 arrays of features, keyed by content.

A row's key is the digest of its inputs (image, prompt, drawn action, model, layers, pooling). Rewards and discounts are
not part of it, so rows serve every artefact that needs the same inputs, and new episodes cost only their new rows. On
disk, or under a ``gs://`` or ``s3://`` URL::

    <root>/<group>/layer_05/{zarr.json, c/0/0, c/1/0, ...}   bfloat16 [rows, D], one array per layer
    <root>/<group>/key/{zarr.json, c/0/0, ...}               uint8 [rows, 16]; zeros: no row

A shard is the unit of work: its rows are written layer by layer and its keys last, so a shard without keys counts as
absent and a killed run loses at most the shard in progress. Arrays grow by many shards at a time, so they are longer
than what is written. Sharding with crc32c at both levels turns a flipped byte into an error, and a missing shard is
never filled in.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import tensorstore as ts

from digiq.errors import ArtifactError

ROWS_PER_SHARD = 512
KEY_BYTES = 16
_CHUNK_ROWS, _CHUNK_BYTES = 64, 2**16  # the least that is read to get one row
_RECENT = 2**14  # keys waiting to be sorted in
_READERS = 4  # shards read at once
_GROWTH = 64  # shards that an array grows by: its metadata are rewritten once per this many appends
_KEY = "key"
_MEND = "run 'featurize' with --overwrite, which computes damaged rows again"


def row_key(*parts: str | bytes) -> bytes:
    """Digest of the parts, 16 bytes; the parts' lengths are hashed too, to keep them apart."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()[:KEY_BYTES]


class KeyTable:
    """The place of each key's row: sorted arrays of 24 bytes per key, because a dict of millions is too large."""

    def __init__(self) -> None:
        self._high, self._low = np.empty(0, np.uint64), np.empty(0, np.uint64)
        self._place = np.empty(0, np.int64)
        self._recent: dict[bytes, int] = {}  # not sorted in yet

    def __len__(self) -> int:
        return len(self._place) + len(self._recent)

    def add(self, keys: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> None:
        """Adds keys uint8 [n, 16] and their rows; a known key gets the new row."""
        self._recent |= dict(zip(map(bytes, keys), places.tolist(), strict=True))
        if len(self._recent) > max(_RECENT, len(self._place) // 4):
            self._sort_in()

    def find(self, keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """The rows of keys, int64 [n]; -1 for unknown keys."""
        found = np.full(len(keys), -1, np.int64)
        if len(self._place):
            high, low = _halves(keys)
            at = np.searchsorted(self._high, high)
            open_ones = np.arange(len(keys))
            while len(open_ones):
                here = at[open_ones]
                inside = here < len(self._high)
                here = np.minimum(here, len(self._high) - 1)
                same = inside & (self._high[here] == high[open_ones])
                hit = same & (self._low[here] == low[open_ones])
                found[open_ones[hit]] = self._place[here[hit]]
                open_ones = open_ones[same & ~hit]  # two keys may share their first half
                at[open_ones] += 1
        if self._recent:
            for i, key in enumerate(map(bytes, keys)):
                found[i] = self._recent.get(key, int(found[i]))
        return found

    def _sort_in(self) -> None:
        high, low = _halves(np.frombuffer(b"".join(self._recent), np.uint8).reshape(-1, KEY_BYTES))
        place = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        self._recent = {}
        # Among equal keys the newest comes first, and only that one is kept.
        high, low, place = (
            np.concatenate([new, old])
            for new, old in ((high, self._high), (low, self._low), (place, self._place))
        )
        order = np.lexsort((low, high))
        high, low, place = high[order], low[order], place[order]
        kept = np.ones(len(place), bool)
        kept[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        self._high, self._low, self._place = high[kept], low[kept], place[kept]


def _halves(keys: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Keys uint8 [n, 16] as two numbers each."""
    numbers = np.ascontiguousarray(keys).view(">u8").astype(np.uint64)
    return np.ascontiguousarray(numbers[:, 0]), np.ascontiguousarray(numbers[:, 1])


def distinct(
    keys: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct keys of uint8 [n, 16]: the first place of each, int64 [m] in order, and the index of each key among
    them, int64 [n]."""
    high, low = _halves(keys)
    order = np.lexsort((low, high))  # stable: equal keys stay in order
    begins = np.ones(len(order), bool)
    begins[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    first = order[begins]
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    which = np.empty(len(order), np.int64)
    which[order] = number[np.cumsum(begins) - 1]
    return np.sort(first), which


def as_keys(keys: Sequence[bytes] | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The keys as uint8 [n, 16]."""
    if isinstance(keys, np.ndarray):
        return keys
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


class RowStore:
    """Rows of ``dim`` features for each of several layers, all under one group of a root.

    Args:
      root: a local directory, or a URL that tensorstore opens (``gs://...``, ``s3://...``).
      group: path under the root.
      layers: names of the arrays.
      dim: width of a row.
      about: describes the rows; kept as the arrays' Zarr attributes.
      rows_per_shard: most rows per :meth:`append` in a new group; an existing group keeps its number.
      repair: read everything back first, and forget the shards that cannot be read; their rows can be appended anew.

    Raises:
      ArtifactError: a shard of keys cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        group: str,
        layers: Sequence[str],
        dim: int,
        *,
        about: Mapping[str, Any] | None = None,
        rows_per_shard: int = ROWS_PER_SHARD,
        repair: bool = False,
    ):
        local = "://" not in str(root)
        self.path = f"{Path(root).resolve() / group}" if local else f"{str(root).rstrip('/')}/{group}"
        self._about = dict(about or {})
        self.layers, self.dim, self.rows_per_shard = tuple(layers), dim, rows_per_shard
        self._lock_file = Path(self.path) / "rows.lock" if local else None
        spec = {"driver": "file", "path": f"{self.path}/"} if local else f"{self.path}/"
        # One fsync per file, below, instead of two per file and more for deletions and renames.
        self._kv = ts.KvStore.open(spec, context=ts.Context({"file_io_sync": False})).result()
        self._rows, self._listed = KeyTable(), set[int]()
        self._growing: dict[str, Any] = {}  # opened arrays, to append to
        if repair:
            with self._locked():
                self._drop_damaged()
        try:
            self._keep_shard_size()
        except ValueError as error:
            raise ArtifactError(f"{self.path}/{_KEY}/zarr.json: not readable; {_MEND}.") from error
        self._load_keys()

    def __contains__(self, key: bytes) -> bool:
        return bool(self.has(as_keys([key]))[0])

    def has(self, keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Whether each of the keys, uint8 [n, 16], has a row here."""
        return self._rows.find(keys) >= 0

    def __len__(self) -> int:
        return len(self._rows)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Waits until no other local process appends here, and reads the keys that others have added.

        Under a URL there is no lock, so only one process may append at a time.
        """
        with self._locked():
            self._load_keys()
            yield

    def append(
        self, keys: Sequence[bytes] | npt.NDArray[np.uint8], features: npt.NDArray[np.float32]
    ) -> None:
        """Writes one shard; see :meth:`lock`.

        Args:
          keys: at most ``rows_per_shard``, none of them stored yet.
          features: [len(keys), len(layers), dim]; stored as bfloat16.
        """
        size = self.rows_per_shard
        if not 0 < len(keys) <= size or features.shape != (len(keys), len(self.layers), self.dim):
            raise ValueError(f"a shard takes 1 to {size} rows of {(len(self.layers), self.dim)}")
        shard = next(n for n in itertools.count(len(self._listed)) if not self._has(_file(_KEY, n)))
        start = shard * size
        for i, layer in enumerate(self.layers):
            if (
                len(keys) < size
            ):  # a full shard replaces leftovers of a killed run; a partial one would be added to them
                self._delete(layer, shard)
            array = self._grown(layer, start + size)
            array[start : start + len(keys)].write(features[:, i].astype(ml_dtypes.bfloat16)).result()
            self._sync(layer, shard)
        listing = np.zeros((size, KEY_BYTES), np.uint8)
        listing[: len(keys)] = as_keys(keys)
        self._grown(_KEY, start + size)[start : start + size].write(listing).result()
        self._sync(_KEY, shard)
        self._rows.add(as_keys(keys), np.arange(start, start + len(keys)))
        self._listed.add(shard)

    def read(self, layer: str, keys: Sequence[bytes] | npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """One layer of the rows with these keys, bfloat16 [len(keys), dim].

        Raises:
          ArtifactError: a row is not stored, its shard is missing, or its checksum shows a changed byte ("Digest
            mismatch").
        """
        return self.rows(layer, keys).load()

    def rows(self, layer: str, keys: Sequence[bytes] | npt.NDArray[np.uint8]) -> StoredLayer:
        """The same rows, read on request.

        Raises:
          ArtifactError: a row is not stored.
        """
        rows = self._rows.find(as_keys(keys))
        if absent := int((rows < 0).sum()):
            raise ArtifactError(f"{self.path}: {absent} of {len(keys)} rows are missing; {_MEND}.")
        return StoredLayer(self, layer, rows)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._lock_file is None:
            yield
            return
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_file.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _keep_shard_size(self) -> None:
        for name in (_KEY, *self.layers):
            if self._has(f"{name}/zarr.json"):
                self.rows_per_shard = self._open(name).chunk_layout.write_chunk.shape[0]
                return

    def _drop_damaged(self) -> None:
        for name in (_KEY, *self.layers):
            try:
                self._open(name)
            except ValueError:  # without a readable zarr.json every shard below it is dropped
                self._kv.write(f"{name}/zarr.json", None).result()
        self._keep_shard_size()
        for shard in self._shards():
            low = shard * self.rows_per_shard
            try:
                listing = self._read(_KEY, shard, low, low + self.rows_per_shard)
                high = low + int(listing.any(axis=1).sum())
                for layer in self.layers:
                    self._read(layer, shard, low, high)
            except ArtifactError:
                for name in (_KEY, *self.layers):
                    self._delete(name, shard)

    def _load_keys(self) -> None:
        """Loads the keys of shards that are not known yet."""
        size = self.rows_per_shard
        for shard in sorted(set(self._shards()) - self._listed):
            listing = self._read(_KEY, shard, shard * size, (shard + 1) * size)
            keys = listing[listing.any(axis=1)]
            self._rows.add(keys, shard * size + np.arange(len(keys)))
            self._listed.add(shard)

    def _shards(self) -> list[int]:
        """Numbers of the shards whose keys are listed."""
        prefix = f"{_KEY}/c/"
        span = ts.KvStore.KeyRange(inclusive_min=prefix, exclusive_max=f"{_KEY}/c0")  # '0' follows '/'
        names = [name.decode().removeprefix(prefix) for name in self._kv.list(span).result()]
        return sorted(int(name.removesuffix("/0")) for name in names if name.endswith("/0"))

    def _sync(self, name: str, shard: int) -> None:
        """Waits until a file is on disk, so that features precede their keys even if the power fails."""
        if self._lock_file is not None:
            file = os.open(f"{self.path}/{_file(name, shard)}", os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _delete(self, name: str, shard: int) -> None:
        self._kv.write(_file(name, shard), None).result()

    def _has(self, file: str) -> bool:
        return self._kv.read(file).result().state == "value"

    def _read(self, name: str, shard: int, low: int, high: int) -> npt.NDArray[Any]:
        file = f"{self.path}/{_file(name, shard)}"
        try:
            return self._open(name)[low:high].read().result()
        except ValueError as error:
            if not self._has(_file(name, shard)):
                raise ArtifactError(f"{file}: this shard is missing; {_MEND}.") from None
            whole = " ".join(str(error).split())
            reason = "Digest mismatch: its bytes have changed" if "Digest mismatch" in whole else whole[:300]
            raise ArtifactError(f"{file}: {reason}; {_MEND}.") from None

    def _open(self, name: str, metadata: dict[str, Any] | None = None) -> Any:
        """Opens an array, or creates it anew if ``metadata`` are given."""
        spec: dict[str, Any] = {
            "driver": "zarr3",
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
        }
        kvstore = self._kv / f"{name}/"
        if metadata is None:
            return ts.open(spec, kvstore=kvstore, open=True).result()
        return ts.open(spec | {"metadata": metadata}, kvstore=kvstore, create=True).result()

    def _grown(self, name: str, rows: int) -> Any:
        """An array of at least ``rows``; created if absent."""
        known = self._growing.get(name)
        if known is None or known.shape[0] < rows:
            step = _GROWTH * self.rows_per_shard
            room = -(-rows // step) * step
            if self._has(f"{name}/zarr.json"):
                known = self._open(name)  # another process may have grown it
                if known.shape[0] < rows:
                    known = known.resize(exclusive_max=[room, None]).result()
            else:
                known = self._open(name, self._metadata(name, room))
            self._growing[name] = known
        return known

    def _metadata(self, name: str, rows: int) -> dict[str, Any]:
        size = self.rows_per_shard
        # Keys are always read whole; streaming during training reads a few rows of features at a time.
        fit = max(1, _CHUNK_BYTES // (2 * self.dim))
        inner = min(_CHUNK_ROWS, 1 << (fit.bit_length() - 1))
        width, inner = (KEY_BYTES, size) if name == _KEY else (self.dim, math.gcd(inner, size))
        crc = {"name": "crc32c"}
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": [inner, width],
            "codecs": [{"name": "bytes"} if name == _KEY else little, crc],
            "index_codecs": [little, crc],
        }
        return {
            "shape": [rows, width],
            "data_type": "uint8" if name == _KEY else "bfloat16",
            "fill_value": 0,
            "attributes": self._about,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size, width]}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        }


class StoredLayer:
    """Some rows of one layer of a :class:`RowStore`, bfloat16 [n, dim], that stay on disk until requested."""

    dtype = np.dtype(ml_dtypes.bfloat16)

    def __init__(self, store: RowStore, layer: str, rows: npt.NDArray[np.int64]):
        self._store, self._layer, self._rows = store, layer, rows
        self.shape = (len(rows), store.dim)

    @functools.cached_property
    def _array(self) -> Any:
        return self._store._open(self._layer)

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """int64 [n]: the rows in storage order; a pass in this order reads every chunk once."""
        return np.argsort(self._rows, kind="stable")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: npt.NDArray[np.integer] | slice) -> npt.NDArray[Any]:
        """bfloat16 [k, dim], for k row numbers or a slice.

        Raises:
          ArtifactError: a shard is missing, or a byte has changed ("Digest mismatch").
        """
        rows = self._rows[wanted]
        if not len(rows):
            return np.empty((0, self.shape[1]), self.dtype)
        try:
            return self._array[rows].read().result()
        except ValueError:
            return self._by_shard(rows)  # this names the damaged file

    def load(self) -> npt.NDArray[Any]:
        """All rows, bfloat16 [n, dim], read shard by shard."""
        return self._by_shard(self._rows)

    def _by_shard(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        shards = rows // self._store.rows_per_shard
        out = np.empty((len(rows), self.shape[1]), self.dtype)

        def read(shard: int) -> None:
            here = np.flatnonzero(shards == shard)
            low, high = int(rows[here].min()), int(rows[here].max()) + 1
            part = self._store._read(self._layer, shard, low, high)
            places: Any = rows[here] - low
            if (
                len(here) == high - low
                and here[-1] - here[0] == high - low - 1
                and (np.diff(places) == 1).all()
            ):
                out[here[0] : here[-1] + 1] = part  # in storage order: one copy, not one per row
            else:
                out[here] = part[places]

        # A disk serves several reads at once faster than one by one; more shards at once would only cost memory.
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read, np.unique(shards).tolist()))
        return out


def _file(name: str, shard: int) -> str:
    return f"{name}/c/{shard}/0"
