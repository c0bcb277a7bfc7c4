"""Texts that are not spans of the goal, spelled byte by byte by a small GRU.

Only valid UTF-8 can be drawn: bytes that would break a character, or start one that no longer fits, are masked before
the softmax. So every draw is a text, and its probability is exact. Byte 0 ends a text. The GRU's equations are written
once and run under numpy (drawing) and jax.numpy (fitting).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

ALPHABET = 256
END = 0


def gru_step(xp: ModuleType, params: Mapping[str, Any], hidden: Any, byte: Any) -> Any:
    """One step of a gated recurrent unit (Cho et al. 2014): ``hidden`` [B, H] after reading ``byte`` int[B]."""
    inputs = params["embed"][byte]
    gates = inputs @ params["input_gates"] + hidden @ params["hidden_gates"] + params["gate_bias"]
    reset, update = xp.split(1 / (1 + xp.exp(-gates)), 2, axis=-1)
    proposed = xp.tanh(inputs @ params["input"] + (reset * hidden) @ params["hidden"] + params["bias"])
    return update * hidden + (1 - update) * proposed


def byte_logits(params: Mapping[str, Any], hidden: Any) -> Any:
    """Logits [B, 256] of the next byte."""
    return hidden @ params["output"] + params["output_bias"]


def initial_params(width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fresh float32 arrays of a GRU with ``width`` hidden units: weights normal / sqrt(width), biases zero."""

    def normal(*shape: int) -> np.ndarray:
        return (width**-0.5 * rng.standard_normal(shape)).astype(np.float32)

    return {
        "embed": normal(ALPHABET, width),
        "input_gates": normal(width, 2 * width),
        "hidden_gates": normal(width, 2 * width),
        "gate_bias": np.zeros(2 * width, np.float32),
        "input": normal(width, width),
        "hidden": normal(width, width),
        "bias": np.zeros(width, np.float32),
        "output": normal(width, ALPHABET),
        "output_bias": np.zeros(ALPHABET, np.float32),
    }


def encode_text(text: str, max_bytes: int) -> np.ndarray | None:
    """uint8[max_bytes + 1]: the text's bytes and the end mark, zero-padded; None if it cannot be spelled."""
    data = text.encode("utf-8", errors="surrogatepass")
    if len(data) > max_bytes or 0 in data or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return None
    row = np.zeros(max_bytes + 1, np.uint8)
    row[: len(data)] = np.frombuffer(data, np.uint8)
    return row


@functools.cache
def _utf8_automaton() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Valid UTF-8 (RFC 3629, section 4) as (next state int[8, 256], -1 = forbidden; bytes still due per state)."""
    table = np.full((8, ALPHABET), -1, np.int64)
    table[0, 0x00:0x80] = 0
    table[0, 0xC2:0xE0] = 1
    table[0, 0xE0:0xF0] = 2
    table[0, 0xE0], table[0, 0xED] = 4, 5
    table[0, 0xF1:0xF4] = 3
    table[0, 0xF0], table[0, 0xF4] = 6, 7
    for state in (1, 2, 3):
        table[state, 0x80:0xC0] = state - 1
    table[4, 0xA0:0xC0] = 1
    table[5, 0x80:0xA0] = 1
    table[6, 0x90:0xC0] = 2
    table[7, 0x80:0x90] = 2
    due = np.array([0, 1, 2, 3, 2, 2, 3, 3])
    return table, due, np.where(table >= 0, due[table], 0)


def _allowed(states: np.ndarray, room: int) -> np.ndarray:
    """bool[B, 256]: bytes that keep the text valid with ``room`` bytes left, the drawn one included."""
    table, _, due_after = _utf8_automaton()
    allowed = (table[states] >= 0) & (due_after[states] <= room - 1)
    allowed[:, END] = states == 0
    return allowed


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _next_log_probs(
    params: Mapping[str, np.ndarray], hidden: np.ndarray, states: np.ndarray, room: int, temperature: float
) -> np.ndarray:
    logits = byte_logits(params, hidden).astype(np.float64) / temperature
    return _log_softmax(np.where(_allowed(states, room), logits, -np.inf))


def text_log_prob(
    params: Mapping[str, np.ndarray],
    hidden: np.ndarray,
    texts: Sequence[str],
    max_bytes: int,
    temperature: float = 1.0,
) -> np.ndarray:
    """float64[B]: log-probability of spelling ``texts[b]`` from the initial state ``hidden[b]`` [B, H]."""
    rows = [encode_text(text, max_bytes) for text in texts]
    spelled = np.array([row is not None for row in rows], bool)
    data = np.array([row if row is not None else np.zeros(max_bytes + 1, np.uint8) for row in rows]).reshape(
        len(rows), max_bytes + 1
    )
    table, _, _ = _utf8_automaton()
    states = np.zeros(len(rows), np.int64)
    total, running = np.zeros(len(rows)), spelled.copy()
    previous = np.zeros(len(rows), np.int64)
    for position in range(max_bytes + 1):
        if not running.any():
            break
        hidden = gru_step(np, params, hidden, previous)
        log_probs = _next_log_probs(params, hidden, states, max_bytes - position, temperature)
        byte = data[:, position].astype(np.int64)
        total += np.where(running, np.take_along_axis(log_probs, byte[:, None], axis=1)[:, 0], 0.0)
        running &= byte != END
        states = np.where(running, table[states, byte], 0)
        previous = byte
    return np.where(spelled, total, -np.inf)


def draw_text(
    params: Mapping[str, np.ndarray],
    hidden: np.ndarray,
    uniforms: np.ndarray,
    temperature: float = 1.0,
) -> list[str]:
    """Draws one text per row by inverse CDF.

    Args:
      params: the GRU's arrays.
      hidden: float32[B, H], initial states.
      uniforms: float64[B, max_bytes + 1] in [0, 1).
      temperature: divides the logits.
    """
    count, length = uniforms.shape
    table, _, _ = _utf8_automaton()
    states, previous = np.zeros(count, np.int64), np.zeros(count, np.int64)
    drawn = np.zeros((count, length), np.uint8)
    running = np.ones(count, bool)
    for position in range(length):
        if not running.any():
            break
        hidden = gru_step(np, params, hidden, previous)
        log_probs = _next_log_probs(params, hidden, states, length - 1 - position, temperature)
        byte = draw_index(np.exp(log_probs), uniforms[:, position])
        byte = np.where(running, byte, END)
        drawn[:, position] = byte
        running &= byte != END
        states = np.where(running, table[states, byte], 0)
        previous = byte
    return [bytes(row).split(b"\0", 1)[0].decode() for row in drawn]


def likely_texts(
    params: Mapping[str, np.ndarray], hidden: np.ndarray, k: int, max_bytes: int
) -> list[tuple[str, float]]:
    """Up to ``k`` likely texts from one initial state [H] with their log-probabilities, by beam search."""
    table, _, _ = _utf8_automaton()
    prefixes, scores = [b""], np.zeros(1)
    states, previous, hidden = np.zeros(1, np.int64), np.zeros(1, np.int64), hidden[None]
    finished: list[tuple[str, float]] = []
    for position in range(max_bytes + 1):
        hidden = gru_step(np, params, hidden, previous)
        log_probs = scores[:, None] + _next_log_probs(params, hidden, states, max_bytes - position, 1.0)
        order = np.argsort(-log_probs, axis=None, kind="stable")[:k]
        rows, byte = np.unravel_index(order, log_probs.shape)
        keep = np.isfinite(log_probs[rows, byte])
        rows, byte = rows[keep], byte[keep]
        for row in rows[byte == END]:
            finished.append((prefixes[row].decode(), float(log_probs[row, END])))
        finished = sorted(finished, key=lambda item: -item[1])[:k]
        rows, byte = rows[byte != END], byte[byte != END]
        if not len(rows) or (len(finished) == k and log_probs[rows, byte].max() <= finished[-1][1]):
            break
        prefixes = [prefixes[row] + bytes([b]) for row, b in zip(rows, byte, strict=True)]
        scores, hidden, states, previous = (
            log_probs[rows, byte],
            hidden[rows],
            table[states[rows], byte],
            byte,
        )
    return finished


def draw_index(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """int64[...]: inverse-CDF draws from ``probabilities`` [..., K]; an index of probability 0 is never drawn."""
    cumulative = np.cumsum(probabilities, axis=-1)
    # Scaling by the last sum keeps a uniform close to 1 inside the support despite rounding.
    return (cumulative <= uniforms[..., None] * cumulative[..., -1:]).sum(axis=-1)
