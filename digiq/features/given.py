"""The ``import-features`` stage: turns features that upstream has already computed into a feature artefact.

DigiRL's and Digi-Q's ``.pt`` files (:mod:`digiq.data.importers.digirl`) hold, for every step, the image features that
their V takes and the VLM's representations of the logged action and of each candidate. Nothing is recomputed here. The
rows are stored as they are (rounded to bfloat16, like all features), beside the episodes and candidates that they
belong to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from android_env.actions import Action
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data import import_episodes
from digiq.data.importers.base import BadEpisode
from digiq.data.importers.digirl import DigiRL, logged_action, offered_actions
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import DigiQError
from digiq.features.engines.base import Kind
from digiq.features.extract import IMPORTED, INDEX, ROWS
from digiq.features.store import KEY_BYTES, RowStore, row_key
from digiq.progress import progress
from digiq.proposals import propose
from digiq.proposals.propose import ProposeConfig, load_proposals

STAGE, VERSION = IMPORTED, 1
LAYER = "given"
_SHARD = 512
_WORD = re.compile(r"\w+")


@configclass
class ImportFeaturesConfig:
    """Which files to import, and what to take from them."""

    digirl: DigiRL = DigiRL(blank=True)
    """Where the trajectories are, and their screenshots, which training does not need."""
    words: Annotated[int, Field(ge=0)] = 256
    """Number of columns of the observation's features into which the words of a step's prompt (goal and previous
    actions) are hashed; 0 leaves the words out. Upstream encodes them with RoBERTa during training; without either, V
    does not know the goal."""
    num_candidates: Annotated[int, Field(ge=1)] = 64
    """Most candidates per step, including the logged action."""
    on_bad: Literal["error", "skip"] = "error"
    """As in ``import``."""


@dataclasses.dataclass
class _Rows:
    """Rows of one kind on their way into the store."""

    root: Path
    kind: Kind
    store: RowStore | None = None
    waiting: dict[bytes, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    group: str = ""

    def add(self, row: npt.NDArray[np.float32], where: str) -> bytes:
        """Adds a row and returns its key, a digest of its content."""
        if self.store is None:
            about = {"kind": self.kind, "engine": "given", "dim": len(row)}
            self.group = f"{self.kind}-{row_key(repr(about)).hex()[:12]}"
            self.store = RowStore(self.root, self.group, (LAYER,), len(row), about=about)
        if len(row) != self.store.dim:
            raise DigiQError(
                f"{where}: has {len(row)} {self.kind} features, but earlier steps have {self.store.dim}; import such files separately."
            )
        if not np.isfinite(row).all():
            raise DigiQError(f"{where}: its {self.kind} features hold NaN or Inf; leave the trajectory out.")
        key = row_key(row.tobytes())
        if key not in self.waiting and key not in self.store:
            self.waiting[key] = row
            if len(self.waiting) == _SHARD:
                self.flush()
        return key

    def flush(self) -> None:
        if self.store is None or not self.waiting:
            return
        with self.store.lock():
            new = {key: row for key, row in self.waiting.items() if key not in self.store}
            if new:
                self.store.append(list(new), np.stack(list(new.values()))[:, None])
        self.waiting = {}


def run(config: ImportFeaturesConfig, *, out: Path, overwrite: bool = False) -> Artifact:
    """Writes features, and beside them ``episodes``, ``proposals`` and the rows' store ``feature_rows``.

    Candidates are the distinct actions of the step's ``action_list``, the logged action first. Their features are
    ``q_rep_out_list``, those of the logged action ``q_rep_out``. An observation has ``image_features`` and its prompt's
    words. The last step of a trajectory ends it, as upstream.

    Args:
      config: see :class:`ImportFeaturesConfig`.
      out: the feature artefact; the rest goes into its parent folder.
      overwrite: start anew, with the neighbouring artefacts too.

    Raises:
      DigiQError: a step lacks features, their number or width differs, or any error of ``import``.
    """
    importing = import_episodes.ImportConfig(format="digirl", digirl=config.digirl, on_bad=config.on_bad)
    proposing = ProposeConfig(source="recorded", num_candidates=config.num_candidates)
    episodes, proposals, root = (out.parent / name for name in ("episodes", "proposals", ROWS))
    import_episodes.run(importing, out=episodes, overwrite=overwrite)
    propose.run(proposing, episodes=episodes, out=proposals, overwrite=overwrite)
    inputs = {"episodes": episodes, "proposals": proposals}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        labelled, offered = LabelledEpisodes(episodes), load_proposals(proposals)
        wanted = {episode.episode_id: episode.num_actions for episode in labelled.outlines}
        seen, paired = _Rows(root, "observation"), _Rows(root, "pair")
        read: dict[str, list[tuple[bytes, list[bytes | None]]]] = {}
        with progress("import-features", len(wanted), unit="episodes") as bar:
            for name, where, steps in _trajectories(config.digirl):
                if name not in wanted or name in read:
                    continue  # left out and reported by 'import'
                read[name] = [
                    _step(config, step, f"{where}, step {t}", seen, paired) for t, step in enumerate(steps)
                ]
                bar.advance(1)
        seen.flush()
        paired.flush()
        states = [step for name in wanted for step in read[name]]
        pairs: dict[bytes, int] = {}
        candidate_row = np.full(offered.valid.shape, -1, np.int32)
        for s, n in np.argwhere(offered.valid):
            # 'recorded' keeps the list's order, so its columns are these rows minus the empty ones.
            key = [k for k in states[s][1] if k is not None][n]
            candidate_row[s, n] = pairs.setdefault(key, len(pairs))
        index = {
            "candidate_row": candidate_row,
            "observation_key": _listed([key for key, _ in states]),
            "pair_key": _listed(list(pairs)),
        }
        with artifacts.atomic_path(w.path / INDEX) as temporary, temporary.open("wb") as file:
            np.savez(file, **index)
        groups: dict[str, Any] = {}
        for rows in (seen, paired):
            assert rows.store is not None, "'import' refuses files without a step"
            groups[rows.kind] = rows.group, rows.store.dim
        counts = {
            "observations": len(states),
            "candidates": int((candidate_row >= 0).sum()),
            "pairs": len(pairs),
        }
        return w.complete(counts=counts, extra={"rows": f"../{ROWS}", "groups": groups, "layers": [LAYER]})


def hashed_words(text: str, columns: int) -> npt.NDArray[np.float32]:
    """Signed counts of a text's words in ``columns`` buckets, divided by the square root of the number of words;
    float32 [columns].

    Source: Weinberger et al. 2009, feature hashing. The hash is BLAKE2b, so that results are the same everywhere.
    """
    found = np.zeros(columns, np.float32)
    words = _WORD.findall(text.lower())
    for word in words:
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        found[(number >> 1) % columns] += 1 if number & 1 else -1
    return found / np.float32(max(len(words), 1) ** 0.5)


def _trajectories(source: DigiRL) -> Iterator[tuple[str, str, Sequence[dict[str, Any]]]]:
    for part in source.find().parts:
        for found in source.trajectories(part):
            if not isinstance(found, BadEpisode):
                yield found


def _step(
    config: ImportFeaturesConfig, step: dict[str, Any], where: str, seen: _Rows, paired: _Rows
) -> tuple[bytes, list[bytes | None]]:
    """Keys of the observation's row and of the candidates' rows, in the order of ``recorded``; None: not a
    candidate."""
    image = _numbers(step, "image_features", where).reshape(-1)
    if config.words:
        image = np.concatenate([image, hashed_words(str(step.get("observation", "")), config.words)])
    observation = seen.add(image, where)
    logged = _numbers(step, "q_rep_out", where).reshape(-1)
    keys: list[bytes | None] = [paired.add(logged, where)]
    actions = offered_actions(step)
    if not actions:
        return observation, keys
    rows = _numbers(step, "q_rep_out_list", where)
    if rows.size != len(actions) * len(logged):
        raise DigiQError(
            f"{where}: 'action_list' has {len(actions)} actions, but 'q_rep_out_list' is of shape {rows.shape} with rows of "
            f"{len(logged)}; use a file whose lists match."
        )
    rows = rows.reshape(len(actions), -1)
    taken: set[Action | None] = {logged_action(step, 0)}
    for action, row in zip(actions, rows, strict=True):
        new = action is not None and action not in taken
        keys.append(paired.add(row, where) if new else None)
        taken.add(action)
    return observation, keys


def _numbers(step: dict[str, Any], name: str, where: str) -> npt.NDArray[np.float32]:
    value = step.get(name)
    if value is None:
        raise DigiQError(
            f"{where}: has no '{name}'; use a file with upstream's precomputed features, or 'featurize' the episodes."
        )
    try:
        if hasattr(value, "float"):  # a tensor, perhaps bfloat16, which NumPy does not know
            value = value.float().numpy()
        return np.asarray(value, np.float32)
    except (ValueError, TypeError):
        raise DigiQError(f"{where}: '{name}' is not an array of numbers; leave the trajectory out.") from None


def _listed(keys: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
