"""Artefacts: directories with a manifest, through which alone stages exchange data.

A stage opens its output with :func:`write`, puts files under ``w.path`` and calls ``w.complete(...)``. The manifest
holds the stage, its version, the resolved config and the content digests of the inputs; those four make the
``identity``. On the next call with the same identity, ``complete`` means that there is nothing to do, and ``partial``
means resume. Another identity is refused, with the fields that differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import fnmatch
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

from digiq.config import to_dict
from digiq.errors import ArtifactError, ArtifactMismatch
from digiq.tables import own_sources

MANIFEST = "manifest.json"
CHECKSUMS = "checksums.json"
_OWN_CHECKSUM = "checksum"
_VERIFIED = "DIGIQ_VERIFIED"
LOCK = ".lock"
# Logs contain times of day, so they are neither checksummed nor part of the content that later stages depend on.
_VOLATILE = ("logs/*", "metrics.jsonl", "*tfevents*", LOCK, MANIFEST, "*.tmp", "*.tmp/*")
_VERSIONED = ("digiq", "jax", "flax", "optax", "numpy", "torch", "transformers", "tensorstore", "pillow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of an artefact; for ``identity`` see the module's docstring."""

    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    """Content digest of each input, by name, and of the source of user-defined members (:mod:`digiq.tables`)."""
    state: str
    """``partial`` or ``complete``."""
    counts: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    files: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """SHA-256 of each file, by relative path (logs excluded)."""
    content: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Digests of the content of directories in the artefact whose files differ in bytes between equal runs."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    environment: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """Library versions, hardware and time spent; not part of the identity."""

    @property
    def identity(self) -> str:
        """Digest of what was asked for: stage, version, config and inputs."""
        return _digest_json([self.stage, self.version, self.config, self.inputs])

    @property
    def digest(self) -> str:
        """Content digest, by which stages that read the artefact know it; the same for equal runs."""
        if not self.content:
            return _digest_json([self.stage, self.version, self.files])
        folders = tuple(f"{folder}/" for folder in self.content)
        files = {name: sha for name, sha in self.files.items() if not name.startswith(folders)}
        return _digest_json([self.stage, self.version, files, self.content])


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished artefact on disk."""

    path: Path
    manifest: Manifest

    def verify(self) -> None:
        """Reads every file again; raises ArtifactError, which names the first file that is missing or changed."""
        _verify(
            self.path, self.manifest.files, MANIFEST, f"run '{self.manifest.stage}' again with --overwrite"
        )


class Writer:
    """The open side of an artefact; made by :func:`write`."""

    def __init__(self, path: Path, manifest: Manifest, started: float):
        self.path = path
        self.manifest = manifest
        self._started = started

    @property
    def done(self) -> bool:
        """True if the artefact was already complete, so that nothing needs doing."""
        return self.manifest.state == "complete"

    @property
    def artifact(self) -> Artifact:
        if not self.done:
            raise ArtifactError(f"{self.path}: not complete yet.")
        return Artifact(self.path, self.manifest)

    def complete(
        self,
        counts: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        content: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Checksums the files and marks the artefact complete; for ``content`` see :class:`Manifest`."""
        files = {name: _digest_file(self.path / name) for name in _files_under(self.path)}
        self.manifest = dataclasses.replace(
            self.manifest,
            state="complete",
            counts=dict(counts or {}),
            extra=dict(extra or {}),
            files=files,
            content=dict(content or {}),
        )
        self.save()
        return self.artifact

    def save(self) -> None:
        """Writes the manifest, with the time spent so far."""
        spent = self.manifest.environment.get("seconds", 0.0) + time.time() - self._started
        self._started = time.time()
        environment = {**self.manifest.environment, **_environment(), "seconds": round(spent, 2)}
        self.manifest = dataclasses.replace(self.manifest, environment=environment)
        about = dataclasses.asdict(self.manifest)
        atomic_write_json(self.path / MANIFEST, {**about, _OWN_CHECKSUM: _digest_json(_plain(about))})


@contextlib.contextmanager
def write(
    path: str | Path,
    *,
    stage: str,
    version: int,
    config: Any,
    inputs: Mapping[str, str | Path | None] | None = None,
    overwrite: bool = False,
    wait: bool = False,
) -> Generator[Writer, None, None]:
    """Opens ``path`` as the output of a stage, for one process at a time.

    Args:
      path: the artefact's directory; created if absent.
      stage: the stage's command name, e.g. ``propose``.
      version: the stage's format number; raise it when the same config would give other files.
      config: a configclass, or a plain dict.
      inputs: artefact directories (by their content digest) or any other files or directories; None is left out.
      overwrite: delete what is there, whatever it is.
      wait: if another process is writing the artefact, wait for it instead of refusing.

    Raises:
      ArtifactMismatch: the directory holds an artefact of another config or other inputs.
      ArtifactError: an input is missing or unfinished, the directory holds foreign files, or another process
        is writing it.
    """
    path = Path(path)
    wanted = _wanted(stage, version, config, inputs or {})
    path.mkdir(parents=True, exist_ok=True)
    with _lock(path, wait):
        started = time.time()
        if overwrite:
            _clear(path)
        found = _read_manifest(path)
        if found is None:
            foreign = [p.name for p in path.iterdir() if p.name != LOCK and not p.name.endswith(".tmp")]
            if foreign:
                raise ArtifactError(
                    f"{path}: holds files of no artefact ({', '.join(sorted(foreign)[:3])}); name an empty directory."
                )
            found = wanted
        elif found.identity != wanted.identity:
            raise ArtifactMismatch(
                f"{path}: already holds another '{found.stage}': {_differences(found, wanted)}. "
                "Use --overwrite, or another --name or directory."
            )
        writer = Writer(path, found, started)
        if writer.done:
            yield writer
            return
        writer.save()
        try:
            yield writer
        finally:
            if not writer.done:
                writer.save()


def is_complete(
    path: str | Path, *, stage: str, version: int, config: Any, inputs: Mapping[str, str | Path | None]
) -> bool:
    """Whether ``path`` already holds what :func:`write` with the same arguments would make; reads only manifests.

    Inputs that are missing or unfinished count as not complete.
    """
    found = _read_manifest(Path(path))
    if found is None or found.state != "complete":
        return False
    try:
        return found.identity == _wanted(stage, version, config, inputs).identity
    except ArtifactError:
        return False


def state_of(path: str | Path) -> tuple[str, Manifest | None]:
    """The state of an artefact, without opening it, and its manifest if it has a readable one.

    Returns:
      ``absent``, ``running`` (a process is writing it), ``partial``, ``complete`` or ``damaged``.
    """
    path = Path(path)
    try:
        manifest = _read_manifest(path)
    except ArtifactError:
        return "damaged", None
    if (path / LOCK).is_file():
        try:
            with _lock(path):
                pass
        except ArtifactError:
            return "running", manifest
        except OSError:
            pass  # a read-only directory of another user, so no process here writes it
    return ("absent" if manifest is None else manifest.state), manifest


def open(path: str | Path, stage: str | None = None) -> Artifact:
    """Opens a finished artefact, and verifies its files once per process or run (:func:`verified_once`).

    Raises:
      ArtifactError: it has no manifest, is not complete, was made by another stage, or a file is missing or changed.
    """
    artifact = Artifact(Path(path), read_manifest(path, stage))
    seen = _seen(artifact)
    stats = _stats(artifact)
    if _read_seen(seen) != stats:
        artifact.verify()
        _write_seen(seen, stats)
    return artifact


def read_manifest(path: str | Path, stage: str | None = None) -> Manifest:
    """The manifest of a finished artefact; its files are not read.

    Raises:
      ArtifactError: it has no manifest or a changed one, is not complete, or was made by another stage.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    expected = f"'{stage}'" if stage else "an"
    if manifest is None:
        raise ArtifactError(
            f"{path}: no {MANIFEST}, so it is not {expected} artefact; run the stage that makes it."
        )
    if stage is not None and manifest.stage != stage:
        raise ArtifactError(
            f"{path}: was made by '{manifest.stage}', but a '{stage}' artefact is needed here."
        )
    if manifest.state != "complete":
        raise ArtifactError(f"{path}: '{manifest.stage}' has not finished; run it again and it resumes.")
    return manifest


@contextlib.contextmanager
def verified_once(folder: Path) -> Generator[None, None, None]:
    """Makes this process and those that it starts verify each artefact only once between them, anew for each run.

    Args:
      folder: holds notes of what was verified: size, inode number and times of each file. The time of the last status
        change cannot be set back, so a file that has changed since is read again.
    """
    _remove(folder)  # created when there is something to note
    before = os.environ.get(_VERIFIED)
    os.environ[_VERIFIED] = str(folder.absolute())
    try:
        yield
    finally:
        os.environ.pop(_VERIFIED)
        if before is not None:
            os.environ[_VERIFIED] = before


def _seen(artifact: Artifact) -> str:
    return _digest_json([str(artifact.path.absolute()), artifact.manifest.digest])


def _stats(artifact: Artifact) -> dict[str, list[int]]:
    """Size, inode number and times of the files that exist."""
    found: dict[str, list[int]] = {}
    for name in artifact.manifest.files:
        with contextlib.suppress(OSError):
            s = (artifact.path / name).stat()
            found[name] = [s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns]
    return found


_noted: dict[str, dict[str, list[int]]] = {}


def _read_seen(seen: str) -> dict[str, list[int]] | None:
    folder = os.environ.get(_VERIFIED)
    if seen in _noted or folder is None:
        return _noted.get(seen)
    try:
        return json.loads((Path(folder) / seen).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_seen(seen: str, stats: dict[str, list[int]]) -> None:
    _noted[seen] = stats
    folder = os.environ.get(_VERIFIED)
    if folder is not None:
        with contextlib.suppress(OSError):  # then the next process reads the files again
            atomic_write_json(Path(folder) / seen, stats)


def write_checksums(path: Path) -> None:
    """Writes ``checksums.json`` for a directory that no stage made, so that readers can tell whether it is whole."""
    atomic_write_json(path / CHECKSUMS, checksums(path))


def checksums(path: Path) -> dict[str, str]:
    """SHA-256 of each file below a directory, by relative path; logs and the checksums' own file are left out."""
    return {name: _digest_file(path / name) for name in _files_under(path) if name != CHECKSUMS}


def check_directory(path: Path, stages: tuple[str, ...]) -> None:
    """Verifies a directory that one of ``stages`` has made, or that has checksums by :func:`write_checksums`.

    Raises:
      ArtifactError: it is neither, it is unfinished, or a file is missing or changed.
    """
    if (path / MANIFEST).is_file():
        found = open(path).manifest.stage
        if found not in stages:
            raise ArtifactError(
                f"{path}: was made by '{found}', but one of {', '.join(stages)} is needed here."
            )
        return
    if not (path / CHECKSUMS).is_file():
        raise ArtifactError(
            f"{path}: neither {MANIFEST} nor {CHECKSUMS} says whether its files are whole; save it again."
        )
    check(path, path / CHECKSUMS, "save it again")


def check(path: Path, sums: Path, mend: str) -> None:
    """Verifies a directory against a file of its :func:`checksums`.

    Args:
      path: the directory.
      sums: JSON file with SHA-256 by relative path.
      mend: what to do about an error, for its message.

    Raises:
      ArtifactError: a file is missing or changed, or ``sums`` is damaged.
    """
    try:
        files: dict[str, str] = json.loads(sums.read_text(encoding="utf-8"))
        _verify(path, files, sums.name, mend)
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{sums}: damaged ({error}); {mend}.") from None


def _verify(path: Path, files: Mapping[str, str], against: str, mend: str) -> None:
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{file}: missing; {mend}.")
        if _digest_file(file) != expected:
            raise ArtifactError(f"{file}: checksum differs from {against}; {mend}.")


def digest(value: Any) -> str:
    """SHA-256 of a value's JSON, regardless of the order of its keys."""
    return _digest_json(value)


def content_digest(path: str | Path) -> str:
    """Digest of an artefact's content, or of the bytes of any other file or directory."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return read_manifest(path).digest
    if path.is_file():
        return _digest_file(path)
    if path.is_dir():
        return _digest_json({name: _digest_file(path / name) for name in _files_under(path)})
    raise ArtifactError(f"{path}: no such file or directory.")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Generator[Path, None, None]:
    """Yields a temporary sibling path (file or directory) that replaces ``path`` if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            _remove(path)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file so that a reader sees either the old bytes or the new ones, never a mixture."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def atomic_write_text(path: str | Path, text: str) -> None:
    """:func:`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | Path, value: Any) -> None:
    """:func:`atomic_write_bytes` of indented JSON, keys in the order given."""
    atomic_write_text(path, json.dumps(value, indent=2, default=_json_default) + "\n")


def _json_default(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON-able")


@contextlib.contextmanager
def _lock(path: Path, wait: bool = False) -> Generator[None, None, None]:
    with (path / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ArtifactError(
                f"{path}: another process is writing it; wait for it or name another directory."
            ) from None
        yield


def _wanted(stage: str, version: int, config: Any, inputs: Mapping[str, str | Path | None]) -> Manifest:
    return Manifest(
        stage=stage,
        version=version,
        config=cast(dict[str, Any], config) if isinstance(config, dict) else to_dict(config),
        inputs={
            **{name: content_digest(p) for name, p in inputs.items() if p is not None},
            **own_sources(config),
        },
        state="partial",
    )


def _read_manifest(path: Path) -> Manifest | None:
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        whole = about.pop(_OWN_CHECKSUM, "") == _digest_json(about)
        manifest = Manifest(**about)
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{file}: not a readable manifest ({error}); use --overwrite.") from None
    if not whole:
        raise ArtifactError(
            f"{file}: was changed after it was written, or written by an earlier version; run '{manifest.stage}' again "
            "with --overwrite."
        )
    return manifest


def _differences(found: Manifest, wanted: Manifest) -> str:
    """The first few fields in which two manifests' identities differ, in words."""
    pairs = [("stage", found.stage, wanted.stage), ("version", found.version, wanted.version)]
    old, new = _flatten(found.config), _flatten(wanted.config)
    pairs += [(f"config {key}", old.get(key), new.get(key)) for key in sorted({*old, *new})]
    keys = sorted({*found.inputs, *wanted.inputs})
    pairs += [
        (f"input {key}", found.inputs.get(key, "")[:12], wanted.inputs.get(key, "")[:12]) for key in keys
    ]
    different = [f"{name} is {a!r} there and {b!r} here" for name, a, b in pairs if a != b]
    shown = "; ".join(different[:4])
    return shown + (f"; and {len(different) - 4} more" if len(different) > 4 else "")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in cast(dict[str, Any], value).items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _files_under(path: Path) -> list[str]:
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return sorted(
        n
        for n in names
        if not any(fnmatch.fnmatch(n, v) or fnmatch.fnmatch(Path(n).name, v) for v in _VOLATILE)
    )


def _plain(value: Any) -> Any:
    """The value as it would be read back from JSON."""
    return json.loads(json.dumps(value, default=_json_default))


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_json_default).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clear(path: Path) -> None:
    for child in path.iterdir():
        if child.name != LOCK:
            _remove(child)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _environment() -> dict[str, Any]:
    versions = {}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
