"""Gates on a chain of states with a no-op, where everything that an action is worth is known.

State s of 0 to 4 leads by ``on`` to s + 1 and from the last to success; ``back`` to s - 1; ``wait`` nowhere; ``lose`` to
failure. Candidates are drawn from a behaviour policy that errs, waits most of the time in half of the states, and the logged
action is the first of them.
"""

import dataclasses

import numpy as np
import pytest

from android_env.actions import Action
from digiq.config import load
from digiq.errors import DigiQError
from digiq.extraction import distill
from digiq.extraction.awr import AWR
from digiq.extraction.base import States, Values
from digiq.extraction.best_of_n import BestOfN
from digiq.extraction.distill import DistillConfig
from digiq.extraction.lower_bound import LowerBound
from digiq.extraction.progress import Progress
from digiq.policies.base import Candidate
from digiq.proposals.propose import to_arrays

GAMMA, LENGTH, N = 0.95, 5, 4
ON, BACK, WAIT, LOSE = range(4)
ACTIONS = (Action.tap(0.1, 0.1), Action.back(), Action.tap(0.9, 0.9), Action.home())
BEHAVIOR = np.array([[0.3, 0.1, 0.2, 0.4], [0.1, 0.1, 0.6, 0.2]])[np.arange(LENGTH) % 2]


def next_value(v: np.ndarray) -> np.ndarray:
    """[states, actions], r + γ V(s')."""
    q = np.zeros((LENGTH, len(ACTIONS)))
    q[:, ON] = [*(GAMMA * v[1:]), 1.0]
    q[:, BACK] = GAMMA * v[np.maximum(np.arange(LENGTH) - 1, 0)]
    q[:, WAIT] = GAMMA * v
    return q


def solve(best: bool) -> tuple[np.ndarray, np.ndarray]:
    v = np.zeros(LENGTH)
    for _ in range(2000):
        q = next_value(v)
        v = q.max(axis=1) if best else (BEHAVIOR * q).sum(axis=1)
    return next_value(v), v


def chain(best: bool, baseline: str = "v", seed: int = 0) -> tuple[States, np.ndarray]:
    """500 states, and int[S, N], which action each candidate is."""
    rng = np.random.default_rng(seed)
    where = rng.integers(LENGTH, size=500)
    drawn = np.array([rng.choice(len(ACTIONS), size=N, p=BEHAVIOR[s]) for s in where])
    rows = [
        [Candidate(ACTIONS[a], float(np.log(BEHAVIOR[s, a]))) for a in actions]
        for s, actions in zip(where, drawn, strict=True)
    ]
    q, v = solve(best)
    values = Values(
        q=q[where[:, None], drawn].astype(np.float32),
        v=v[where].astype(np.float32),
        baseline=baseline,
        discount=GAMMA,
        bootstraps=False,
    )
    count = len(where)
    states = States(
        episode=np.zeros(count, np.int32),
        step=np.arange(count, dtype=np.int32),
        group=np.zeros(count, np.int32),
        logged=tuple(ACTIONS[a] for a in drawn[:, 0]),
        reward=np.zeros(count),
        total=np.zeros(count),
        terminated=np.zeros(count, bool),
        proposals=to_arrays(rows),
        values=values,
    )
    return states, drawn


def kept(gate, states: States, drawn: np.ndarray) -> np.ndarray:
    """Which actions it imitates, int[K]."""
    chosen = gate.choose(states)
    rows = np.flatnonzero(chosen.keep)
    return drawn[rows, chosen.choice[rows]]


@pytest.mark.parametrize("candidates", [1, N])
def test_progress_under_the_best_values_keeps_every_optimal_action_and_nothing_else(candidates):
    states, drawn = chain(best=True)
    found = kept(Progress(candidates=candidates, support=0), states, drawn)
    assert set(found) == {ON}
    assert len(found) == (drawn[:, :candidates] == ON).any(axis=1).sum()


def test_an_advantage_over_the_candidates_mean_keeps_no_ops_where_the_others_are_mistakes():
    """What made the exact arm of the first studies no ceiling."""
    states, drawn = chain(best=True, baseline="candidate_mean")
    found = kept(BestOfN(support=0), states, drawn)
    assert (found == WAIT).sum() > 20


def test_progress_where_v_is_the_best_candidate_keeps_every_state_that_is_worth_something():
    states, drawn = chain(best=True)
    values = dataclasses.replace(states.values, v=states.values.q.max(axis=1))
    found = kept(Progress(support=0), dataclasses.replace(states, values=values), drawn)
    assert len(found) == (states.values.q.max(axis=1) > 0).sum()
    assert (found == WAIT).any()


def test_progress_is_looser_than_an_advantage_under_policy_evaluation():
    states, drawn = chain(best=False)
    progress = Progress(support=0, margin=0.0).choose(states).keep
    positive = BestOfN(threshold_mode="absolute", threshold=0.0, support=0).choose(states).keep
    assert (progress >= positive).all() and progress.sum() > positive.sum()
    assert set(kept(Progress(support=0, margin=0.0), states, drawn)) - {ON}
    # Without an error even a no-op stands at the gate's sill: an offset of Q over V of 1 % lets all of them in.
    values = dataclasses.replace(states.values, q=states.values.q * np.float32(1.02))
    shifted = dataclasses.replace(states, values=values)
    waits = kept(Progress(candidates=1, support=0), shifted, drawn) == WAIT
    assert waits.sum() == (drawn[:, 0] == WAIT).sum()


def test_an_advantage_under_policy_evaluation_keeps_what_beats_the_behaviour():
    states, drawn = chain(best=False)
    found = kept(BestOfN(threshold_mode="absolute", threshold=0.0, support=0), states, drawn)
    assert (found == ON).mean() > 0.9 and WAIT not in found and LOSE not in found


def noisy(states: States, members: int, scale: float) -> States:
    """An ensemble whose members have the right Q but for noise of their own."""
    rng = np.random.default_rng(3)
    q = states.values.q[..., None] + scale * rng.normal(size=(*states.values.q.shape, members))
    v = np.repeat(states.values.v[:, None], members, 1)
    values = dataclasses.replace(
        states.values,
        q=q.mean(-1).astype(np.float32),
        deviation=(q - v[:, None]).std(-1).astype(np.float32),
    )
    return dataclasses.replace(states, values=values)


def test_a_lower_bound_keeps_fewer_and_more_of_them_right():
    states, drawn = chain(best=False)
    states = noisy(states, members=4, scale=0.3)
    surely = kept(LowerBound(support=0), states, drawn)
    hardly = kept(LowerBound(deviations=0.0, support=0), states, drawn)
    assert 20 < len(surely) < len(hardly)
    assert (surely == ON).mean() > (hardly == ON).mean() + 0.1
    positive = BestOfN(threshold_mode="absolute", threshold=0.0, support=0)
    np.testing.assert_array_equal(hardly, kept(positive, states, drawn))


def test_a_lower_bound_needs_members():
    states, _ = chain(best=False)
    with pytest.raises(DigiQError, match="have no members"):
        LowerBound().choose(states)


def test_awr_weighs_logged_actions_by_the_exponential_of_their_advantage_up_to_a_clip():
    states, drawn = chain(best=False)
    targets = AWR(beta=0.05, clip=3.0).select(states, np.random.default_rng(0))
    np.testing.assert_array_equal(targets.row, np.arange(len(states)))
    assert targets.action == list(states.logged)
    advantage = states.values.q[:, 0] - states.values.v
    np.testing.assert_allclose(targets.weight, np.minimum(np.exp(advantage / 0.05), 3.0), rtol=1e-4)
    assert targets.weight[drawn[:, 0] == ON].mean() > 2 * targets.weight[drawn[:, 0] == LOSE].mean()
    # An offset of V scales all weights alike.
    shifted = dataclasses.replace(states.values, v=states.values.v + np.float32(0.1))
    other = AWR(beta=0.05, clip=1e9).select(
        dataclasses.replace(states, values=shifted), np.random.default_rng(0)
    )
    same = AWR(beta=0.05, clip=1e9).select(states, np.random.default_rng(0))
    np.testing.assert_allclose(other.weight * np.exp(2.0), same.weight, rtol=1e-4)


def test_awr_over_candidates_weighs_the_best_of_them():
    states, drawn = chain(best=False)
    targets = AWR(candidates=N, support=0).select(states, np.random.default_rng(0))
    for row, action in zip(targets.row, targets.action, strict=True):
        q = states.values.q[row]
        assert q[drawn[row] == ACTIONS.index(action)].max() == q.max()


@pytest.mark.parametrize(("threshold", "gate"), [(-9.0, "none"), (0.2, "some")])
def test_a_gate_that_keeps_nearly_all_is_reported_as_none(
    threshold, gate, run, tmp_path, monkeypatch, recwarn
):
    monkeypatch.setattr(
        "digiq.policies.grid.GridPolicy.fit", lambda policy, rows, *_, **__: (list(rows), policy)[1]
    )
    how = {"threshold_mode": "absolute", "threshold": threshold, "support": 0}
    config = load(
        DistillConfig,
        {"best_of_n": how, "values": {"source": "digiq.laboratory.controls:RandomValues"}},
    )
    inputs = {key: run[key] for key in ("behavior", "episodes", "rewards", "proposals")}
    made = distill.run(config, **inputs, out=tmp_path / "p").manifest
    assert made.extra["gate"] == gate
    assert any("filters almost nothing" in str(w.message) for w in recwarn) == (gate == "none")
