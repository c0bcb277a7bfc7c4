"""Episodes on disk: an RLDS-shaped TFDS dataset in ArrayRecord shards, without TensorFlow.

``tfds.builder_from_directory(path).as_data_source()`` reads it anywhere. Each shard is written whole and then renamed,
so a killed writer loses at most the episodes since the last shard. The next writer goes on from there, even if the kill
came while the finished shards were being renamed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from android_env.actions import Action, ActionType
from digiq import artifacts
from digiq.data.schema import Episode, Outline, Step
from digiq.errors import ArtifactError

NAME, VERSION = "episodes", "1.0.0"
SPLIT = "train"  # TFDS requires a split; an episode's own is its field ``split``
_UNFINISHED = "episodes-{:05d}.unfinished"
_FINISHED = re.compile(rf"{NAME}-{SPLIT}\.array_record-(\d+)-of-(\d+)")
_NO_ACTION = -1


def _features(extras: bool = False) -> Any:
    """The TFDS features; ``Text`` holds raw PNG bytes because ``Image`` needs TensorFlow inside a ``Dataset``.

    Imported episodes have ``extras``; episodes recorded on our devices have none.
    """
    from tensorflow_datasets import features as f

    def pair(dtype: Any) -> Any:
        return f.Tensor(shape=(2,), dtype=dtype)

    step = {
        "observation": {
            "screenshot": f.Text(),
            "goal": f.Text(),
            "activity": f.Text(),
            "ui_elements": f.Text(),
        },
        "action": {
            "type": np.int32,
            "touch_yx": pair(np.float32),
            "lift_yx": pair(np.float32),
            "text": f.Text(),
        },
        "behavior_log_prob": np.float32,
        "reward": np.float32,
        "discount": np.float32,
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
    }
    more: dict[str, Any] = {"extras": f.Text()} if extras else {}
    return f.FeaturesDict(
        {
            "steps": f.Dataset(step | more),
            "episode_id": f.Text(),
            "task_id": f.Text(),
            "split": f.Text(),
            "outcome": f.Text(),
            "policy": f.Text(),
            "device": f.Text(),
            "screen_hw": pair(np.int32),
            "seed": np.int64,
            **more,
        }
    )


def _outline_features() -> Any:
    """The features that make an outline; all others, above all the screenshots, are skipped."""
    from tensorflow_datasets import features as f

    step = {
        "observation": {"goal": f.Text()},
        "reward": np.float32,
        "discount": np.float32,
        "is_terminal": np.bool_,
    }
    texts = dict.fromkeys(("episode_id", "task_id", "split", "outcome"), f.Text())
    return f.FeaturesDict({"steps": f.Dataset(step), **texts})


class EpisodeWriter:
    """Writes episodes to a directory, resuming where an interrupted writer stopped.

    Use it as a context manager; leaving the block without an exception finishes the dataset. ``written`` holds, by id,
    the outlines of episodes that are already written. A finished dataset is reopened for appending. Only one writer may
    run at a time; stages hold their artefact's lock.
    """

    def __init__(self, path: str | Path, *, episodes_per_shard: int = 32, extras: bool = False):
        """Opens ``path``, creating it if absent.

        Args:
          path: the dataset's directory.
          episodes_per_shard: episodes are held in memory until a shard is full, so a kill loses fewer than this many.
          extras: whether ``Step.extras`` and ``Episode.extras`` are written; all episodes of a dataset have them, or
            none.

        Raises:
          ArtifactError: a shard left by the interrupted writer cannot be read.
        """
        self._path = Path(path)
        self._path.mkdir(parents=True, exist_ok=True)
        self._per_shard = episodes_per_shard
        self._features, self._extras = _features(extras), extras
        self._pending: list[bytes] = []
        self._reopen()
        self._shards = sorted(self._path.glob("episodes-*.unfinished"))
        outlines = _outline_features()
        self.written: dict[str, Outline] = {}
        for shard in self._shards:
            for record in _read_records(shard):
                outline = _to_outline(outlines.deserialize_example_np(record))
                self.written[outline.episode_id] = outline

    def _reopen(self) -> None:
        """Undoes the renaming by :meth:`finish`, which may have been killed between two shards."""
        for path in sorted(self._path.iterdir()):
            if match := _FINISHED.fullmatch(path.name):
                path.rename(self._path / _UNFINISHED.format(int(match[1])))
            elif ".unfinished." in path.name and path.suffix == ".tmp":
                path.unlink()  # a shard whose writer was killed

    def write(self, episode: Episode) -> None:
        """Appends an episode.

        Raises:
          ValueError: its id was written before.
        """
        if episode.episode_id in self.written:
            raise ValueError(f"{self._path}: episode {episode.episode_id} is already there.")
        example = self._features.encode_example(_to_example(episode, self._extras))
        self._pending.append(_canonical(self._features.serialize_example(example)))
        self.written[episode.episode_id] = episode.outline
        if len(self._pending) >= self._per_shard:
            self.flush()

    def flush(self) -> None:
        """Writes the pending episodes to a shard of their own."""
        if self._pending:
            shard = self._path / _UNFINISHED.format(len(self._shards))
            _write_records(shard, self._pending)
            self._shards.append(shard)
            self._pending = []

    def finish(self) -> None:
        """Gives the shards their TFDS names and writes the TFDS metadata.

        Raises:
          ArtifactError: no episode was written.
        """
        import tensorflow_datasets as tfds
        from etils import epath
        from tensorflow_datasets.core import dataset_info, splits

        self.flush()
        if not self._shards:
            raise ArtifactError(f"{self._path}: no episode was written; an empty dataset is of no use.")
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(self._path), dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
        )
        lengths, num_bytes = [], 0
        for shard in self._shards:
            records = _read_records(shard)
            lengths.append(len(records))
            num_bytes += sum(map(len, records))
        split = tfds.core.SplitInfo(
            name=SPLIT, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
        )
        identity = dataset_info.DatasetIdentity(
            name=NAME, version=tfds.core.Version(VERSION), data_dir=str(self._path), module_name="digiq.data"
        )
        info = dataset_info.DatasetInfo(builder=identity, features=self._features)
        info.set_splits(splits.SplitDict([split]))
        info.set_file_format("array_record", override=True)
        info.write_to_directory(str(self._path))
        for index, shard in enumerate(self._shards):
            shard.rename(template.sharded_filepath(shard_index=index, num_shards=len(self._shards)))

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.finish()
        else:
            self.flush()


class EpisodeStore(Sequence[Episode]):
    """Random access to written episodes.

    Raises:
      ArtifactError: the directory holds no finished dataset.
    """

    def __init__(self, path: str | Path):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.path = Path(path)
        found = {int(m[1]): p for p in self.path.glob("*") if (m := _FINISHED.fullmatch(p.name))}
        self._shards = [found[number] for number in sorted(found)]
        if not (self.path / "features.json").is_file() or not self._shards:
            raise ArtifactError(f"{self.path}: holds no finished episodes; rerun the stage that writes them.")
        expected = int(self._shards[0].name.rpartition("-of-")[2])
        if missing := sorted(set(range(expected)) - set(found)):
            raise ArtifactError(
                f"{self.path}: shard {missing[0]} of {expected} is missing; run the stage with --overwrite."
            )
        # Searched as bytes: if the file is damaged, verification of the directory reports it.
        self._features = _features(extras=b'"extras"' in (self.path / "features.json").read_bytes())
        try:
            self._source = ArrayRecordDataSource([str(shard) for shard in self._shards])
        except RuntimeError as error:
            raise self._damage(error) from None

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return _from_example(self._features.deserialize_example_np(self._record(index % len(self))))

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    @property
    def outlines(self) -> Sequence[Outline]:
        """All episodes without their screens, in order; read once per process while the shards do not change."""
        stats = [shard.stat() for shard in self._shards]
        return _outlines(self.path, tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats))

    @property
    def episode_ids(self) -> list[str]:
        """The ids in order."""
        return [outline.episode_id for outline in self.outlines]

    def _record(self, index: int) -> bytes:
        try:
            return self._source[index]
        except RuntimeError as error:
            raise self._damage(error) from None

    def _damage(self, error: RuntimeError) -> ArtifactError:
        """Names the shard behind an ArrayRecord error; ArrayRecord checks hashes but does not name the file."""
        for shard in self._shards:
            try:
                _read_records(shard)
            except ArtifactError as damaged:
                return damaged
        return ArtifactError(f"{self.path}: cannot be read ({error}); run the stage with --overwrite.")


@functools.lru_cache(maxsize=4)
def _outlines(path: Path, shards: tuple[tuple[int, int, int], ...]) -> tuple[Outline, ...]:
    """Outlines of the episodes under ``path``; ``shards`` identifies the files and serves only as a cache key."""
    store, features = EpisodeStore(path), _outline_features()
    return tuple(
        _to_outline(features.deserialize_example_np(store._record(index))) for index in range(len(store))
    )


def _to_example(episode: Episode, extras: bool) -> dict[str, Any]:
    return {
        **({"extras": episode.extras} if extras else {}),
        "steps": [
            _step_example(step) | ({"extras": step.extras} if extras else {}) for step in episode.steps
        ],
        "episode_id": episode.episode_id,
        "task_id": episode.task_id,
        "split": episode.split,
        "outcome": episode.outcome,
        "policy": episode.policy,
        "device": episode.device,
        "screen_hw": np.array(episode.screen_hw, np.int32),
        "seed": episode.seed,
    }


def _step_example(step: Step) -> dict[str, Any]:
    action = step.action
    unused = np.full(2, -1, np.float32)
    return {
        "observation": {
            "screenshot": step.screenshot,
            "goal": step.goal,
            "activity": step.activity,
            "ui_elements": step.ui_elements,
        },
        "action": {
            "type": _NO_ACTION if action is None else int(action.type),
            "touch_yx": unused if action is None else np.array(action.touch_yx, np.float32),
            "lift_yx": unused if action is None else np.array(action.lift_yx, np.float32),
            "text": "" if action is None else action.text,
        },
        "behavior_log_prob": step.behavior_log_prob,
        "reward": step.reward,
        "discount": step.discount,
        "is_first": step.is_first,
        "is_last": step.is_last,
        "is_terminal": step.is_terminal,
    }


def _from_example(example: dict[str, Any]) -> Episode:
    return Episode(
        episode_id=_text(example["episode_id"]),
        task_id=_text(example["task_id"]),
        split=_text(example["split"]),
        outcome=_text(example["outcome"]),
        policy=_text(example["policy"]),
        device=_text(example["device"]),
        screen_hw=(int(example["screen_hw"][0]), int(example["screen_hw"][1])),
        seed=int(example["seed"]),
        extras=_text(example.get("extras", "{}")),
        steps=tuple(_from_step(step) for step in example["steps"]),
    )


def _to_outline(example: dict[str, Any]) -> Outline:
    *acted, end = list(example["steps"])
    first = acted[0] if acted else end
    return Outline(
        episode_id=_text(example["episode_id"]),
        task_id=_text(example["task_id"]),
        split=_text(example["split"]),
        outcome=_text(example["outcome"]),
        goal=_text(first["observation"]["goal"]),
        rewards=tuple(float(step["reward"]) for step in acted),
        discounts=tuple(float(step["discount"]) for step in acted),
        is_terminated=bool(end["is_terminal"]),
    )


def _from_step(step: dict[str, Any]) -> Step:
    seen, act = step["observation"], step["action"]
    action = None
    if int(act["type"]) != _NO_ACTION:
        touch, lift = act["touch_yx"], act["lift_yx"]
        action = Action(
            ActionType(int(act["type"])),
            (float(touch[0]), float(touch[1])),
            (float(lift[0]), float(lift[1])),
            _text(act["text"]),
        )
    return Step(
        screenshot=seen["screenshot"],
        goal=_text(seen["goal"]),
        activity=_text(seen["activity"]),
        ui_elements=_text(seen["ui_elements"]),
        action=action,
        behavior_log_prob=float(step["behavior_log_prob"]),
        reward=float(step["reward"]),
        discount=float(step["discount"]),
        is_first=bool(step["is_first"]),
        is_last=bool(step["is_last"]),
        is_terminal=bool(step["is_terminal"]),
        extras=_text(step.get("extras", "{}")),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _canonical(record: bytes) -> bytes:
    """The same ``tf.train.Example`` with its features in order. TFDS writes them in an order that differs between
    processes, so equal episodes would give different files."""
    from tensorflow_datasets.proto import tf_example_pb2

    example: Any = tf_example_pb2  # protobuf creates its classes on import
    return example.Example.FromString(record).SerializeToString(deterministic=True)


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    with artifacts.atomic_path(path) as temporary:
        # group_size 1: an episode is read without decompressing its neighbours.
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()


def _read_records(path: Path) -> list[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path))
        try:
            return reader.read_all()
        finally:
            reader.close()
    except RuntimeError as error:
        reason = str(error).partition(" (")[0] or "truncated"
        raise ArtifactError(
            f"{path}: damaged shard ({reason}); run the stage that writes it with --overwrite."
        ) from None
