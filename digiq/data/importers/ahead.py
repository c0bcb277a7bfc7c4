"""Several processes read the parts of a source, ahead of the one that stores their episodes."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from digiq.data.importers.base import BadEpisode, Entry, Importer
from digiq.data.schema import Episode
from digiq.processes import end_with_parent, usable_cores

LARGE = 256 * 2**20
"""Total bytes of all parts from which several processes read them; starting processes takes seconds."""
_PREFIX = "import-"


def read_parts(
    importer: Importer, parts: Sequence[Any], known: frozenset[str], scratch: Path
) -> Iterator[tuple[Any, Iterator[Entry | BadEpisode]]]:
    """Every part with its contents, in order; read by one process per core where that pays off.

    Each process writes the episodes of a part to a file in ``scratch``, which is deleted once they are stored. At most
    two parts per process lie there. The results and their order are the same as from one process.

    Args:
      importer: if its ``in_processes`` is true, it and its parts can be pickled, and each part is read independently of
        the others.
      parts: from :meth:`digiq.data.importers.base.Importer.find`.
      known: ids of episodes that need not be made, because they are already stored.
      scratch: a directory on a disk with enough space.
    """
    workers = min(len(usable_cores()), len(parts))
    if not getattr(importer, "in_processes", False) or workers < 2 or _bytes(parts) < LARGE:
        yield from ((part, importer.read(part)) for part in parts)
        return
    for left in scratch.glob(f"{_PREFIX}*.tmp"):  # left by a killed run
        shutil.rmtree(left)
    # A fork would copy locks held by threads of this process.
    spawned = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, suffix=".tmp", dir=scratch) as folder,
        ProcessPoolExecutor(workers, spawned, end_with_parent) as pool,
    ):
        try:
            waiting: deque[tuple[Any, Path, Future[None]]] = deque()
            following = iter(enumerate(parts))
            while True:
                while len(waiting) < 2 * workers and (item := next(following, None)) is not None:
                    file = Path(folder) / str(item[0])
                    waiting.append((item[1], file, pool.submit(_spill, importer, item[1], known, file)))
                if not waiting:
                    return
                part, file, done = waiting.popleft()
                done.result()
                yield part, _spilled(file)
                file.unlink()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _bytes(parts: Sequence[Any]) -> int:
    files = [Path(str(part)) for part in parts]
    return sum(file.stat().st_size for file in files if file.is_file())


def _spill(importer: Importer, part: Any, known: frozenset[str], file: Path) -> None:
    """Makes the episodes of a part and writes its contents as consecutive pickles."""
    with file.open("wb") as out:
        for entry in importer.read(part):
            found: Any = str(entry) if isinstance(entry, BadEpisode) else None
            if isinstance(entry, Entry):
                made: Episode | str | None = None
                if entry.episode_id not in known:
                    try:
                        made = entry.make()
                    except BadEpisode as error:
                        made = str(error)
                found = entry.episode_id, dict(entry.counts), made
            pickle.dump(found, out, pickle.HIGHEST_PROTOCOL)


def _spilled(file: Path) -> Iterator[Entry | BadEpisode]:
    """Reads what :func:`_spill` has written."""
    with file.open("rb") as source:
        while True:
            try:
                found = pickle.load(source)
            except EOFError:
                return
            if isinstance(found, str):
                yield BadEpisode(found)
            else:
                name, counts, made = found
                yield Entry(name, functools.partial(_made, made), counts)


def _made(made: Episode | str | None) -> Episode:
    if isinstance(made, str):
        raise BadEpisode(made)
    assert made is not None, "an episode that is stored is not made again"
    return made
