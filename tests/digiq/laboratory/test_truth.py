"""The simulator's Q as a ruler."""

from __future__ import annotations

import numpy as np
import pytest

from android_env.devices.simulated.exact import optimal_q
from android_env.devices.simulated.phone import layout_seed_of
from digiq.agents.build import device_tasks
from digiq.laboratory.truth import Truth, is_simulated, picks, replay
from digiq.proposals.propose import first_of_action
from digiq.report.run_report import logged_values


@pytest.fixture(scope="module")
def values(small_run):
    return logged_values(small_run.artifacts)


@pytest.fixture(scope="module")
def truth(small_run, values):
    return replay(small_run.artifacts.episodes, values.episodes, values.index, values.actions, discount=0.95)


def test_replay_values_every_recorded_state(small_run, values, truth):
    assert is_simulated(small_run.artifacts.episodes)
    assert truth.rows.tolist() == list(range(len(values.index)))
    assert (np.isnan(truth.q) == ~values.proposals.valid).all()
    assert (np.nanmax(truth.q, axis=1) <= truth.v + 1e-9).all()
    task = next(t for t in device_tasks("webshop/train") if t.task_id == values.episodes[0].task_id)
    fresh = optimal_q(task, layout_seed_of(values.episodes[0].seed), discount=0.95)
    assert truth.v[0] == pytest.approx(fresh.success)


def test_the_best_critic_reaches_the_ceiling_and_the_worst_falls_below_chance(values, truth):
    distinct = first_of_action([values.actions(row) for row in truth.rows])
    everywhere = np.ones(len(truth.rows), bool)
    best = picks(truth, truth.q, distinct, everywhere)
    worst = picks(truth, -truth.q, distinct, everywhere)
    assert best.critic == pytest.approx(best.best_candidate) and best.pairwise == 1.0
    assert worst.critic < worst.random < best.critic <= best.best_action and worst.pairwise == 0.0
    assert 0 < best.coverage < 1


def test_picks_by_hand():
    truth = Truth(
        rows=np.arange(2),
        screens=("a", "b"),
        q=np.array([[0.2, 0.6, 0.2], [0.5, np.nan, 0.1]]),
        v=np.array([0.6, 0.9]),
    )
    learned = np.array([[0.3, 0.1, 0.3], [0.9, np.nan, 0.2]])
    distinct = np.array([[True, True, False], [True, False, True]])
    found = picks(truth, learned, distinct, np.array([True, True]))
    assert found.states == 2
    assert found.best_action == pytest.approx(0.75) and found.best_candidate == pytest.approx(0.55)
    assert found.critic == pytest.approx((0.2 + 0.5) / 2)
    assert found.random == pytest.approx((0.4 + 0.3) / 2)
    assert found.coverage == 0.5 and found.pairwise == 0.5
