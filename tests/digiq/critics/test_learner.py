"""The update, the epoch, and the state that they carry."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from digiq.critics.learner import CriticConfig, Learner, train
from digiq.critics.objectives.base import v_target
from digiq.critics.training_data import Needs, gather, place, prepare
from digiq.errors import ConfigError

SMALL = {"q_hidden": (8,), "v_hidden": (8,)}


def problem(seed: int = 0, episodes: int = 20, length: int = 4) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    t = np.arange(episodes * length)
    done = t % length == length - 1
    transitions = {
        "obs": t,
        "next_obs": np.where(done, -1, t + 1),
        "reward": (done * (t // length % 2)).astype(np.float32),
        "terminated": done,
        "truncated": np.zeros(len(t), bool),
        "episode": t // length,
    }
    features = {
        "observation": rng.normal(size=(len(t), 5)).astype(np.float32),
        "pair": rng.normal(size=(3 * len(t), 4)).astype(np.float32),
        "candidate_row": np.arange(3 * len(t)).reshape(len(t), 3),
    }
    return transitions, features


def start(config: CriticConfig, **options):
    data = jax.device_put(prepare(*problem(), gamma=config.gamma, **options))
    learner = Learner(config)
    return learner, learner.init(jax.random.PRNGKey(0), data), data


def config(**changes) -> CriticConfig:
    base = {
        "heads": SMALL,
        "epochs": 2,
        "steps_per_epoch": 3,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "tau": 0.25,
    }
    return CriticConfig(**base | changes)


def test_target_starts_as_a_copy_and_follows_as_a_moving_average():
    learner, state, data = start(config(steps_per_epoch=1))
    first = jax.device_get(state.params)
    jax.tree.map(np.testing.assert_array_equal, first, jax.device_get(state.target))
    pointers = [
        {x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)} for tree in (state.params, state.target)
    ]
    assert not pointers[0] & pointers[1], "an aliased target could not be donated and would follow at once"
    state, _ = learner.epoch(state, learner.hyper(), data)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, first, jax.device_get(state.params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        expected,
        jax.device_get(state.target),
    )


def test_an_epoch_is_its_updates_one_by_one():
    learner, state, data = start(config())
    positions, keys, _ = learner.draw(state.key, len(data.train_rows))
    single, update = state, jax.jit(learner.update)
    for position, key in zip(positions, keys, strict=True):
        batch = gather(data, data.train_rows[position], learner.objective.needs)
        single, _ = update(single, learner.hyper(), batch, key)
    whole, _ = learner.epoch(jax.tree.map(jnp.copy, state), learner.hyper(), data)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), single.params, whole.params
    )
    assert int(whole.step) == 3
    assert np.any(whole.key != state.key)


def test_the_update_is_adamw_with_clipping():
    """Against optax's own chain; weight decay touches matrices and no biases."""
    learner, state, data = start(config(weight_decay=0.1, gradient_clip=0.01, schedule="constant"))
    batch = gather(data, jnp.arange(16), learner.objective.needs)

    def loss(params):
        return learner.objective.loss(learner.heads, params, state.target, batch)[0]

    kernels = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", state.params)
    reference = optax.chain(
        optax.clip_by_global_norm(0.01), optax.adamw(1e-2, weight_decay=0.1, mask=kernels)
    )
    gradient = jax.grad(loss)(state.params)
    updates, reference_state = reference.update(gradient, reference.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    new, info = jax.jit(learner.update)(state, learner.hyper(), batch, jax.random.PRNGKey(0))
    assert float(info["gradient_norm"]) == pytest.approx(float(optax.global_norm(gradient)), rel=1e-4)
    assert float(info["gradient_norm"]) > 0.02, "nothing would be clipped"
    # Adam's direction hides the gradient's size; its first moment does not.
    moments = optax.tree_utils.tree_get(reference_state, "mu")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-8), new.optimizer.mu, moments
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.params, expected)


def test_micro_batches_are_clipped_one_by_one():
    learner, state, data = start(config(micro_batches=2, gradient_clip=0.01))
    batch = gather(data, jnp.arange(16), learner.objective.needs)
    gradient, _ = learner._gradient(state, batch, jax.random.PRNGKey(0))
    whole = Learner(config(gradient_clip=0.01))
    halves = [
        whole._gradient(state, jax.tree.map(lambda x, part=part: x[part], batch), jax.random.PRNGKey(0))[0]
        for part in (slice(0, 8), slice(8, 16))
    ]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient, expected)


def test_the_state_is_donated_and_the_data_is_not():
    learner, state, data = start(config())
    leaf = jax.tree.leaves(state.params)[0]
    learner.epoch(state, learner.hyper(), data)
    assert leaf.is_deleted()
    assert not data.pair.is_deleted()
    text = learner.epoch.lower(learner, start(config())[1], learner.hyper(), data).as_text()
    rows = str(data.pair.shape[0])
    constants = re.findall(r"stablehlo\.constant .*: tensor<([\dx]*)", text)
    assert constants and not any(rows in shape.split("x") for shape in constants), (
        "the data is in the program"
    )
    assert re.search(rf"%arg\d+: tensor<{rows}x", text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_epoch_holds_the_features_once(dtype):
    """The compiled epoch's own memory is small beside the features: nothing copies or widens them as a whole."""
    learner, state, data = start(config())
    wide = np.random.default_rng(0).normal(size=(240, 20_000)).astype(jnp.dtype(dtype))
    standardizer = data.standardizer._replace(
        pair_mean=jnp.zeros(20_000), pair_inverse_scale=jnp.ones(20_000)
    )
    data = place(data._replace(pair=wide, standardizer=standardizer))
    small = dataclasses.replace(learner.config, heads={**SMALL, "q_hidden": ()}, batch_size=2)
    learner = Learner(small)
    state = learner.init(jax.random.PRNGKey(0), data)
    memory = learner.epoch.lower(learner, state, learner.hyper(), data).compile().memory_analysis()
    assert memory.argument_size_in_bytes > wide.nbytes, "the features are an argument"
    assert memory.temp_size_in_bytes < wide.nbytes / 4
    # What comes out is the state, in the buffers of the one that went in.
    assert memory.output_size_in_bytes < wide.nbytes / 4
    assert memory.alias_size_in_bytes > 0.9 * memory.output_size_in_bytes


def test_bfloat16_features_on_the_device_are_the_same_numbers():
    transitions, features = problem()
    features = {
        **features,
        **{k: features[k].astype(jnp.bfloat16) for k in ("observation", "pair")},
    }
    host = prepare(transitions, features, gamma=0.9)
    needs, rows = Needs(candidates=True, steps=2, every_step=True), np.array([5, 0, 79])
    device = jax.jit(gather, static_argnums=2)(place(host), jnp.asarray(rows), needs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), device, gather(host, rows, needs)
    )


def test_same_seed_same_numbers_and_other_seed_others():
    def last(seed: int) -> float:
        learner, _, data = start(config())
        state = learner.init(jax.random.PRNGKey(seed), data)
        return [e.metrics["q_mean"] for e in train(learner, state, learner.hyper(), data)][-1]

    assert last(0) == last(0)
    assert last(0) != last(1)


def test_small_data_is_a_full_batch():
    learner, state, data = start(config(batch_size=1000))
    positions, _, _ = learner.draw(state.key, len(data.train_rows))
    np.testing.assert_array_equal(positions[2], np.arange(80))


def test_generator_resumes_where_it_stopped_and_reports_held_out_numbers():
    learner, state, data = start(config(), heldout_fraction=0.25)
    rows = {e.number: e.metrics for e in train(learner, state, learner.hyper(), data, first=1)}
    assert list(rows) == [2]
    assert {"td_error", "q_mean", "heldout_bellman_residual", "heldout_return_error"} <= set(rows[2])


def test_cosine_schedule_ends_at_rest():
    learner, *_ = start(config(warmup_steps=2))
    schedule = learner._schedule()
    assert [float(schedule(k)) for k in (0, 1, 2)] == pytest.approx([0, 0.5, 1])
    assert float(schedule(6)) == pytest.approx(0, abs=1e-6)


def test_bfloat16_activations_stay_near_float32():
    losses = []
    for dtype in ("float32", "bfloat16"):
        heads = {**SMALL, "dtype": dtype}
        learner, state, data = start(config(heads=heads, epochs=5, steps_per_epoch=20))
        for epoch in train(learner, state, learner.hyper(), data):
            state = epoch.state
        rows = jnp.arange(80)
        losses.append(
            {k: float(v) for k, v in learner.evaluate(state.params, state.target, data, rows).items()}
        )
    assert losses[0]["td_error"] < 0.45
    for name in ("td_error", "q_mean", "v_mean"):
        assert losses[1][name] == pytest.approx(losses[0][name], abs=0.02)


def test_batches_split_into_equal_micro_batches():
    with pytest.raises(ConfigError, match="multiple of micro_batches"):
        config(batch_size=10, micro_batches=4)
    assert dataclasses.replace(config(), batch_size=32, micro_batches=4).micro_batches == 4


def test_small_gradients_are_left_as_they_are():
    learner, state, data = start(config(gradient_clip=1e3))
    batch = gather(data, jnp.arange(16), learner.objective.needs)
    gradient, info = learner._gradient(state, batch, jax.random.PRNGKey(0))
    free, _ = Learner(config(gradient_clip=None))._gradient(state, batch, jax.random.PRNGKey(0))
    assert 0 < float(info["gradient_norm"]) < 100
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gradient, free)


def test_v_follows_q_of_this_observation_and_not_of_the_next():
    learner, state, data = start(config())
    batch = gather(data, jnp.arange(8), learner.objective.needs)
    target = jax.tree.map(lambda x: x + 0.1, state.target)  # fresh heads say 0 of everything
    asked = v_target(learner.heads, target, batch, "logged", None)
    here = learner.heads.q_value(target, batch.observation, batch.pair)
    there = learner.heads.q_value(target, batch.next_observation, batch.pair)
    np.testing.assert_allclose(asked, here, rtol=1e-6)
    assert not np.allclose(here, there, atol=1e-3)
