"""The distribution over actions that GridPolicy's logits describe: exact log-probabilities, draws and support.

p(action) = p(kind) × p(cell) for a tap, × p(direction) for a swipe, × p(text) for a typed text, where
p(text) = p(copy) · Σ p(spans of the goal that read ``text``) + p(spell) · p(its bytes). The place of a tap within its
cell is deterministic, so a tap has the probability of its cell.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from android_env.actions import Action, ActionType
from digiq.policies import spelling
from digiq.policies.goals import GoalWords, span_mask
from digiq.policies.network import KINDS, SWIPES

_KIND = {name: index for index, name in enumerate(KINDS)}
_PLAIN = {
    ActionType.PRESS_BACK: _KIND["back"],
    ActionType.PRESS_HOME: _KIND["home"],
    ActionType.PRESS_ENTER: _KIND["enter"],
    ActionType.STATUS_TASK_COMPLETE: _KIND["complete"],
    ActionType.STATUS_TASK_IMPOSSIBLE: _KIND["impossible"],
}
_PLAIN_ACTIONS = {
    _KIND["back"]: Action.back(),
    _KIND["home"]: Action.home(),
    _KIND["enter"]: Action.enter(),
    _KIND["complete"]: Action.complete(),
    _KIND["impossible"]: Action.impossible(),
}


def kind_of(action: Action) -> int | None:
    """Index into KINDS; None for action types without a head in GridPolicy (the extension types)."""
    if action.type == ActionType.DUAL_POINT:
        return _KIND["tap"] if action.is_tap else _KIND["swipe"]
    if action.type == ActionType.TYPE:
        return _KIND["type"]
    return _PLAIN.get(action.type)


def cell_of(touch_yx: tuple[float, float], grid: tuple[int, int]) -> int:
    """Row-major index of the cell of an R × C grid that holds the point, or is nearest to it."""
    row, column = (min(max(int(p * n), 0), n - 1) for p, n in zip(touch_yx, grid, strict=True))
    return row * grid[1] + column


def swipe_of(action: Action) -> int:
    """Index into SWIPES of the finger's main direction (the vertical one on a tie)."""
    dy, dx = action.lift_yx[0] - action.touch_yx[0], action.lift_yx[1] - action.touch_yx[1]
    if abs(dy) >= abs(dx):
        return SWIPES.index("up" if dy < 0 else "down")
    return SWIPES.index("left" if dx < 0 else "right")


@dataclasses.dataclass(frozen=True)
class GridDistribution:
    """The distributions of B inputs, from the network's outputs as numpy arrays.

    ``outputs`` has the keys and shapes that :class:`~digiq.policies.network.GridNetwork` returns.
    """

    outputs: Mapping[str, np.ndarray]
    goals: Sequence[GoalWords]
    grid: tuple[int, int]
    """Rows and columns of touch cells."""
    max_span: int
    """Longest copied span, in words."""
    max_bytes: int
    """Longest spelled text, in bytes."""
    speller: Mapping[str, np.ndarray] | None
    """Arrays of the byte decoder; None if every text is copied."""
    temperature: float = 1.0

    @functools.cached_property
    def _span_mask(self) -> np.ndarray:
        length = self.outputs["span"].shape[-1]
        return np.stack([span_mask(len(g.bounds), length, self.max_span) for g in self.goals])

    def _scaled(self, name: str) -> np.ndarray:
        return self.outputs[name].astype(np.float64) / self.temperature

    @functools.cached_property
    def _gate(self) -> np.ndarray:
        """float64[B, 2]: log-probabilities of copying and of spelling; both -inf where no text is possible."""
        possible = np.stack(
            [self._span_mask.any(axis=(1, 2)), np.full(len(self.goals), self.speller is not None)], axis=1
        )
        return _log_softmax(self._scaled("gate"), possible)

    @functools.cached_property
    def _kind(self) -> np.ndarray:
        possible = np.ones(self.outputs["kind"].shape, bool)
        possible[:, _KIND["type"]] = np.isfinite(self._gate).any(axis=1)
        return _log_softmax(self._scaled("kind"), possible)

    @functools.cached_property
    def _cell(self) -> np.ndarray:
        return _log_softmax(self._scaled("cell"))

    @functools.cached_property
    def _swipe(self) -> np.ndarray:
        return _log_softmax(self._scaled("swipe"))

    @functools.cached_property
    def _span(self) -> np.ndarray:
        """float64[B, L * L]."""
        count = len(self.goals)
        return _log_softmax(self._scaled("span").reshape(count, -1), self._span_mask.reshape(count, -1))

    def _tap(self, row: int, cell: int) -> Action:
        offset = self.outputs["offset"][row, cell]
        y, x = divmod(cell, self.grid[1])
        return Action.tap(float((y + offset[0]) / self.grid[0]), float((x + offset[1]) / self.grid[1]))

    def _copy_log_prob(self, row: int, text: str) -> float:
        """Log of the summed probabilities of the spans that read ``text``."""
        total, length = -np.inf, self.outputs["span"].shape[-1]
        goal = self.goals[row]
        for i, (start, _) in enumerate(goal.bounds):
            if goal.goal.startswith(text, start):
                for j in range(i, min(i + self.max_span, len(goal.bounds))):
                    if goal.bounds[j][1] == start + len(text):
                        total = np.logaddexp(total, self._span[row, i * length + j])
        return float(total)

    def _text_log_probs(self, rows: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        """float64[M]: log p(text | type) of each (row, text)."""
        index = np.asarray(rows, np.int64)
        copied = np.array([self._copy_log_prob(r, t) for r, t in zip(rows, texts, strict=True)])
        result = self._gate[index, 0] + copied
        if self.speller is not None and len(texts):
            hidden = self.outputs["speller"][index]
            spelled = spelling.text_log_prob(self.speller, hidden, texts, self.max_bytes, self.temperature)
            result = np.logaddexp(result, self._gate[index, 1] + spelled)
        return result

    def log_prob(self, actions: Sequence[Sequence[Action]]) -> list[list[float]]:
        """Log-probabilities of any number of actions for each of the B inputs."""
        result = [[-np.inf] * len(row) for row in actions]
        typed: list[tuple[int, int]] = []
        for b, row in enumerate(actions):
            for n, action in enumerate(row):
                kind = kind_of(action)
                if kind is None:
                    continue
                inner = 0.0
                if kind == _KIND["tap"]:
                    inner = self._cell[b, cell_of(action.touch_yx, self.grid)]
                elif kind == _KIND["swipe"]:
                    inner = self._swipe[b, swipe_of(action)]
                elif kind == _KIND["type"]:
                    typed.append((b, n))
                result[b][n] = float(self._kind[b, kind] + inner)
        texts = self._text_log_probs([b for b, _ in typed], [actions[b][n].text for b, n in typed])
        for (b, n), text in zip(typed, texts, strict=True):
            result[b][n] += float(text)
        return result

    def draw(self, n: int, rngs: Sequence[np.random.Generator]) -> list[list[Action]]:
        """``n`` independent draws for each input, each row from its own generator."""
        count, length = len(self.goals), self.outputs["span"].shape[-1]
        uniforms = np.stack([rng.random((n, 2)) for rng in rngs])  # one for the kind, one for its argument
        kinds = spelling.draw_index(np.exp(self._kind)[:, None], uniforms[..., 0])
        inner = uniforms[..., 1]
        cells = spelling.draw_index(np.exp(self._cell)[:, None], inner)
        swipes = spelling.draw_index(np.exp(self._swipe)[:, None], inner)
        spelled: list[tuple[int, int]] = []
        actions: list[list[Action]] = []
        for b in range(count):
            row: list[Action] = []
            for i in range(n):
                kind = int(kinds[b, i])
                if kind == _KIND["tap"]:
                    row.append(self._tap(b, int(cells[b, i])))
                elif kind == _KIND["swipe"]:
                    row.append(Action.swipe(SWIPES[int(swipes[b, i])]))
                elif kind == _KIND["type"]:
                    copy, choice = np.exp(self._gate[b]), rngs[b].random(2)
                    if int(spelling.draw_index(copy, choice[0])) == 1:
                        spelled.append((b, i))
                        row.append(Action.type_text(""))
                    else:
                        span = int(spelling.draw_index(np.exp(self._span[b]), choice[1]))
                        row.append(Action.type_text(self.goals[b].text(*divmod(span, length))))
                else:
                    row.append(_PLAIN_ACTIONS[kind])
            actions.append(row)
        if spelled and self.speller is not None:
            draws = np.stack([rngs[b].random(self.max_bytes + 1) for b, _ in spelled])
            hidden = self.outputs["speller"][[b for b, _ in spelled]]
            texts = spelling.draw_text(self.speller, hidden, draws, self.temperature)
            for (b, i), text in zip(spelled, texts, strict=True):
                actions[b][i] = Action.type_text(text)
        return actions

    def support(self, k: int) -> list[list[tuple[Action, float]]]:
        """The ``k`` likeliest distinct actions of each input, likeliest first.

        Every probability is exact. Spelled texts are found by beam search, so one of them may be missed.
        """
        return [self._support(b, k) for b in range(len(self.goals))]

    def _support(self, b: int, k: int) -> list[tuple[Action, float]]:
        kind = self._kind[b]
        found = [(action, kind[index]) for index, action in _PLAIN_ACTIONS.items()]
        found += [
            (Action.swipe(name), kind[_KIND["swipe"]] + self._swipe[b, i]) for i, name in enumerate(SWIPES)
        ]
        for cell in np.argsort(-self._cell[b], kind="stable")[:k]:
            found.append((self._tap(b, int(cell)), kind[_KIND["tap"]] + self._cell[b, cell]))
        texts = self._likely_texts(b, k)
        log_probs = self._text_log_probs([b] * len(texts), texts)
        found += [
            (Action.type_text(text), kind[_KIND["type"]] + lp)
            for text, lp in zip(texts, log_probs, strict=True)
        ]
        found.sort(key=lambda item: -item[1])
        return [(action, float(np.exp(lp))) for action, lp in found[:k] if np.isfinite(lp)]

    def _likely_texts(self, b: int, k: int) -> list[str]:
        length = self.outputs["span"].shape[-1]
        texts: dict[str, None] = {}
        # Several spans may read the same, so k texts may take more than k spans.
        for span in np.argsort(-self._span[b], kind="stable"):
            if len(texts) == k or not np.isfinite(self._span[b, span]):
                break
            texts[self.goals[b].text(*divmod(int(span), length))] = None
        if self.speller is not None:
            hidden = self.outputs["speller"][b]
            texts |= dict.fromkeys(
                text for text, _ in spelling.likely_texts(self.speller, hidden, k, self.max_bytes)
            )
        return list(texts)


def _log_softmax(logits: np.ndarray, possible: np.ndarray | None = None) -> np.ndarray:
    """Log-softmax over the last axis; a row without possible entries is all -inf."""
    if possible is not None:
        logits = np.where(possible, logits, -np.inf)
    top = logits.max(axis=-1, keepdims=True)
    logits = logits - np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return logits - np.log(np.maximum(np.exp(logits).sum(axis=-1, keepdims=True), 1e-300))
