"""One byte flipped, a file cut short, emptied or deleted, in every kind of file of a run: each is named, or changes nothing."""

from __future__ import annotations

import collections
import hashlib
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from android_env.errors import AndroidEnvError
from digiq import artifacts
from digiq.errors import DigiQError
from tests.soak.base import Clock, Table


def _digest(*trees: Any) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        array = np.asarray(leaf)
        body = (
            repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
        )
        found.update(f"{array.shape} {array.dtype}".encode() + body)
    return found.hexdigest()


def _episodes(run: Path) -> str:
    from digiq.data.rewards import LabelledEpisodes

    labelled = LabelledEpisodes(run / "episodes", run / "rewards")
    return hashlib.sha256(repr(list(labelled)).encode()).hexdigest()


def _training(run: Path) -> str:
    from digiq.critics.train import TrainQConfig, load_training_data

    data, _ = load_training_data(
        TrainQConfig(), features=run / "features", episodes=run / "episodes", rewards=run / "rewards"
    )
    arrays = (np.asarray(data.observation).view(np.uint16), np.asarray(data.pair).view(np.uint16))
    return _digest(data.table, arrays, data.candidate_row)


def _proposals(run: Path) -> str:
    from digiq.proposals.propose import load_proposals

    return _digest([v for v in vars(load_proposals(run / "proposals")).values() if isinstance(v, np.ndarray)])


def _vlm(run: Path) -> str:
    from digiq.vlm.backbone import load_backbone

    artifacts.open(run / "vlm")  # as every stage that reads it does
    backbone = load_backbone(run / "vlm", dtype="float32")
    return _digest([value.numpy() for value in backbone.model.state_dict().values()])


def _critic(run: Path) -> str:
    from digiq.critics.critic import load_critic

    critic = load_critic(run / "critic")
    return _digest(critic.params, list(critic.standardizer)) + repr(critic.config)


def _resuming(run: Path) -> str:
    """What a critic that was killed would go on from."""
    from digiq.critics.checkpoints import Checkpoints
    from digiq.critics.critic import load_critic

    critic = load_critic(run / "critic")
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), critic.params)
    with Checkpoints(run / "critic" / "checkpoints") as checkpoints:
        return _digest([checkpoints.restore_params(epoch, like) for epoch in checkpoints.epochs])


def _policy(name: str) -> Callable[[Path], str]:
    def read(run: Path) -> str:
        from digiq.policies.base import load_policy

        policy: Any = load_policy(run / name)
        return _digest(policy.params) + repr(policy.config)

    return read


def _evaluations(run: Path) -> str:
    from digiq.evaluation.summary import write_summary

    arms = sorted(path.name for path in (run / "evaluation").iterdir())
    write_summary({arm: run / "evaluation" / arm for arm in arms}, {}, run / "s.json")
    return (run / "s.json").read_text(encoding="utf-8")


READERS: dict[str, tuple[Callable[[Path], str], ...]] = {
    "episodes": (_episodes,),
    "rewards": (_episodes,),
    "proposals": (_proposals,),
    "vlm": (_vlm,),
    "features": (_training,),
    "feature_rows": (_training,),
    "critic": (_critic, _resuming),
    "behavior": (_policy("behavior"),),
    "policy/digiq": (_policy("policy/digiq"),),
    "evaluation/digiq": (_evaluations,),
}
"""By directory of a run, what reads it and gives a digest of all that it read."""


def damage(run: Path, scratch: Path, table: Table, clock: Clock, rng: random.Random) -> None:
    """Rounds over every kind of file until the time is over; the first round is always whole."""
    intact = {name: [reader(_copy(run, scratch)) for reader in readers] for name, readers in READERS.items()}
    first = True
    while first or clock.left:
        for name, readers in READERS.items():
            kinds: dict[str, list[Path]] = collections.defaultdict(list)
            for path in sorted((run / name).rglob("*")):
                if path.is_file() and path.name != artifacts.LOCK:
                    kinds[re.sub(r"[0-9a-f]{16,}|\d+", "N", str(path.relative_to(run)))].append(
                        path.relative_to(run)
                    )
            for files in kinds.values():
                for how in ("flip", "flip", "truncate", "delete"):
                    _one(run, scratch, rng.choice(files), how, readers, intact[name], table, rng)
            if not first and not clock.left:
                return
        first = False


def _copy(run: Path, scratch: Path) -> Path:
    copy = scratch / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    skip = shutil.ignore_patterns("nodes")
    shutil.copytree(run, copy, copy_function=os.link, ignore=skip)
    artifacts._noted.clear()  # what this process verified does not count
    return copy


def _one(
    run: Path,
    scratch: Path,
    file: Path,
    how: str,
    readers: tuple[Callable[[Path], str], ...],
    intact: list[str],
    table: Table,
    rng: random.Random,
) -> None:
    copy = _copy(run, scratch)
    target, data = copy / file, bytearray((run / file).read_bytes())
    stat = target.stat()
    target.unlink()
    if how == "flip" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if how == "truncate":
        data = data[: rng.randrange(len(data)) if data else 0]
    if how != "delete":
        target.write_bytes(data)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for reader, expected in zip(readers, intact, strict=True):
        problem = ""
        try:
            if reader(copy) != expected:
                problem = f"{how} {file}: read as something else without a word"
        except (DigiQError, AndroidEnvError) as error:
            places = (file.name, *(str(parent) for parent in file.parents if parent.name))
            if not any(place in str(error) for place in places):
                problem = f"{how} {file}: another file is named: {error}"
        except Exception as error:
            problem = f"{how} {file}: {type(error).__name__}: {str(error)[:200]}"
        table.add(f"damage: {how}", problem)
