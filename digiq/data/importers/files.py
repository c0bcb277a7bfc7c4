"""Files of recordings: finds them, recognises their format and reads their splits."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from digiq.data.tfrecord import parse_example, read_records
from digiq.errors import DigiQError

_LOOKED_AT = 200
"""Number of files that are examined to recognise a folder's format."""
_SCREENS = (".png", ".jpg", ".jpeg", ".webp")


def files_under(source: Path) -> list[Path]:
    """All files under a folder, sorted by path; linked folders are followed once each, hidden ones are not."""
    return sorted(_walk(source, set()))


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:  # a link that leads back up
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, seen)
            elif entry.is_file():
                yield folder / entry.name


def other_format(path: Path, mine: str) -> str:
    """`` ; it is FORMAT, so take --format FORMAT`` if a file or folder has another known format, else an empty text."""
    found = format_of(path)
    if found is None or found == mine:
        return ""
    folder = path.parent if path.is_file() and found != "aitw" else path
    return f"; it holds recordings of the format {found}: use --format {found} {folder}"


def format_of(path: Path) -> str | None:
    """The format of a file, or of the first file in a folder that reveals one; None if it is unknown."""
    files = [path] if path.is_file() else files_under(path) if path.is_dir() else []
    names = {file.name for file in files}
    if {"features.json", "dataset_info.json"} <= names:
        return "rlds"
    # In most formats nearly all files are screenshots; whole folders of them can precede the first file that tells.
    telling = (file for file in files if file.suffix.lower() not in _SCREENS)
    for file in itertools.islice(telling, _LOOKED_AT):
        if (found := _format_of_file(file)) is not None:
            return found
    return None


def _format_of_file(file: Path) -> str | None:
    if file.suffix in (".pt", ".pth"):
        return "digirl"
    if file.suffix == ".jsonl":
        return "jsonl"
    try:
        if file.suffix == ".json":
            first = json.loads(file.read_text(encoding="utf-8"))[0]
            return "aitz" if "result_action_type" in first else None
        if "-of-" in file.name:
            keys = parse_example(next(read_records(file))).keys()
            if {"screenshots", "actions"} <= keys:
                return "android_control"
            if "results/action_type" in keys:
                return "aitw"
            return "rlds" if any(key.startswith("steps/") for key in keys) else None
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None
    return None


@functools.lru_cache(maxsize=8)
def read_splits(file: Path) -> Mapping[str, str]:
    """The split of each episode id, from a JSON file that lists the ids of each split.

    Raises:
      DigiQError: the file is absent or has another format, or an id is in two of its splits.
    """
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DigiQError(f"{file}: cannot be read as JSON ({error}); set split_file.") from None
    if not isinstance(found, dict) or not all(isinstance(ids, list) for ids in found.values()):
        raise DigiQError(f"{file}: must be a JSON object with a list of episode ids per split.")
    splits: dict[str, str] = {}
    for split, ids in found.items():
        for name in map(str, ids):
            if splits.setdefault(name, split) != split:
                raise DigiQError(
                    f"{file}: episode {name} is in both '{splits[name]}' and '{split}'; keep one."
                )
    return splits


def source_folder(source: Path, name: str, field: str = "") -> Path:
    """``source``, which must exist.

    Raises:
      DigiQError: it does not exist.
    """
    if not source.exists():
        raise DigiQError(f"{source}: no such file or folder; set {field or name + '.source'}.")
    return source
