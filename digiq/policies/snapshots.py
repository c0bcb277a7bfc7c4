"""Snapshots of a fit, written every few seconds, so that a kill loses only seconds of work."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from flax import serialization

from digiq import artifacts
from digiq.errors import ArtifactError

SECONDS = 10.0
"""Time between snapshots: parameters and moments are a few megabytes, written in a few hundredths of a second."""
_DIGEST = hashlib.sha256().digest_size


class Snapshots:
    """One file that holds the newest snapshot; without a file, nothing is kept."""

    def __init__(self, file: Path | None):
        self._file = file
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The newest snapshot, with lists and tuples as dictionaries by position; None if there is none.

        Raises:
          ArtifactError: the file is damaged.
        """
        if self._file is None or not self._file.is_file():
            return None
        data = self._file.read_bytes()
        digest, body = data[:_DIGEST], data[_DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            raise ArtifactError(
                f"{self._file}: damaged; delete it and run the same command again to start anew."
            )
        found: Any = serialization.msgpack_restore(body)
        return found

    def write(self, snapshot: dict[str, Any]) -> None:
        """Keeps ``snapshot`` (arrays, numbers and strings) if the last one is old enough."""
        if self._file is None or time.monotonic() - self._written < SECONDS:
            return
        body = serialization.msgpack_serialize(serialization.to_state_dict(snapshot))
        artifacts.atomic_write_bytes(self._file, hashlib.sha256(body).digest() + body)
        self._written = time.monotonic()

    def clear(self) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
