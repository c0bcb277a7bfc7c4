"""Distinct images of one size: in memory while they are few, in a file once they are many."""

from __future__ import annotations

import hashlib
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

IN_MEMORY = 2**30
"""Bytes of images above which they go into a file."""
_AT_ONCE = 2**24  # bytes buffered before they are written


class Pictures:
    """Collects images, and keeps each distinct one once.

    Args:
      in_memory: bytes above which images are written to an unnamed file in the temporary directory (``TMPDIR``).
    """

    def __init__(self, in_memory: int | None = None):
        self._most = IN_MEMORY if in_memory is None else in_memory
        self._numbers: dict[bytes, int] = {}  # by digest
        self._waiting: list[npt.NDArray[np.uint8]] = []
        self._shape: tuple[int, ...] = ()
        self._file: Any = None

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, image: npt.NDArray[np.uint8]) -> int:
        """The number of an image, uint8 [h, w] like the others."""
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        known = self._numbers.get(digest)
        if known is not None:
            return known
        number = self._numbers[digest] = len(self._numbers)
        self._shape = image.shape
        self._waiting.append(image)
        most = self._most if self._file is None else _AT_ONCE
        if image.nbytes * len(self._waiting) > most:
            self._write()
        return number

    def all(self) -> npt.NDArray[np.uint8]:
        """uint8 [n, h, w] in order of their numbers; if they are many, a memory map of an unnamed file."""
        if self._file is None:
            return np.stack(self._waiting)
        self._write()
        return np.memmap(self._file, np.uint8, "r", shape=(len(self), *self._shape))

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (the memory map holds it)
        for image in self._waiting:
            self._file.write(image.tobytes())
        self._file.flush()
        self._waiting = []
