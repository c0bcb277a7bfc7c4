"""Heads and their readouts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeException
from jaxtyping import TypeCheckError, jaxtyped

import digiq.critics.heads as heads_module
from digiq.critics.heads import MLP, Heads, HeadsConfig, Readout, ReadoutConfig
from digiq.errors import ConfigError


def drawn(heads: Heads, *sizes: int):
    """Initial parameters, moved off the zeros that the last layers start at."""
    return _drawn(heads, sizes, 0.1, heads_module._STACK_UP_TO)


def initial(heads: Heads, *sizes: int):
    return _drawn(heads, sizes, 0.0, heads_module._STACK_UP_TO)


@functools.cache  # compiling is most of these tests' time
def _drawn(heads: Heads, sizes: tuple[int, ...], shift: float, _: int):
    def draw(key):
        return jax.tree.map(lambda p: p + shift, heads.init(key, *sizes))

    return jax.jit(draw)(jax.random.PRNGKey(0))


q_value, v_value = (jax.jit(f, static_argnums=0) for f in (Heads.q_value, Heads.v_value))


SMALL = HeadsConfig(q_hidden=(5, 4), v_hidden=(3,), members=3)


def test_first_layer_is_the_dense_layer_of_the_concatenation():
    a, b = jax.random.normal(jax.random.PRNGKey(0), (2, 6, 3))
    mlp = MLP(hidden=(), outputs=4)
    params = mlp.init(jax.random.PRNGKey(1), a, b)
    kernels = [params["params"][f"input_{i}"]["kernel"] for i in range(2)]
    joined = {"kernel": jnp.concatenate(kernels), "bias": params["params"]["input_0"]["bias"]}
    expected = nn.Dense(4).apply({"params": joined}, jnp.concatenate([a, b], -1))
    np.testing.assert_allclose(mlp.apply(params, a, b), expected, rtol=1e-5, atol=1e-6)


def test_first_layer_starts_at_the_scale_of_its_whole_fan_in():
    mlp = MLP(hidden=(512,), outputs=1)
    params = mlp.init(jax.random.PRNGKey(0), jnp.zeros((1, 300)), jnp.zeros((1, 100)))["params"]
    for name in ("input_0", "input_1"):
        assert np.std(params[name]["kernel"]) == pytest.approx(400**-0.5, rel=0.05)


def test_an_observation_broadcasts_over_its_candidates():
    heads = Heads(SMALL)
    params = drawn(heads, 4, 2)
    observation, pairs = jnp.arange(8.0).reshape(2, 4), jax.random.normal(jax.random.PRNGKey(1), (2, 5, 2))
    together = q_value(heads, params, observation[:, None], pairs)
    assert together.shape == (3, 2, 5)
    np.testing.assert_allclose(
        together[:, 1, 3], q_value(heads, params, observation[1], pairs[1, 3]), rtol=1e-5
    )


def test_every_value_starts_at_zero_and_is_learned_from_there():
    heads = Heads(SMALL)
    params = initial(heads, 4, 2)
    observation, pair = jnp.ones((2, 4)), jnp.ones((2, 2))
    assert not q_value(heads, params, observation, pair).any()
    assert not v_value(heads, params, observation).any()
    gradient = jax.jit(jax.grad(lambda p: jnp.square(heads.q_value(p, observation, pair) - 1).sum()))(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["q"]))


@pytest.mark.parametrize(
    ("low", "high", "bins", "expected"),
    [
        (0.0, 1.0, 51, 0.0),
        (-1.0, 1.0, 51, 0.0),
        (-3.0, 1.0, 101, 0.0),
        (0.5, 2.0, 21, 0.5),
        (-2.0, -1.0, 21, -1.0),
    ],
)
def test_a_fresh_histogram_has_the_value_zero_or_what_is_nearest(low, high, bins, expected):
    readout = Readout(ReadoutConfig(kind="hl_gauss", low=low, high=high, bins=bins))
    logits = np.array(readout.start(), np.float32)
    assert logits.shape == (bins,)
    assert float(readout.value(logits)) == pytest.approx(expected, abs=2e-3 * (high - low))
    assert np.ptp(logits) < 20, "a bin without mass would take an age to learn"


@pytest.mark.parametrize("hidden", [(5,), ()])
def test_histogram_heads_start_at_zero_too(hidden):
    heads = Heads(HeadsConfig(q_hidden=hidden, v_hidden=hidden, readout={"kind": "hl_gauss"}))
    params = initial(heads, 4, 2)
    # A linear head has no layer that could start at zero: with inputs of zero its bias alone is looked at.
    size = float(bool(hidden))
    observation, pair = jnp.full((2, 4), size), jnp.full((2, 2), size)
    for values in (q_value(heads, params, observation, pair), v_value(heads, params, observation)):
        np.testing.assert_allclose(values, 0, atol=2e-3)


def test_members_start_different_and_ignore_one_another():
    heads = Heads(SMALL)
    params = drawn(heads, 4, 2)
    x = jnp.ones((1, 4))
    values = v_value(heads, params, x)[:, 0]
    assert len(set(values.tolist())) == 3
    changed = jax.tree.map(lambda p: p.at[1].add(1.0), params)
    moved = v_value(heads, changed, x)[:, 0] != values
    assert moved.tolist() == [False, True, False]


def test_q_on_pairs_alone_does_not_see_the_observation():
    heads = Heads(HeadsConfig(q_hidden=(5,), q_input="pair"))
    params = drawn(heads, 4, 2)
    pair = jnp.ones((3, 2))
    a, b = (q_value(heads, params, jnp.full((3, 4), x), pair) for x in (0.0, 9.0))
    np.testing.assert_array_equal(a, b)


def test_dropout_acts_only_with_a_key():
    heads = Heads(HeadsConfig(v_hidden=(64,), dropout=0.5))
    params = drawn(heads, 4, 2)
    x = jnp.ones((2, 4))
    assert np.any(heads.v(params, x, jax.random.PRNGKey(1)) != heads.v(params, x, jax.random.PRNGKey(2)))
    np.testing.assert_array_equal(heads.v(params, x), heads.v(params, x))


def test_large_heads_are_kept_apart_and_give_the_same_values(monkeypatch):
    heads = Heads(SMALL)
    stacked = drawn(heads, 4, 2)
    monkeypatch.setattr("digiq.critics.heads._STACK_UP_TO", 1)
    apart = drawn(Heads(SMALL), 4, 2)
    assert isinstance(apart["q"], tuple)
    assert len(apart["v"]) == 3
    observation, pair = jnp.ones((2, 4)), jnp.ones((2, 2))
    for f, inputs in ((q_value, (observation, pair)), (v_value, (observation,))):
        values = [f(heads, params, *inputs) for params in (stacked, apart)]
        np.testing.assert_allclose(*values, rtol=1e-5)


@pytest.mark.parametrize("target", [0.0, 0.013, 0.5, 1.0])
def test_hl_gauss_histogram_has_the_mean_of_its_target(target):
    readout = Readout(ReadoutConfig(kind="hl_gauss", bins=51))
    histogram = readout.target_histogram(jnp.float32(target))
    assert float(histogram.sum()) == pytest.approx(1, abs=1e-5)
    # Logits of the histogram itself: the loss is least there, and decoding gives the target back.
    logits = jnp.log(histogram + 1e-9)
    assert float(readout.value(logits)) == pytest.approx(target, abs=2e-3)
    gradient = jax.grad(lambda x: readout.loss(x, jnp.float32(target)))(logits)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_bernoulli_readout_is_a_probability():
    readout = Readout(ReadoutConfig(kind="bernoulli"))
    assert float(readout.value(jnp.zeros(1))) == 0.5
    assert float(readout.loss(jnp.array([2.0]), jnp.float32(1))) == pytest.approx(
        np.log1p(np.exp(-2)), rel=1e-5
    )


def test_histogram_bounds_must_be_in_order():
    with pytest.raises(ConfigError, match="must be below"):
        ReadoutConfig(kind="hl_gauss", low=1.0, high=0.0)


def test_shapes_are_checked_against_their_annotations():
    checked = jaxtyped(typechecker=beartype)(Heads.q)
    heads = Heads(SMALL)
    params = drawn(heads, 4, 2)
    assert checked(heads, params, jnp.zeros((7, 4)), jnp.zeros((7, 2))).shape == (3, 7, 1)
    with pytest.raises((TypeCheckError, BeartypeException)):
        checked(heads, params, jnp.zeros((7, 4)), jnp.zeros((7, 2), jnp.int32))
