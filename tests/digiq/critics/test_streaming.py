"""Streaming reads the same transitions in the same order as the in-memory scan."""

import importlib.util
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

from digiq.critics.learner import train
from digiq.critics.streaming import StoredRows, Streaming, fits_in_memory
from digiq.critics.training_data import prepare

_spec = importlib.util.spec_from_file_location("learner_problem", Path(__file__).with_name("test_learner.py"))
_learner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_learner)


def on_disk(features: dict, path: Path) -> dict:
    """The same features as memory maps, pairs split into two layers."""
    maps = {}
    for name, array in {
        "o": features["observation"],
        "a": features["pair"][:, :3],
        "b": features["pair"][:, 3:],
    }.items():
        np.save(path / f"{name}.npy", array)
        maps[name] = np.load(path / f"{name}.npy", mmap_mode="r")
    return {**features, "observation": StoredRows([maps["o"]]), "pair": StoredRows([maps["a"], maps["b"]])}


@pytest.mark.parametrize("objective", ["td", "cql"])
def test_streaming_learns_the_same_numbers(tmp_path, objective):
    # Held-out rows are read in parts of at most a batch: three of them.
    learner, state, data = _learner.start(
        _learner.config(objective=objective, batch_size=8), heldout_fraction=0.25
    )
    assert 16 < len(data.heldout_rows) < 24
    transitions, features = _learner.problem()
    streamed = prepare(
        transitions, on_disk(features, tmp_path), gamma=learner.config.gamma, heldout_fraction=0.25
    )
    np.testing.assert_allclose(streamed.standardizer.pair_mean, data.standardizer.pair_mean, rtol=1e-6)
    other = jax.tree.map(lambda x: x.copy(), state)
    in_memory = list(train(learner, state, learner.hyper(), data))
    from_disk = list(train(Streaming(learner), other, learner.hyper(), streamed))
    np.testing.assert_array_equal(in_memory[-1].state.key, from_disk[-1].state.key)
    for a, b in zip(in_memory, from_disk, strict=True):
        assert b.metrics == pytest.approx(a.metrics, rel=1e-4, abs=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        in_memory[-1].state.params,
        from_disk[-1].state.params,
    )


def test_stored_rows_read_like_an_array():
    array = np.arange(20.0).reshape(10, 2)
    rows = StoredRows([array[:, :1], array[:, 1:]])
    where = np.array([[3, 3], [9, 0]])
    np.testing.assert_array_equal(rows[where], array[where])
    np.testing.assert_array_equal(rows[2:5], array[2:5])
    assert rows.shape == (10, 2)
    assert rows.dtype == array.dtype
    np.testing.assert_array_equal(rows.load(), array)


def test_bad_rows_on_disk_are_named_too(tmp_path):
    transitions, features = _learner.problem()
    features["pair"][7, 3] = np.inf
    with pytest.raises(Exception, match="pair holds NaN or Inf in rows 7"):
        prepare(transitions, on_disk(features, tmp_path), gamma=0.9)


def test_a_store_larger_than_memory_does_not_fit():
    data = prepare(*_learner.problem(), gamma=0.9)
    assert fits_in_memory(data[:2])
    huge = np.broadcast_to(np.float32(0), (10**12, 4))
    assert not fits_in_memory((data.observation, huge))


def test_a_small_device_is_what_features_must_fit(monkeypatch):
    """Of a device that counts its memory, what is left; half of that is the features' share."""

    class Accelerator:
        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 4096, "bytes_in_use": 2048}

    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator()])
    assert fits_in_memory([np.zeros(256, np.float32)])
    assert not fits_in_memory([np.zeros(257, np.float32)])
    assert fits_in_memory([np.zeros(512, np.float32)], devices=2)  # two such hold the rows between them


def test_statistics_read_the_rows_in_the_order_they_lie_in():
    """A pass over rows that are scattered in a store must not fetch every chunk again and again."""

    class Scattered(np.ndarray):
        order = np.random.default_rng(0).permutation(80 * 3)
        asked: ClassVar[list[np.ndarray]] = []

        def __getitem__(self, rows):
            self.asked.append(rows)
            return np.asarray(self)[rows]

    transitions, features = _learner.problem()
    plain = prepare(transitions, features, gamma=0.9, heldout_fraction=0.25)
    features["pair"] = features["pair"].view(Scattered)
    scattered = prepare(transitions, features, gamma=0.9, heldout_fraction=0.25)
    np.testing.assert_allclose(scattered.standardizer.pair_mean, plain.standardizer.pair_mean, rtol=1e-5)
    np.testing.assert_allclose(
        scattered.standardizer.pair_inverse_scale, plain.standardizer.pair_inverse_scale, rtol=1e-5
    )
    rank = np.argsort(Scattered.order)
    assert Scattered.asked
    for rows in Scattered.asked:
        assert (np.diff(rank[rows]) > 0).all()
