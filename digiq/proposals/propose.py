"""The ``propose`` stage: N candidate actions for every observation, the logged action always candidate 0."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from android_env.actions import NO_POINT, Action, ActionType
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.data.transitions import observation_index
from digiq.errors import ArtifactError, DigiQError
from digiq.policies.base import Policy, PolicyInput, load_policy
from digiq.progress import progress

STAGE, VERSION = "propose", 1
_FILE = "proposals.npz"
_BATCH = 256


@configclass
class ProposeConfig:
    """How many candidates, and how they are drawn."""

    num_candidates: Annotated[int, Field(ge=1)] = 8
    """N, candidates an observation, the logged action included."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the policy's sampling; above 1 the candidates spread."""
    seed: int = 0
    """Of the draws; those of an observation depend on its row alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposals:
    """N candidates for each of the S rows of :func:`digiq.data.transitions.observation_index`."""

    action_type: npt.NDArray[np.int32]
    """[S, N], ids of :class:`android_env.actions.ActionType`."""
    touch_yx: npt.NDArray[np.float32]
    """[S, N, 2], (-1, -1) where unused; ``lift_yx`` alike."""
    lift_yx: npt.NDArray[np.float32]
    text_id: npt.NDArray[np.int32]
    """[S, N], index into ``texts``."""
    texts: tuple[str, ...]
    log_prob: npt.NDArray[np.float32]
    """[S, N], under the proposing policy at its temperature; -inf for a logged action it cannot make."""
    valid: npt.NDArray[np.bool_]
    """[S, N]; column 0 is not valid where no action was logged (the end of a truncated episode)."""

    def __len__(self) -> int:
        return len(self.valid)

    def at(self, rows: npt.NDArray[np.intp]) -> "Proposals":
        """Those of some of the observations."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self) if f.name != "texts"}
        return dataclasses.replace(self, **arrays)

    def action(self, s: int, n: int) -> Action:
        """Candidate ``n`` of observation ``s``.

        Raises:
          ValueError: there is no such candidate (``valid`` is False).
        """
        if not self.valid[s, n]:
            raise ValueError(f"observation {s} has no candidate {n}; look at Proposals.valid first.")
        (ty, tx), (ly, lx) = self.touch_yx[s, n].tolist(), self.lift_yx[s, n].tolist()
        text = self.texts[self.text_id[s, n]]
        return Action(ActionType(int(self.action_type[s, n])), (ty, tx), (ly, lx), text)


def supported(
    log_prob: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], share: float, *, any_n: bool = False
) -> npt.NDArray[np.bool_]:
    """bool[S, N]: candidates at least ``share`` times as likely as the likeliest of their state.

    With ``any_n`` as the likeliest of those before them: what is supported among the first n, for any n.
    """
    known = np.where(valid & ~np.isnan(log_prob), log_prob, -np.inf)
    likeliest = np.maximum.accumulate(known, axis=1) if any_n else known.max(axis=1, keepdims=True)
    return known >= likeliest + np.log(share)


def first_of_action(candidates: Sequence[Sequence[Action | None]]) -> np.ndarray:
    """bool[R, N]: True where a column holds an action that no earlier column of the row holds."""
    return np.array([[a is not None and a not in row[:n] for n, a in enumerate(row)] for row in candidates])


def propose(
    policy: Policy,
    inputs: Sequence[PolicyInput],
    logged: Sequence[Action | None],
    config: ProposeConfig,
    first_row: int = 0,
) -> list[list[tuple[Action, float] | None]]:
    """(candidate, log-probability) [B][N] for B observations; None for a logged action that is not there.

    Args:
      policy: draws candidates 1 to N - 1.
      inputs: B observations.
      logged: the action executed at each, candidate 0.
      config: see :class:`ProposeConfig`.
      first_row: row of the first observation; the draws of row s come from the generator (seed, s), so they do not
        depend on how rows are batched.
    """
    rngs = [np.random.default_rng([config.seed, first_row + b]) for b in range(len(inputs))]
    drawn = policy.sample(inputs, config.num_candidates - 1, rngs, config.temperature)
    rows: list[list[tuple[Action, float] | None]] = []
    known = [b for b, action in enumerate(logged) if action is not None]
    log_probs = policy.log_prob(
        [inputs[b] for b in known], [a for a in logged if a is not None], config.temperature
    )
    logged_log_prob = dict(zip(known, map(float, log_probs), strict=True))
    for b, candidates in enumerate(drawn):
        action = logged[b]
        first = None if action is None else (action, logged_log_prob[b])
        rows.append([first, *((c.action, c.log_prob) for c in candidates)])
    return rows


def to_arrays(rows: Sequence[Sequence[tuple[Action, float] | None]]) -> Proposals:
    """Packs what :func:`propose` returns."""
    texts: dict[str, int] = {"": 0}
    shape = (len(rows), len(rows[0]) if rows else 0)
    action_type, text_id = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    touch, lift = (np.full((*shape, 2), NO_POINT, np.float32) for _ in range(2))
    log_prob, valid = np.full(shape, -np.inf, np.float32), np.zeros(shape, bool)
    for s, row in enumerate(rows):
        for n, item in enumerate(row):
            if item is None:
                continue
            action, log_prob[s, n] = item
            action_type[s, n], valid[s, n] = action.type, True
            touch[s, n], lift[s, n] = action.touch_yx, action.lift_yx
            text_id[s, n] = texts.setdefault(action.text, len(texts))
    return Proposals(
        action_type=action_type,
        touch_yx=touch,
        lift_yx=lift,
        text_id=text_id,
        texts=tuple(texts),
        log_prob=log_prob,
        valid=valid,
    )


def save_proposals(proposals: Proposals, path: Path) -> None:
    """Writes ``proposals.npz`` into the directory ``path``."""
    arrays = {f.name: getattr(proposals, f.name) for f in dataclasses.fields(proposals)}
    # As JSON bytes: numpy's own string arrays drop trailing NULs.
    arrays["texts"] = np.frombuffer(json.dumps(proposals.texts).encode(), np.uint8)
    with artifacts.atomic_path(path / _FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_proposals(path: str | Path) -> Proposals:
    """Opens a ``propose`` artefact.

    Raises:
      ArtifactError: absent, unfinished, of another stage, or damaged.
    """
    artifact = artifacts.open(path, stage=STAGE)
    artifact.verify()
    try:
        with np.load(artifact.path / _FILE) as file:
            arrays = {name: file[name] for name in file.files}
        arrays["texts"] = tuple(json.loads(arrays["texts"].tobytes()))
        return Proposals(**arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{artifact.path / _FILE}: cannot be read ({error}); run 'propose' again."
        ) from None


def run(
    config: ProposeConfig,
    *,
    episodes: Path,
    policy: Path,
    out: Path,
    rewards: Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Proposes for every non-terminal observation of the episodes, relabelled copies in ``rewards`` included.

    Raises:
      DigiQError: the episodes hold no observation.
    """
    inputs = {"episodes": episodes, "rewards": rewards, "policy": policy}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        store = LabelledEpisodes(episodes, rewards)
        total = len(observation_index(store))
        if not total:
            raise DigiQError(f"{episodes}: holds no observation to propose for.")
        proposer = load_policy(policy)
        rows: list[list[tuple[Action, float] | None]] = []
        with progress("propose", total, unit="states") as bar:
            for batch in _batches(_observations(store)):
                observations, logged = zip(*batch, strict=True)
                rows += propose(proposer, observations, logged, config, first_row=len(rows))
                bar.advance(len(batch))
        proposals = to_arrays(rows)
        save_proposals(proposals, writer.path)
        distinct = np.mean([len({item for item in map(_action, row) if item}) for row in rows])
        counts = {"observations": total, "candidates": int(proposals.valid.sum())}
        return writer.complete(counts=counts, extra={"distinct_actions_per_observation": float(distinct)})


def _action(item: tuple[Action, float] | None) -> Action | None:
    return item[0] if item else None


def _observations(episodes: Sequence) -> Iterator[tuple[PolicyInput, Action | None]]:
    """Every row of ``observation_index``, in its order. Screens seen again are decoded once in a while only."""
    decode = functools.lru_cache(maxsize=64)(decode_png)
    for episode in episodes:
        for step in episode.steps:
            if not step.is_terminal:
                yield PolicyInput(decode(step.screenshot), step.goal), step.action


def _batches(items: Iterator[tuple[PolicyInput, Action | None]]) -> Iterator[list]:
    while batch := list(itertools.islice(items, _BATCH)):
        yield batch
