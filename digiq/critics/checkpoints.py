"""Orbax checkpoints of a learner: ``<epoch>/params`` for scoring, ``<epoch>/training`` for resuming."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from digiq import artifacts
from digiq.critics.heads import Params
from digiq.critics.learner import LearnerState
from digiq.errors import ArtifactError


@dataclasses.dataclass
class _Newest:
    """Orbax's preservation policy: keep the newest ``count`` (all when None), and epoch ``besides``."""

    count: int | None
    besides: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each checkpoint, oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = steps if self.count is None else steps[-self.count :]
        return [step in newest or step == self.besides for step in steps]


class Checkpoints:
    """Saves in the background, commits by rename, and keeps the last ``keep``; a context manager.

    A process killed while saving leaves the previous checkpoint as the latest. Each checkpoint has its checksums beside
    it and is verified against them before it is read. A checkpoint without checksums was cut short and does not count.
    """

    def __init__(self, path: Path, keep: int | None = None):
        self._path = Path(path).absolute()
        self._path.mkdir(parents=True, exist_ok=True)
        # With several processes, the one that opens the checkpoints reads and writes them alone.
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(me, {me}, f"{me}")
        self._stays = _Newest(keep)
        self._saved: dict[int, str] = {}  # digest of the content, by epoch
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._stays,
            create=False,
            enable_async_checkpointing=True,
            multiprocessing_options=alone
            if jax.process_count() > 1
            else ocp.options.MultiprocessingOptions(),
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ("params", "training")}
        self._manager = ocp.CheckpointManager(self._path, options=options, item_handlers=handlers)

    @property
    def epochs(self) -> list[int]:
        """Epochs with a committed checkpoint, in order."""
        self._settle()
        return sorted(step for step in self._manager.all_steps() if self._sums(step).is_file())

    def _sums(self, epoch: int) -> Path:
        return self._path.with_name(f"{self._path.name}.sums") / f"{epoch}.json"

    def _content(self, epoch: int) -> Path:
        return self._sums(epoch).with_suffix(".sha256")

    def _settle(self) -> None:
        """Waits for pending saves and writes their checksums; deletes the checksums of deleted checkpoints."""
        if not self._saved:
            return  # a mere reader must not vouch for what it finds
        self._manager.wait_until_finished()
        steps = set(self._manager.all_steps())
        for epoch in self._saved.keys() & steps:
            if not self._sums(epoch).is_file():
                artifacts.atomic_write_text(self._content(epoch), self._saved[epoch])
                artifacts.atomic_write_json(self._sums(epoch), artifacts.checksums(self._path / str(epoch)))
        for file in self._sums(0).parent.glob("*.json"):
            if int(file.stem) not in steps:
                file.unlink()
                self._content(int(file.stem)).unlink(missing_ok=True)

    def drop_unfinished(self) -> None:
        """Deletes checkpoints without checksums, so that their epochs can be saved again."""
        for epoch in sorted({*self._manager.all_steps()} - {*self.epochs}):
            self._manager.delete(epoch)

    def save(self, epoch: int, state: LearnerState, stays: int | None = None) -> None:
        """Copies the state, including the sampler's key, to the host and writes it in the background.

        Old checkpoints are deleted to make room, except that of epoch ``stays``.
        """
        self._settle()
        self._stays.besides = stays
        host = jax.tree.map(
            lambda x: np.array(x, copy=True), state
        )  # the next epoch reuses the state's buffers
        training = {"target": host.target, "optimizer": host.optimizer, "key": host.key, "step": host.step}
        self._saved[epoch] = _digest([host.params, training])
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(host.params), training=ocp.args.StandardSave(training)
            ),
        )

    def save_params(self, epoch: int, params: Params) -> None:
        """Writes the parameters alone; such a checkpoint can score but not resume."""
        host = jax.tree.map(lambda x: np.array(x, copy=True), params)
        self._saved[epoch] = _digest(host)
        self._manager.save(epoch, args=ocp.args.Composite(params=ocp.args.StandardSave(host)))

    def restore(self, epoch: int, like: LearnerState) -> LearnerState:
        """Reads a state; ``like`` gives its shapes (see ``jax.eval_shape``)."""
        training = {"target": like.target, "optimizer": like.optimizer, "key": like.key, "step": like.step}
        found = self._read(epoch, params=like.params, training=training)
        return LearnerState(params=found["params"], **found["training"])

    def restore_params(self, epoch: int, like: Params) -> Params:
        """Reads the parameters alone."""
        return self._read(epoch, params=like)["params"]

    def _read(self, epoch: int, **like: Any) -> Any:
        self._settle()
        if epoch not in self._manager.all_steps():
            raise ArtifactError(f"{self._path}: no checkpoint of epoch {epoch}; there are {self.epochs}.")
        artifacts.check(self._path / str(epoch), self._sums(epoch), "train the critic again with --overwrite")
        for name, tree in like.items():
            # Compared before reading: a wrong shape would fail somewhere inside the storage library.
            stored = _shapes(self._manager.item_metadata(epoch)[name])
            wanted = _shapes(tree)
            if stored != wanted:
                different = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))[0]
                raise ArtifactError(
                    f"{self._path}/{epoch}: the checkpoint has another architecture: {different} is "
                    f"{stored.get(different)} there and {wanted.get(different)} by the config; use the config it "
                    "was trained with."
                )
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
        return self._manager.restore(
            epoch, args=ocp.args.Composite(**{k: ocp.args.StandardRestore(v) for k, v in like.items()})
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()
        self._manager.close()


def contents(path: Path) -> dict[str, str]:
    """Content digests by name, of the checkpoint directories below ``path`` and of their checksum directories.

    Orbax writes equal arrays to files with different names and bytes on every run, so digests of the files say nothing.
    """
    found: dict[str, str] = {}
    for sums in sorted(path.glob("*.sums")):
        said = {file.stem: file.read_text(encoding="utf-8") for file in sorted(sums.glob("*.sha256"))}
        found |= dict.fromkeys((sums.name, sums.stem), artifacts.digest(said))
    return found


def _digest(tree: Any) -> str:
    """SHA-256 over the leaves of a tree on the host: path, type, shape and bytes of each."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by its path; a live tree and Orbax's metadata of it give the same."""
    tree = getattr(tree, "tree", tree)
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {"/".join(_name(key) for key in path): tuple(leaf.shape) for path, leaf in leaves}


def _name(key: Any) -> str:
    return str(next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)))
