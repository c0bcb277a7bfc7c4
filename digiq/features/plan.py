"""What to featurise, as arrays. Requests are made a few at a time, because millions of screens exceed memory."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode
from digiq.data.transitions import observation_index
from digiq.errors import ArtifactError
from digiq.features.engines.base import Kind, Request
from digiq.features.store import KEY_BYTES, distinct, row_key
from digiq.proposals.propose import Proposals, supported
from digiq.vlm.prompts import describe_history

if TYPE_CHECKING:
    from digiq.features.extract import FeaturizeConfig

_KEPT = 2**28  # bytes of screens of recently read episodes


@dataclasses.dataclass(frozen=True)
class Listed:
    """The requests of one kind, n of them."""

    key: npt.NDArray[np.uint8]
    """[n, 16], keys of their rows."""
    length: npt.NDArray[np.int32]
    """[n], length of the prompt in characters."""
    screen: npt.NDArray[np.int32]
    """[n], index of the screen among all screens, ordered by digest."""
    state: npt.NDArray[np.uint64]
    """[n], equal for requests with the same :attr:`Request.state`."""
    state_of: npt.NDArray[np.int32]
    """[n], index of the observation."""
    column: npt.NDArray[np.int32]
    """[n], index of the candidate; -1: the observation itself."""

    def __len__(self) -> int:
        return len(self.key)

    def order(self, by_state: bool) -> npt.NDArray[np.int64]:
        """Requests with distinct keys, in the order of work.

        Requests are sorted by length, so that batches carry little padding. With ``by_state``, for an engine that reads
        a state once for all its candidates, those candidates come together. States then follow the order of the
        episodes, so that each episode is read once.
        """
        first, _ = distinct(self.key)
        if not by_state:
            return first[np.lexsort((self.screen[first], self.length[first]))]
        state = self.state[first]
        _, which = np.unique(state, return_inverse=True)
        met = np.full(len(first), np.iinfo(np.int32).max, np.int32)  # first observation of each state
        np.minimum.at(met, which, self.state_of[first])
        return first[np.lexsort((self.length[first], state, met[which]))]


class Plan:
    """The rows of an artefact. Repeated screens and pairs share one row, even across episodes.

    Args:
      episodes: give S non-terminal observations.
      proposals: N candidates for each.
      config: a resolved config.
      stamps: by kind, what enters the rows' keys beside the request itself.

    Raises:
      ArtifactError: the candidates belong to other episodes, or a state has none.
    """

    def __init__(
        self,
        episodes: LabelledEpisodes,
        proposals: Proposals,
        config: FeaturizeConfig,
        stamps: Mapping[Kind, str],
    ):
        self._episodes, self._proposals, self._config = episodes, proposals, config
        self._template = config.template
        self._kept: collections.OrderedDict[int, Episode] = collections.OrderedDict()
        self._bytes = 0
        self._place = check_sizes(episodes, proposals)
        read = proposals.valid.copy()
        if config.support > 0:
            read[:, 1:] &= supported(proposals.log_prob, proposals.valid, config.support, any_n=True)[:, 1:]
        empty = np.flatnonzero(~read.any(axis=1))
        if len(empty):
            e, t = self._place[empty[0]]
            raise ArtifactError(
                f"proposals: {_where(episodes[int(e)], int(t))} has no candidates; run 'propose' again."
            )
        self.listed: dict[Kind, Listed] = {}
        self.candidate_row: npt.NDArray[np.int32] = np.full(read.shape, -1, np.int32)
        """[S, N] row numbers of the pairs, the logged action's in column 0; -1: no candidate, or left out."""
        self._list(read, stamps)

    def requests(self, kind: Kind, which: npt.NDArray[np.int64]) -> list[Request]:
        """The requests ``which``, in that order. Each episode is read once, and the requests hold its screens."""
        listed = self.listed[kind]
        made: dict[int, Request] = {}
        states = listed.state_of[which]
        for s in np.unique(states):
            e, t = self._place[s]
            observed = self._observed(self._episode(int(e)), int(t))
            for i in np.flatnonzero(states == s).tolist():
                n = int(listed.column[which[i]])
                made[i] = (
                    observed if n < 0 else observed.of(self._proposals.action(int(s), n), self._template)
                )
        return [made[i] for i in range(len(which))]

    def _episode(self, number: int) -> Episode:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        episode = self._kept[number] = self._episodes[number]
        self._bytes += _size(episode)
        while self._bytes > _KEPT and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return episode

    def _observed(self, episode: Episode, t: int) -> Request:
        step, done = episode.steps[t], [s.action for s in episode.steps[:t] if s.action is not None]
        remembered = self._config.remembered
        before = episode.steps[t - 1].screenshot if t and remembered.screenshot else None
        return Request.build(
            step.screenshot,
            step.goal,
            None,
            self._config.grounding,
            template=self._template,
            history=describe_history(done, remembered.actions),
            digest=hashlib.sha256(step.screenshot).digest(),
            before=before,
            before_digest=b"" if before is None else hashlib.sha256(before).digest(),
            where=_where(episode, t),
            activity=step.activity,
            ui_elements=step.ui_elements,
        )

    def _list(self, read: npt.NDArray[np.bool_], stamps: Mapping[Kind, str]) -> None:
        """Fills the lists in one pass over the episodes, in order."""
        count, width = read.shape
        digests = np.zeros((count, hashlib.sha256().digest_size), np.uint8)
        columns = {
            "key": np.zeros((count, 1 + width, KEY_BYTES), np.uint8),
            "same": np.zeros((count, width, KEY_BYTES), np.uint8),
            "length": np.zeros((count, 1 + width), np.int32),
            "state": np.zeros((count, 1 + width), np.uint64),
        }
        before, episode = -1, None
        for s in range(count):
            e, t = self._place[s].tolist()
            if e != before:
                before, episode = e, self._episodes[e]
            assert episode is not None
            observed = self._observed(episode, t)
            digests[s] = np.frombuffer(observed.digest, np.uint8)
            self._note(columns, s, 0, observed, stamps["observation"])
            for n in np.flatnonzero(read[s]).tolist():
                action = self._proposals.action(s, n)
                self._note(columns, s, 1 + n, observed.of(action, self._template), stamps["pair"])
                columns["same"][s, n] = np.frombuffer(_same(observed, action), np.uint8)
        # Distinct digests in byte order.
        words = np.ascontiguousarray(digests).view(">u8").astype(np.uint64)
        screen = np.unique(words, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
        del digests, words
        everything = np.arange(count, dtype=np.int32)
        self.listed["observation"] = Listed(
            columns["key"][:, 0].copy(),
            columns["length"][:, 0].copy(),
            screen,
            columns["state"][:, 0].copy(),
            everything,
            np.full(count, -1, np.int32),
        )
        # Column by column, so that logged actions come first.
        n, s = np.nonzero(read.T)
        first, which = distinct(columns.pop("same")[s, n])
        self.candidate_row[s, n] = which
        s, n = s[first], n[first]
        key, length, state = (columns[name][s, 1 + n] for name in ("key", "length", "state"))
        self.listed["pair"] = Listed(key, length, screen[s], state, s.astype(np.int32), n.astype(np.int32))

    def _note(self, columns: dict[str, npt.NDArray], s: int, n: int, request: Request, stamp: str) -> None:
        key = row_key(stamp, request.digest, request.prompt.text, *request.seen)
        columns["key"][s, n] = np.frombuffer(key, np.uint8)
        columns["length"][s, n] = len(request.prompt.text)
        group = row_key(*request.screens, request.drawn, request.goal, request.history)
        columns["state"][s, n] = int.from_bytes(group[:8], "big")


def check_sizes(episodes: LabelledEpisodes, proposals: Proposals) -> npt.NDArray[np.int32]:
    """(episode, step) of every observation, int32 [S, 2].

    Raises:
      ArtifactError: the proposals belong to other episodes.
    """
    place = observation_index(episodes)
    if len(place) != len(proposals):
        raise ArtifactError(
            f"proposals: made for {len(proposals)} observations, but the episodes have {len(place)}; "
            "run 'propose' on these episodes and rewards."
        )
    return place


def _same(observed: Request, action: Action) -> bytes:
    """Equal for equal actions on equal observations."""
    numbers = struct.pack("<q4d", action.type, *(x + 0.0 for x in (*action.touch_yx, *action.lift_yx)))
    return row_key(*observed.screens, observed.goal, observed.history, numbers, action.text)


def _size(episode: Episode) -> int:
    return sum(len(step.screenshot) for step in episode.steps)


def _where(episode: Episode, t: int) -> str:
    return f"episode {episode.episode_id}, step {t}"


def cut(states: npt.NDArray[np.uint64] | None, count: int, size: int) -> list[slice]:
    """Shards of at most ``size`` out of ``count`` ordered requests; with ``states``, a state is split only if it
    exceeds a shard."""
    out: list[slice] = []
    start = 0
    while start < count:
        end = min(start + size, count)
        if states is not None and end < count and states[end - 1] == states[end]:
            others = np.flatnonzero(states[start:end] != states[end])
            end = start + int(others[-1]) + 1 if len(others) else end
        out.append(slice(start, end))
        start = end
    return out


def share_of(shards: Sequence[slice], worker: tuple[int, int] | None) -> Sequence[slice]:
    """The shards of worker i of n, counted from 1; all for None."""
    return shards if worker is None else shards[worker[0] - 1 :: worker[1]]
