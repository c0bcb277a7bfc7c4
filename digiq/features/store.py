"""The row store: append-only Zarr v3 arrays of features, keyed by content.

A row's key is the digest of what it was computed from (image, prompt, drawn action, model, layers, pooling), so rows
are shared by every artefact that asks for the same thing. A shard file is the unit of work: its rows are computed,
written, and only then listed in ``keys/``; a killed run loses at most the shard it was in.

Sharding with crc32c at both levels makes a flipped byte an error, and reading never fills in for a missing shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from digiq import artifacts
from digiq.errors import ArtifactError

ROWS_PER_SHARD = 512
_CHUNK_ROWS = 64
KEY_BYTES = 16


def row_key(*parts: str | bytes) -> bytes:
    """Digest of the parts, which are kept apart by their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()[:KEY_BYTES]


class RowStore:
    """Rows of ``dim`` bfloat16 features for each of several layers.

    Args:
      path: a local directory, or a ``gs://`` or ``s3://`` URL that tensorstore opens.
      layers: names of the arrays.
      dim: width of a row.
    """

    def __init__(self, path: str | Path, layers: Sequence[str], dim: int):
        self.path = Path(path)
        self.layers, self.dim = tuple(layers), dim
        self._rows: dict[bytes, int] = {}
        self._shards = 0
        for file in sorted((self.path / "keys").glob("*.json")):
            for offset, key in enumerate(json.loads(file.read_text())):
                self._rows[bytes.fromhex(key)] = int(file.stem) * ROWS_PER_SHARD + offset
            self._shards = int(file.stem) + 1

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def rows(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Row numbers of keys that are all there, int64."""
        return np.array([self._rows[key] for key in keys], np.int64)

    def append(self, keys: Sequence[bytes], features: npt.NDArray[np.float32]) -> None:
        """Writes one shard.

        Args:
          keys: at most ``ROWS_PER_SHARD`` new ones.
          features: [len(keys), len(layers), dim].
        """
        if len(keys) > ROWS_PER_SHARD or features.shape != (len(keys), len(self.layers), self.dim):
            raise ValueError(f"a shard takes up to {ROWS_PER_SHARD} rows of {(len(self.layers), self.dim)}")
        start = self._shards * ROWS_PER_SHARD
        for i, layer in enumerate(self.layers):
            array = self._open(layer, rows=start + ROWS_PER_SHARD)
            array[start : start + len(keys)].write(features[:, i].astype(ml_dtypes.bfloat16)).result()
        listing = json.dumps([key.hex() for key in keys])
        artifacts.atomic_write_text(self.path / "keys" / f"{self._shards:05d}.json", listing)
        self._rows |= {key: start + i for i, key in enumerate(keys)}
        self._shards += 1

    def read(self, layer: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Rows of one layer, bfloat16 [len(rows), dim].

        Raises:
          ArtifactError: a shard is missing, or its checksum shows a changed byte.
        """
        array = self._open(layer)
        out = np.empty((len(rows), self.dim), ml_dtypes.bfloat16)
        for shard in np.unique(rows // ROWS_PER_SHARD):
            here = np.flatnonzero(rows // ROWS_PER_SHARD == shard)
            low, high = int(rows[here].min()), int(rows[here].max()) + 1
            try:
                block = array[low:high].read().result()
            except Exception as error:
                raise self._broken(layer, int(shard), error) from None
            out[here] = block[rows[here] - low]
        return out

    def _broken(self, layer: str, shard: int, error: Exception) -> ArtifactError:
        file = self.path / layer / "c" / str(shard) / "0"
        if not file.exists():
            return ArtifactError(
                f"{file}: shard {shard} of layer {layer} is missing; run featurize with --overwrite."
            )
        reason = "Digest mismatch" if "igest" in str(error) else " ".join(str(error).split())[:200]
        return ArtifactError(
            f"{file}: {reason} in shard {shard} of layer {layer}; run featurize with --overwrite."
        )

    def _open(self, layer: str, rows: int | None = None) -> Any:
        """The array, made when absent and grown to ``rows`` when given."""
        import tensorstore as ts

        spec: dict[str, Any] = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{self.path.resolve() / layer}/"},
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
        }
        if rows is None:
            try:
                return ts.open(spec, open=True, read=True).result()
            except ValueError as error:
                raise ArtifactError(f"{self.path / layer}: no readable features ({error}).") from None
        crc = {"name": "crc32c"}
        bytes_codec = {"name": "bytes", "configuration": {"endian": "little"}}
        spec["metadata"] = {
            "shape": [rows, self.dim],
            "data_type": "bfloat16",
            "fill_value": 0.0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [ROWS_PER_SHARD, self.dim]}},
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [_CHUNK_ROWS, self.dim],
                        "codecs": [bytes_codec, crc],
                        "index_codecs": [bytes_codec, crc],
                    },
                }
            ],
        }
        if not (self.path / layer / "zarr.json").exists():
            return ts.open(spec, create=True, open=True).result()
        del spec["metadata"]
        array = ts.open(spec, open=True).result()
        return array.resize(exclusive_max=[max(rows, array.shape[0]), None]).result()
