"""A population is its members, trained together."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from digiq.critics.learner import Learner, train
from digiq.critics.population import Population, PopulationConfig, take_member, train_population

_spec = importlib.util.spec_from_file_location("learner_problem", Path(__file__).with_name("test_learner.py"))
_learner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_learner)


def test_members_equal_single_runs():
    learner, _, data = _learner.start(_learner.config(), heldout_fraction=0.25)
    population = Population.of(learner, PopulationConfig(seeds=2, lr=(1e-2, 1e-3)), seed=5)
    assert [tuple(m) for m in population.members] == [(5, 1e-2), (5, 1e-3), (6, 1e-2), (6, 1e-3)]
    for epoch in train_population(population, population.init(data), data):
        final = epoch
    members = [take_member(final.state, k) for k in range(4)]
    for k in (1, 2):
        member = population.members[k]
        alone = Learner(_learner.config(learning_rate=member.learning_rate))
        for last in train(alone, alone.init(jax.random.PRNGKey(member.seed), data), alone.hyper(), data):
            single = jax.device_get(last.state)
            metrics = last.metrics
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            members[k].params,
            single.params,
        )
        assert final.metrics[k] == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    assert final.metrics[0]["q_mean"] != final.metrics[2]["q_mean"]
