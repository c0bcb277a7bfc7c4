"""The ``propose`` stage: N candidate actions for every observation; the logged action is always candidate 0."""

import collections
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from android_env.actions import NO_POINT, Action, ActionType
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png, element_boxes
from digiq.data.transitions import observation_index
from digiq.errors import ArtifactError, DigiQError
from digiq.policies.base import Candidate, PolicyInput
from digiq.progress import progress
from digiq.proposals import CANDIDATES
from digiq.proposals.base import Sourced, StepInput, files_of
from digiq.tables import chosen_from

STAGE, VERSION = "propose", 1
_FILE = "proposals.npz"
_BATCH = 256


@configclass
class ProposeConfig(chosen_from(CANDIDATES, default="policy")):
    """The source of candidates, and their number."""

    num_candidates: Annotated[int, Field(ge=1)] = 8
    """N, most candidates per observation, including the logged action."""
    seed: int = 0
    """Seed of the draws; an observation's draws depend only on the seed and its row."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the artefacts that the source reads beside episodes and rewards."""
        return self.chosen.reads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposals:
    """N candidates for each of the S rows of :func:`digiq.data.transitions.observation_index`."""

    action_type: npt.NDArray[np.int32]
    """[S, N], ids of :class:`android_env.actions.ActionType`."""
    touch_yx: npt.NDArray[np.float32]
    """[S, N, 2], (-1, -1) where unused; ``lift_yx`` likewise."""
    lift_yx: npt.NDArray[np.float32]
    text_id: npt.NDArray[np.int32]
    """[S, N], index into ``texts``."""
    texts: tuple[str, ...]
    log_prob: npt.NDArray[np.float32]
    """[S, N], under the source; -inf for a logged action that it cannot propose, NaN where unknown."""
    valid: npt.NDArray[np.bool_]
    """[S, N]; column 0 is invalid if no action was logged (the end of a truncated episode), and columns beyond the
    source's candidates are invalid too."""
    source_id: npt.NDArray[np.int32] | None = None
    """[S, N], index into ``sources``, if sources were mixed."""
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.valid)

    def at(self, rows: npt.NDArray[np.intp]) -> "Proposals":
        """The proposals for some of the observations."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays = {name: value[rows] for name, value in found.items() if isinstance(value, np.ndarray)}
        return dataclasses.replace(self, **arrays)

    def action(self, s: int, n: int) -> Action:
        """Candidate ``n`` of observation ``s``.

        Raises:
          ValueError: there is no such candidate (``valid`` is False).
        """
        if not self.valid[s, n]:
            raise ValueError(f"observation {s} has no candidate {n}; check Proposals.valid first.")
        (ty, tx), (ly, lx) = self.touch_yx[s, n].tolist(), self.lift_yx[s, n].tolist()
        text = self.texts[self.text_id[s, n]]
        return Action(ActionType(int(self.action_type[s, n])), (ty, tx), (ly, lx), text)


def supported(
    log_prob: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], share: float, *, any_n: bool = False
) -> npt.NDArray[np.bool_]:
    """bool [S, N]: candidates at least ``share`` times as likely as the likeliest of their state.

    With ``any_n``, each is compared with the likeliest so far, which keeps all that are supported among the first n for
    some n.

    Raises:
      DigiQError: a candidate's probability is unknown.
    """
    if np.isnan(log_prob[valid]).any():
        raise DigiQError(
            "support: needs the probabilities of the candidates, but their source does not give them; set every 'support' to 0 "
            "(featurize.support, best_of_n.support), or use propose.source 'policy'."
        )
    known = np.where(valid, log_prob, -np.inf)
    likeliest = np.maximum.accumulate(known, axis=1) if any_n else known.max(axis=1, keepdims=True)
    return known >= likeliest + np.log(share)


def first_of_action(candidates: Sequence[Sequence[Action | None]]) -> np.ndarray:
    """bool [R, N]: True where a column holds an action that no earlier column of the row holds."""
    return np.array([[a is not None and a not in row[:n] for n, a in enumerate(row)] for row in candidates])


def to_arrays(rows: Sequence[Sequence[Candidate | None]]) -> Proposals:
    """Packs the result of :meth:`digiq.proposals.base.Candidates.propose`; N is the length of the longest row."""
    texts: dict[str, int] = {"": 0}
    sources: dict[str, int] = {"": 0}
    shape = (len(rows), max(map(len, rows), default=0))
    action_type, text_id = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    touch, lift = (np.full((*shape, 2), NO_POINT, np.float32) for _ in range(2))
    log_prob, valid = np.full(shape, -np.inf, np.float32), np.zeros(shape, bool)
    source_id = np.zeros(shape, np.int32)
    for s, row in enumerate(rows):
        for n, item in enumerate(row):
            if item is None:
                continue
            action, log_prob[s, n] = item.action, item.log_prob
            action_type[s, n], valid[s, n] = action.type, True
            touch[s, n], lift[s, n] = action.touch_yx, action.lift_yx
            text_id[s, n] = texts.setdefault(action.text, len(texts))
            if isinstance(item, Sourced):
                source_id[s, n] = sources.setdefault(item.source, len(sources))
    mixed = len(sources) > 1
    return Proposals(
        action_type=action_type,
        touch_yx=touch,
        lift_yx=lift,
        text_id=text_id,
        texts=tuple(texts),
        log_prob=log_prob,
        valid=valid,
        source_id=source_id if mixed else None,
        sources=tuple(sources) if mixed else (),
    )


def join(parts: Sequence[Proposals]) -> Proposals:
    """Concatenates parts, as if they had been packed together."""
    width = max((part.valid.shape[1] for part in parts), default=0)
    texts, sources = {"": 0}, {"": 0}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _EMPTY}
    for part in parts:
        # From each part's own ids to joint ones, which are assigned in order of appearance.
        ids = {
            "text_id": np.array([texts.setdefault(text, len(texts)) for text in part.texts]),
            "source_id": np.array([sources.setdefault(s, len(sources)) for s in part.sources] or [0]),
        }
        for name, empty in _EMPTY.items():
            array = getattr(part, name)
            if array is None:
                array = np.zeros(part.valid.shape, np.int32)
            if name in ids:
                array = ids[name][array].astype(np.int32)
            missing = width - part.valid.shape[1]
            padding: list[tuple[int, int]] = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
            columns[name].append(np.pad(array, padding, constant_values=empty))
    arrays: dict[str, Any] = {}
    for name in _EMPTY:
        arrays[name] = np.concatenate(columns.pop(name))  # drop the parts once they are joined
    mixed = len(sources) > 1
    arrays |= {"texts": tuple(texts), "source_id": arrays["source_id"] if mixed else None}
    return Proposals(**arrays, sources=tuple(sources) if mixed else ())


_EMPTY = {
    "action_type": -1,
    "touch_yx": NO_POINT,
    "lift_yx": NO_POINT,
    "text_id": 0,
    "log_prob": -np.inf,
    "valid": False,
    "source_id": 0,
}
"""Filler where a row has fewer candidates."""


def save_proposals(proposals: Proposals, path: Path) -> None:
    """Writes ``proposals.npz`` into the directory ``path``."""
    arrays = {f.name: getattr(proposals, f.name) for f in dataclasses.fields(proposals)}
    if proposals.source_id is None:
        del arrays["source_id"], arrays["sources"]
    for name in {"texts", "sources"} & set(arrays):
        # As JSON bytes: numpy's own string arrays drop trailing NULs.
        arrays[name] = np.frombuffer(json.dumps(arrays[name]).encode(), np.uint8)
    with artifacts.atomic_path(path / _FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_proposals(path: str | Path) -> Proposals:
    """Reads a ``propose`` artefact.

    Raises:
      ArtifactError: it is absent, unfinished, of another stage, or damaged.
    """
    artifact = artifacts.open(path, stage=STAGE)
    try:
        with np.load(artifact.path / _FILE) as file:
            arrays = {name: file[name] for name in file.files}
        for name in {"texts", "sources"} & set(arrays):
            arrays[name] = tuple(json.loads(arrays[name].tobytes()))
        return Proposals(**arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{artifact.path / _FILE}: cannot be read ({error}); run 'propose' again."
        ) from None


def run(
    config: ProposeConfig,
    *,
    episodes: Path,
    out: Path,
    policy: Path | None = None,
    rewards: Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Proposes for every non-terminal observation of the episodes, including relabelled copies in ``rewards``.

    Raises:
      DigiQError: the episodes hold no observation, or an artefact that the source reads is not given.
    """
    read: dict[str, Path] = {}
    for name in config.reads:
        path = {"policy": policy}.get(name)
        if path is None:
            raise DigiQError(f"propose: the source '{config.choice}' needs --{name}.")
        read[name] = path
    inputs = {"episodes": episodes, "rewards": rewards, **read, **files_of(config.chosen)}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        store = LabelledEpisodes(episodes, rewards)
        total = len(observation_index(store))
        if not total:
            raise DigiQError(f"{episodes}: holds no observation to propose for.")
        candidates = config.chosen.open(read)
        parts: list[Proposals] = []
        done = 0
        covered = Coverage()
        with progress("propose", total, unit="states") as bar:
            for batch in _batches(_observations(store, getattr(candidates, "reads_steps", False))):
                observations, logged, elements = zip(*batch, strict=True)
                # Seeded by row, so that draws do not depend on how rows are batched.
                rngs = [np.random.default_rng([config.seed, done + b]) for b in range(len(batch))]
                proposed = candidates.propose(observations, logged, config.num_candidates, rngs)
                for row, shown in zip(proposed, elements, strict=True):
                    covered.add(row, shown)
                parts.append(to_arrays(proposed))  # objects would take ten times the memory
                done += len(batch)
                bar.advance(len(batch))
        proposals = join(parts)
        save_proposals(proposals, writer.path)
        print(covered.in_words())
        distinct = np.mean(covered.sizes)
        counts = {"observations": total, "candidates": int(proposals.valid.sum())}
        if report := getattr(candidates, "report", None):
            counts |= report()
        return writer.complete(counts=counts, extra={"distinct_actions_per_observation": float(distinct)})


@dataclasses.dataclass
class Coverage:
    """Counts, as candidates come, how much of the possible actions they cover."""

    sizes: list[int] = dataclasses.field(default_factory=list)
    """By state, number of distinct actions, including the logged one."""
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Number of distinct actions by type."""
    tapped: int = 0
    """Number of tappable screen elements that some candidate taps."""
    reachable: int = 0

    def add(self, row: Sequence[Candidate | None], ui_elements: str) -> None:
        """Counts a state's candidates on a screen with these elements (as in :class:`digiq.data.schema.Step`)."""
        actions = {item.action for item in row if item is not None}
        self.sizes.append(len(actions))
        self.kinds.update(map(_kind, actions))
        boxes = [box for element, box in element_boxes(ui_elements) if element.get("clickable") is not False]
        points = [action.touch_yx for action in actions if action.is_tap]
        self.reachable += len(boxes)
        self.tapped += sum(
            any(y <= py <= y + h and x <= px <= x + w for py, px in points) for y, x, h, w in boxes
        )

    def in_words(self) -> str:
        """The coverage, in one sentence."""
        total = max(self.kinds.total(), 1)
        kinds = ", ".join(f"{kind} {count / total:.0%}" for kind, count in self.kinds.most_common())
        alone = np.mean(np.array(self.sizes) < 2)
        said = (
            f"propose: {np.mean(self.sizes):.1f} different actions per state ({kinds}); {alone:.0%} of {len(self.sizes):,} "
            "states have nothing to compare"
        )
        if not self.reachable:
            return said + "."
        return said + f"; taps reach {self.tapped / self.reachable:.0%} of the screens' elements."


def _kind(action: Action) -> str:
    if action.type is ActionType.DUAL_POINT:
        return "tap" if action.is_tap else "swipe"
    return action.type.words


def _observations(episodes: Sequence, all_of_it: bool) -> Iterator[tuple[PolicyInput, Action | None, str]]:
    """Every row of ``observation_index``, in order: the source's view, the logged action and the screen's elements."""
    decode = functools.lru_cache(maxsize=64)(decode_png)  # repeated screens are common
    for episode in episodes:
        past: tuple[Action, ...] = ()
        for step in episode.steps:
            if step.is_terminal:
                continue
            screen = decode(step.screenshot)
            if all_of_it:
                shown = StepInput(screen, step.goal, step.ui_elements, step.extras, past)
            else:
                shown = PolicyInput(screen, step.goal)
            yield shown, step.action, step.ui_elements
            if step.action is not None:
                past = (*past, step.action)


def _batches(items: Iterator[tuple[PolicyInput, Action | None, str]]) -> Iterator[list]:
    while batch := list(itertools.islice(items, _BATCH)):
        yield batch
