import itertools

import jax
import numpy as np
import pytest

from digiq.policies import spelling

WIDTH = 8


@pytest.fixture(scope="module")
def speller():
    params = spelling.initial_params(WIDTH, np.random.default_rng(0))
    # Few bytes carry nearly all of the mass, so that every likely text can be listed.
    params["output_bias"] -= 30.0
    for byte in (0, ord("a"), ord("b"), 0xC3, 0xA9):
        params["output_bias"][byte] += 30.0
    return params


def test_probabilities_of_all_texts_sum_to_one(speller):
    texts = [
        "".join(t)
        for n in range(4)
        for t in itertools.product("abé", repeat=n)
        if len("".join(t).encode()) <= 3
    ]
    hidden = np.tile(np.linspace(-0.5, 0.5, WIDTH, dtype=np.float32), (len(texts), 1))
    total = np.exp(spelling.text_log_prob(speller, hidden, texts, max_bytes=3)).sum()
    # Two-byte characters that begin with 0xC3 or end in 0xA9 beside é have next to no mass.
    assert total == pytest.approx(1.0, abs=1e-4)


def test_draws_follow_the_probabilities(speller):
    count, hidden = 6000, np.full(WIDTH, 0.3, np.float32)
    uniforms = np.random.default_rng(0).random((count, 4))
    drawn = spelling.draw_text(speller, np.tile(hidden, (count, 1)), uniforms, temperature=1.3)
    texts = sorted(set(drawn), key=drawn.count)[-6:]
    expected = np.exp(spelling.text_log_prob(speller, np.tile(hidden, (6, 1)), texts, 3, temperature=1.3))
    seen = np.array([drawn.count(text) / count for text in texts])
    assert np.abs(seen - expected).max() < 4 * np.sqrt(0.25 / count)


def test_a_fresh_network_draws_valid_text_within_its_bytes():
    params = spelling.initial_params(WIDTH, np.random.default_rng(1))
    params["output_bias"][0x80:] += 8.0  # prefers lead and continuation bytes
    uniforms = np.random.default_rng(1).random((300, 11))
    texts = spelling.draw_text(params, np.zeros((300, WIDTH), np.float32), uniforms)
    assert max(len(text.encode()) for text in texts) <= 10
    assert any(ord(c) > 0xFFFF for text in texts for c in text)
    hidden = np.zeros((len(texts), WIDTH), np.float32)
    assert np.isfinite(spelling.text_log_prob(params, hidden, texts, 10)).all()


def test_likely_texts_are_the_likeliest(speller):
    hidden = np.full(WIDTH, -0.2, np.float32)
    found = spelling.likely_texts(speller, hidden, 4, max_bytes=3)
    texts = [
        "".join(t)
        for n in range(4)
        for t in itertools.product("abé", repeat=n)
        if len("".join(t).encode()) <= 3
    ]
    log_probs = spelling.text_log_prob(speller, np.tile(hidden, (len(texts), 1)), texts, 3)
    best = sorted(zip(texts, log_probs, strict=True), key=lambda item: -item[1])[:4]
    assert [text for text, _ in found] == [text for text, _ in best]
    np.testing.assert_allclose([lp for _, lp in found], [lp for _, lp in best], rtol=1e-6)


def test_texts_that_cannot_be_spelled():
    assert spelling.encode_text("abc", 2) is None
    assert spelling.encode_text("a\0b", 8) is None
    assert spelling.encode_text("\ud800", 8) is None
    assert bytes(spelling.encode_text("é", 4)) == b"\xc3\xa9\0\0\0"


def test_fitting_and_drawing_agree_on_the_likelihood(speller):
    from digiq.policies.grid_fit import _spelling_loss

    # Of valid first bytes only, so that drawing, which masks the others, has nothing to mask.
    params = {**speller, "output_bias": np.where(np.arange(256) < 0x80, speller["output_bias"], -60.0)}
    texts = ["ab", "", "b" * 40]
    rows = np.stack([spelling.encode_text(text, 41) for text in texts])
    hidden = np.full((3, WIDTH), 0.1, np.float32)
    loss = np.asarray(_spelling_loss(jax.tree.map(jax.numpy.asarray, params), hidden, rows))
    np.testing.assert_allclose(loss, -spelling.text_log_prob(params, hidden, texts, 41), rtol=1e-4)
