"""Goals as words: what the network reads, and the spans of the goal that it can copy.

Words are hashed into an embedding table whose rows start at zero. So a word never seen in training reads as the zero
vector, which word dropout also shows the network. The ends of a copied span are therefore learned from the words around
it, and carry over to unseen queries and sites.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib

import numpy as np

# "newegg.com", "wi-fi" and "o'reilly" are one word each; the comma after them is another.
_WORD = re.compile(r"\w+(?:[.\-'&/:@_+]\w+)*|[^\w\s]")
SHAPE_FEATURES = 6


@dataclasses.dataclass(frozen=True, eq=False)
class GoalWords:
    """A goal cut into at most L words, padded to L."""

    goal: str
    bounds: tuple[tuple[int, int], ...]
    """Character range of each word in ``goal``."""
    buckets: np.ndarray
    """int32[L]: hash bucket of each lower-cased word, 0 for padding (no word hashes to 0)."""
    shapes: np.ndarray
    """float32[L, SHAPE_FEATURES]: what even an unseen word shows (punctuation, digits, a dot, capitals, length)."""

    def text(self, start: int, end: int) -> str:
        """The goal's characters from word ``start`` to word ``end``, both included."""
        return self.goal[self.bounds[start][0] : self.bounds[end][1]]

    def find(self, text: str, max_span: int) -> tuple[int, int] | None:
        """The first span of at most ``max_span`` words that reads exactly ``text``, or None."""
        starts = {s: i for i, (s, _) in enumerate(self.bounds)}
        ends = {e: j for j, (_, e) in enumerate(self.bounds)}
        position = self.goal.find(text) if text else -1
        while position >= 0:
            i, j = starts.get(position), ends.get(position + len(text))
            if i is not None and j is not None and j - i < max_span:
                return i, j
            position = self.goal.find(text, position + 1)
        return None


@functools.lru_cache(maxsize=16384)
def goal_words(goal: str, length: int, buckets: int) -> GoalWords:
    """Cuts ``goal`` into words; words after the first ``length`` are left out.

    Args:
      goal: any string.
      length: L, the padded length.
      buckets: rows of the embedding table, row 0 (padding) included.
    """
    bounds = tuple(match.span() for match in _WORD.finditer(goal))[:length]
    ids = np.zeros(length, np.int32)
    shapes = np.zeros((length, SHAPE_FEATURES), np.float32)
    for i, (start, end) in enumerate(bounds):
        word = goal[start:end]
        ids[i] = 1 + zlib.crc32(word.lower().encode()) % (buckets - 1)
        shapes[i] = (
            1.0,
            not word[0].isalnum(),
            any(c.isdigit() for c in word),
            "." in word and len(word) > 1,
            word[0].isupper(),
            min(len(word), 16) / 16,
        )
    return GoalWords(goal, bounds, ids, shapes)


@functools.lru_cache(maxsize=16384)
def span_mask(words: int, length: int, max_span: int) -> np.ndarray:
    """bool[L, L]: which (start, end) pairs are spans of a goal of ``words`` words."""
    start, end = np.indices((length, length))
    return (start <= end) & (end < words) & (end - start < max_span)
