"""What a fit has come to, on disk now and then, so that a kill loses seconds of it and not the whole."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from flax import serialization

from digiq import artifacts
from digiq.errors import ArtifactError

SECONDS = 10.0
"""Between snapshots: a fit's parameters and moments are some megabytes, written in a few hundredths of a second."""
_DIGEST = hashlib.sha256().digest_size


class Snapshots:
    """One file that holds the newest snapshot; with no file, nothing is kept."""

    def __init__(self, file: Path | None):
        self._file = file
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The newest snapshot, if there is one: what was written, lists and tuples as dictionaries by position.

        Raises:
          ArtifactError: the file is damaged.
        """
        if self._file is None or not self._file.is_file():
            return None
        data = self._file.read_bytes()
        digest, body = data[:_DIGEST], data[_DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            raise ArtifactError(f"{self._file}: damaged; delete it, and the fit starts anew.")
        found: Any = serialization.msgpack_restore(body)
        return found

    def write(self, snapshot: dict[str, Any]) -> None:
        """Keeps ``snapshot``, of arrays, numbers and texts, if the last one is old enough."""
        if self._file is None or time.monotonic() - self._written < SECONDS:
            return
        body = serialization.msgpack_serialize(serialization.to_state_dict(snapshot))
        artifacts.atomic_write_bytes(self._file, hashlib.sha256(body).digest() + body)
        self._written = time.monotonic()

    def clear(self) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
