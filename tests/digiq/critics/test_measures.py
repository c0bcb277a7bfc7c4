"""Each diagnostic against a case whose answer is known."""

import dataclasses
import importlib.util
import inspect
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from digiq.critics import CriticConfig, candidate_values, fit_critic
from digiq.critics.measures import (
    Evidence,
    LinearFQE,
    Monitor,
    Reference,
    _principal,
    auc,
    calibration,
    diagnose,
    gaps,
    logged_ranking,
    novelty,
    q_trend,
    ranking,
    sample_episodes,
    scalars,
    values_of,
    verdict,
)
from digiq.critics.select import agreement, choose
from digiq.critics.select import run as select_stage
from digiq.critics.training_data import Needs, gather, place, prepare

NEEDS = Needs(candidates=True)
_spec = importlib.util.spec_from_file_location("tabular", Path(__file__).with_name("test_objectives.py"))
_tabular = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tabular)


def test_calibration_of_known_errors():
    predicted = np.repeat([0.2, 0.6], 50)
    observed = np.repeat([0.3, 0.6], 50)
    found = calibration(predicted, observed, bins=2)
    assert found.ece == pytest.approx(0.05)
    assert found.bias == pytest.approx(-0.05)
    assert found.predicted == pytest.approx([0.2, 0.6])
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    assert calibration(p, (rng.random(20_000) < p).astype(float)).ece < 0.02


def test_ranking_against_truth():
    truth = np.array([[1.0, 0.5, 0.0], [0.2, 0.2, 0.2], [0.0, 1.0, np.nan]])
    right = ranking(truth * 3 + 1, truth)
    assert (right.accuracy, right.rank_at_1, right.states) == (1.0, 1.0, 2)
    wrong = ranking(-truth, truth)
    assert (wrong.accuracy, wrong.rank_at_1) == (0.0, 0.0)
    tied = ranking(np.zeros((3, 3)), truth)
    assert tied.accuracy == 0.5
    assert tied.rank_at_1 == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_logged_ranking_uses_mid_ranks():
    q = np.array([[0.5, 0.5, 0.1], [0.9, 0.1, np.nan], [0.3, np.nan, np.nan]])
    found = logged_ranking(q)
    assert found.states == 2
    assert found.mean_rank == pytest.approx((1.5 + 1) / 2)
    assert found.rank_at_1 == pytest.approx((0.5 + 1) / 2)
    assert found.random_rank == pytest.approx((2 + 1.5) / 2)
    assert found.accuracy == pytest.approx((0.75 + 1) / 2)


def test_auc_and_gaps():
    assert auc(np.array([0.1, 0.2, 0.2, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.875)
    assert math.isnan(auc(np.ones(3), np.ones(3, bool)))
    found = gaps(np.array([0.0, 0.1, 0.2, 0.3]), 0.1)
    assert found.share == 0.5
    assert found.quantiles[0] == 0
    assert found.quantiles[-1] == 0.3
    assert sum(found.counts) == 4
    assert found.counts[0] == found.counts[-1] == 1
    assert (found.edges[0], found.edges[-1]) == (0, 0.3)


def curve(td: list[float], held: list[float], q: list[float]) -> list[dict[str, float]]:
    return [
        {"td_error": a, "heldout_return_error": b, "heldout_td_error": b, "q_mean": c}
        for a, b, c in zip(td, held, q, strict=True)
    ]


def test_verdicts():
    down, flat = list(np.linspace(1, 0.1, 10)), [0.1] * 10
    rising_late = [*np.linspace(0.5, 0.2, 5), *np.linspace(0.2, 0.5, 5)]
    up = list(np.linspace(0, 0.5, 10))
    assert verdict(curve(flat, rising_late, up)).kind == "overfitting"
    kink = [0.5, 0.4, 0.3, 0.2, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]  # least in the fifth epoch, smoothed or not
    assert "after epoch 5" in verdict(curve(flat, kink, up)).reason
    assert (
        verdict(curve(flat, flat, [*np.linspace(0, 0.6, 5), *np.linspace(0.6, 0.1, 5)])).kind == "overfitting"
    )
    assert verdict(curve(down, down, up)).kind == "underfitting"
    assert verdict(curve([0.4] * 10, [0.4] * 10, flat)).kind == "underfitting"
    assert verdict(curve([1, 0.5, 0.1, *[0.05] * 7], [0.2] * 10, up)).kind == "sound"
    assert verdict(curve(flat[:2], flat[:2], flat[:2])).kind == "unknown"


def test_flat_curves_say_nothing_where_there_is_too_little_to_tell_from():
    flat, up = [0.05] * 10, list(np.linspace(0, 0.5, 10))
    curves = curve([1, 0.5, 0.1, *flat[3:]], [0.2] * 10, up)
    enough = Evidence(held_out=True, successes=4, failures=4, pairs=30)
    assert verdict(curves, enough).kind == "sound"
    for change, said in {
        "successes": "no successes, but at least 4 of each",
        "failures": "no failures",
        "pairs": "no pairs to order, but at least 30 are needed",
        "held_out": "no episode was held out",
    }.items():
        found = verdict(curves, dataclasses.replace(enough, **{change: 0}))
        assert found.kind == "unknown" and said in found.reason
    assert "1 success and 3 failures" in verdict(curves, Evidence(True, 1, 3, 30)).reason
    rising = curve(flat, [*np.linspace(0.5, 0.2, 5), *np.linspace(0.2, 0.5, 5)], up)
    assert verdict(rising, Evidence(True, 0, 0, 0)).kind == "overfitting"  # curves are evidence of their own


def test_evidence_is_counted_in_held_out_episodes():
    visits, _ = tabular_data()
    arrays = _tabular.as_arrays(visits)
    data = prepare(*arrays, gamma=_tabular.GAMMA, standardize=False, heldout_fraction=0.25)
    critic = fit_critic(*arrays, CriticConfig(epochs=4, steps_per_epoch=2), heldout_fraction=0.25)
    found = diagnose(critic, data).evidence
    assert found.held_out and found.successes + found.failures == 100
    rows = np.asarray(data.heldout_rows)
    table = data.table
    won = {int(end) for end, total in zip(table.end[rows], table.returns[rows], strict=True) if total > 0}
    assert found.successes == len(won)
    everything = diagnose(critic, data, rows=np.arange(len(table.obs))).evidence
    assert not everything.held_out and everything.successes + everything.failures == 400


def tabular_data():
    visits = _tabular.sample_visits(episodes=400)
    return visits, prepare(*_tabular.as_arrays(visits), gamma=_tabular.GAMMA, standardize=False)


def test_linear_fqe_is_the_exact_value_of_the_policy():
    """One-hot features make the linear Q exact: compare with policy evaluation on the empirical model."""
    visits, data = tabular_data()
    policy = np.array([2, 0, 1, 1, 0])
    q = np.zeros((_tabular.STATES, _tabular.ACTIONS))
    s, a, after = visits.state, visits.action, visits.following
    for _ in range(500):
        target = visits.reward + _tabular.GAMMA * np.where(after < 0, 0, q[after, policy[after]])
        total, count = np.zeros_like(q), np.zeros_like(q)
        np.add.at(total, (s, a), target)
        np.add.at(count, (s, a), 1)
        q = total / count
    first = data.table.first
    expected = q[s[first], policy[s[first]]].mean()
    column = np.argmax(visits.order == policy[s][:, None], axis=1)
    fqe = LinearFQE(data, ridge=1e-6)
    estimate = fqe.value(column)
    known = fqe.q_values(column)
    assert known == pytest.approx(np.take_along_axis(q[s], visits.order, axis=1), abs=2e-3)
    assert estimate.value == pytest.approx(expected, abs=2e-3)
    assert estimate.low < expected < estimate.high
    other = LinearFQE(data, ridge=1e-6).value(np.zeros(len(s), np.int64))
    assert abs(other.value - estimate.value) > 0.01
    # A column that no state has a candidate in is no value, and no error.
    rows = np.asarray(data.candidate_row)
    wider = data._replace(candidate_row=np.concatenate([rows, np.full((len(rows), 1), -1, rows.dtype)], 1))
    more = LinearFQE(wider, ridge=1e-6).q_values(column)
    assert np.isnan(more[:, -1]).all() and more[:, :-1] == pytest.approx(known)


def test_unseen_candidates_are_novel():
    rng = np.random.default_rng(0)
    transitions, features = _tabular.as_arrays(_tabular.sample_visits())
    count = len(transitions["obs"])
    near = rng.normal(size=(count, 6)).astype(np.float32)
    far = near + 8.0
    features |= {"pair": np.concatenate([near, near[::-1] + 0.01, far])}
    features["candidate_row"] = np.stack([np.arange(count) + k * count for k in range(3)], 1)
    found = novelty(prepare(transitions, features, gamma=0.9))
    assert found[:, 0].mean() == pytest.approx(0.5, abs=0.05)
    assert found[:, 1].mean() == pytest.approx(0.5, abs=0.05)
    assert found[:, 2].min() == 1.0


def test_diagnose_puts_it_together():
    visits, data = tabular_data()
    transitions, features = _tabular.as_arrays(visits)
    q, _ = _tabular.solve(visits, "td", {"backup": "max"})
    truth = np.take_along_axis(q[visits.state], visits.order, axis=1)
    config = _tabular.linear("td", {"backup": "max"}, steps_per_epoch=300, epochs=5, batch_size=10_000)
    config = CriticConfig(
        **{**{f: getattr(config, f) for f in config.__dataclass_fields__}, "baseline": "candidate_mean"}
    )
    critic = fit_critic(transitions, features, config)
    found = diagnose(critic, data, history=critic.metrics, truth=truth, threshold=0.01)
    assert found.truth.accuracy > 0.95
    assert found.policy_value.value > found.behavior_value.value
    assert found.calibration.ece < 0.2
    assert 0.1 < found.gaps.share < 0.9
    assert found.disagreement < 0.1
    assert found.initial_value == pytest.approx(q[visits.state[data.table.first]].max(1).mean(), abs=0.03)
    assert diagnose(critic, data).truth is None


def test_diagnose_looks_at_successes_and_at_members():
    """On the chain some episodes fall off; of two members that are a constant apart the deviation is half of it."""
    visits = _tabular.sample_visits(chain=True)
    transitions, features = _tabular.as_arrays(visits)
    data = prepare(transitions, features, gamma=_tabular.GAMMA, standardize=False)
    critic = fit_critic(transitions, features, _tabular.linear("td", {}, steps_per_epoch=300))
    layer = {k: np.stack([np.asarray(x)[0]] * 2) for k, x in critic.params["q"]["input_0"].items()}
    layer["bias"][1] += 0.4
    critic = dataclasses.replace(critic, params={**critic.params, "q": {"input_0": layer}})
    q, _ = candidate_values(critic, features)
    found = diagnose(critic, data)
    assert found.disagreement == pytest.approx(0.2 / q.std(), rel=1e-3)
    paid = visits.reward[visits.last] > 0
    assert 0 < paid.sum() < len(paid)
    assert found.success_auc == auc(q[:, 0], paid)
    assert found.logged_ranking == logged_ranking(q[paid])
    assert found.logged_ranking.states == paid.sum()


def test_a_sample_of_episodes_is_what_it_was_in_the_whole():
    transitions, features = _tabular.as_arrays(_tabular.sample_visits())
    data = prepare(transitions, features, gamma=0.9, heldout_fraction=0.5)
    small, observations = sample_episodes(data, 30)
    assert len(small.table.obs) <= 30
    part = gather(small, small.heldout_rows, NEEDS)
    assert set(np.unique(small.table.obs)) <= set(range(len(observations)))
    np.testing.assert_array_equal(data.observation[observations], small.observation)
    assert small.table.first.sum() == len(np.unique(small.table.end))
    rows = np.flatnonzero(np.isin(data.table.obs, observations[small.table.obs]))
    assert set(rows) <= set(data.heldout_rows), "only held-out episodes"
    again = gather(data, rows, NEEDS)
    # What follows an episode's end is read and multiplied by 0: any observation will do.
    part, again = (b._replace(next_observation=b.next_observation * (b.discount > 0)) for b in (part, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), part, again)
    one, _ = sample_episodes(data, 1)
    assert one.table.first.sum() == 1


def test_the_monitor_of_everything_finds_what_diagnose_finds():
    transitions, features = _tabular.as_arrays(_tabular.sample_visits())
    data = prepare(transitions, features, gamma=_tabular.GAMMA, heldout_fraction=0.0)
    critic = fit_critic(
        transitions, features, _tabular.linear("td", {}, steps_per_epoch=100, standardize=True)
    )
    history = [{"epoch": 1.0, "q_mean": 0.5, "heldout_td_error": 0.25}]
    whole = scalars(diagnose(critic, data, history=history))
    monitor = Monitor.of(place(data), 10**6)
    watched = monitor.look(critic, history)
    assert watched.td_error == 0.25
    assert scalars(watched) == pytest.approx(whole, abs=2e-3)
    # The residual by hand, of the mean member.
    q, v = (
        critic.aggregate(x)
        for x in (
            critic.q(features["observation"], features["pair"][data.candidate_row[:, 0]]),
            critic.v(features["observation"]),
        )
    )
    ahead = np.where(transitions["next_obs"] < 0, 0, v[transitions["next_obs"]])
    residual = q - transitions["reward"] - _tabular.GAMMA * ahead
    assert watched.bellman_residual == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-4)


def test_principal_directions_of_few_rows_are_those_of_many_columns():
    x = np.random.default_rng(0).normal(size=(40, 60)) * np.linspace(1, 5, 60)
    basis, deviation, centre = _principal(x, 5)
    _, values, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(deviation, values[:5] / np.sqrt(39), rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(basis.T * directions[:5], axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(centre, x.mean(0))


def test_trend_of_q():
    rows = [{"q_mean": 0.0, "heldout_q_mean": x} for x in (0.0, 1.0, 1.5, 1.6, 1.6, 1.6, 1.7, 1.8)]
    assert q_trend(rows) == pytest.approx(0.1)
    assert math.isnan(q_trend(rows[:1]))


def test_select_prefers_the_checkpoint_that_ranks_and_values_better():
    visits, data = tabular_data()
    transitions, features = _tabular.as_arrays(visits)
    settings = {"steps_per_epoch": 150, "epochs": 4, "batch_size": 10_000}
    good = fit_critic(transitions, features, _tabular.linear("td", {"backup": "max"}, **settings))
    untrained = dataclasses.replace(
        good,
        params=jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape).astype("f"), good.params),
    )
    found = {"random": diagnose(untrained, data), "trained": diagnose(good, data)}
    values = {"random": candidate_q(untrained, data), "trained": candidate_q(good, data)}
    choice = choose(found, values)
    assert choice.best == "trained"
    assert choice.scores["trained"] > choice.scores["random"]
    assert "policy value" in choice.why
    worse = dataclasses.replace(
        found["trained"], verdict=verdict(curve([0.1] * 6, [0.1, 0.1, 0.1, 0.3, 0.5, 0.6], [0.0] * 6))
    )
    assert choose({**found, "trained": worse}, values).best == "random", (
        "an overfitting critic stands behind the others"
    )


def candidate_q(critic, data):
    return critic.aggregate(values_of(critic, data)[0])


def test_agreement_is_with_the_others_order_within_states():
    rng = np.random.default_rng(0)
    order = rng.normal(size=(200, 4))
    near = order + 0.3 * rng.normal(size=order.shape)
    # Neither a state's level nor its spread counts, and what a critic lacks does not either.
    moved = order * rng.uniform(0.1, 10, size=(200, 1)) + 100 * rng.normal(size=(200, 1))
    moved[::3, 2] = np.nan
    chance, opposite = rng.normal(size=order.shape), -order
    found = dict(zip("omnco", agreement([order, moved, near, chance, opposite]), strict=False))
    assert min(found[k] for k in "mn") > 0.3
    assert abs(found["c"]) < 0.2 and found["o"] < -0.5
    assert np.isnan(agreement([order, np.zeros_like(order)])).all()


def test_step_agreement_is_with_one_step_advantages_of_the_behaviour():
    visits, data = tabular_data()
    critic = fit_critic(*_tabular.as_arrays(visits), _tabular.linear("td", {}, steps_per_epoch=1))
    exact, _ = _tabular.solve(visits, "td", {})
    q = np.take_along_axis(exact[visits.state], visits.order, axis=1)[..., None]
    reference, v = Reference.of(data), exact.mean(axis=1)
    after = np.where(visits.following < 0, 0, v[visits.following])
    step = visits.reward + _tabular.GAMMA * after - v[visits.state]
    assert reference.step_advantage == pytest.approx(step, abs=0.02)

    def found(q, reference=reference):
        return diagnose(critic, data, values=(q, q.mean(axis=1)), reference=reference).step_agreement

    advantage = (q[:, 0] - q.mean(axis=1))[:, 0]
    # Of one noisy step an advantage is a small part; without noise it is all.
    assert found(q) == pytest.approx(np.corrcoef(advantage, step)[0, 1], abs=0.01)
    assert found(q, dataclasses.replace(reference, step_advantage=3 * advantage)) == pytest.approx(
        1.0, abs=1e-4
    )
    assert found(-q) == pytest.approx(-found(q), abs=1e-4)
    assert math.isnan(found(np.zeros_like(q)))


def test_select_never_sees_the_truth():
    """With truth present or absent, right or wrong, the choice is the same."""
    visits, data = tabular_data()
    critic = fit_critic(*_tabular.as_arrays(visits), _tabular.linear("mc", {}, steps_per_epoch=50))
    worse = fit_critic(*_tabular.as_arrays(visits), _tabular.linear("mc", {}, steps_per_epoch=1))
    truths = [
        None,
        np.zeros(data.candidate_row.shape),
        np.random.default_rng(0).random(data.candidate_row.shape),
    ]
    values = {"a": candidate_q(critic, data), "b": candidate_q(worse, data)}
    scores = [
        choose({"a": diagnose(critic, data, truth=t), "b": diagnose(worse, data)}, values).scores
        for t in truths
    ]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["a"] != scores[0]["b"], "equal scores would hide what the truth does to them"
    assert "truth" not in inspect.signature(select_stage).parameters
