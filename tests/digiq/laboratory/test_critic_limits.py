"""The cells of what limits a critic, the policy that ranks on the device, and the page of their records."""

import dataclasses
import json

import numpy as np
import pytest

from android_env.actions import Action
from android_env.devices.simulated import collector, kernel
from android_env.devices.simulated.display import Display
from digiq.agents.build import device_tasks
from digiq.agents.rollout import plan_episodes
from digiq.config import load, to_dict
from digiq.critics.train import TrainQConfig
from digiq.laboratory import ranked
from digiq.laboratory.critic_limits import COVERAGE, EPOCHS, TARGETS, Cell, best_among, cells
from digiq.laboratory.ranked import LIKELIEST, BestOfN, Screen, Truth, q_of
from digiq.proposals.propose import ProposeConfig
from digiq.studies import critic_limits as study

TASKS = device_tasks("webshop/tune")


def test_each_cell_is_asked_for_once_and_each_change_is_a_config():
    found = cells()
    assert len(set(found)) == len(found)
    assert {(c.targets, c.epochs) for c in found if c.coverage == "8" and 0 < c.epochs <= 40} == {
        (name, epochs) for name in TARGETS for epochs in EPOCHS if epochs <= 40 and name != "truth"
    }
    base = to_dict(TrainQConfig(critic={"heads": {"members": 4}, "gamma": 0.95}))
    configs = [
        load(TrainQConfig, study.merged(base, {"critic": changes}), where="x")
        for _, changes in TARGETS.values()
    ]
    assert len({c.critic for c in configs}) == len(TARGETS) - 1, "two are TD: one learned, and none"
    assert {c.critic.heads.members for c in configs} == {4}
    sources = to_dict(ProposeConfig(num_candidates=8, policy={"temperature": 1.0}))
    for _, changes in COVERAGE.values():
        load(ProposeConfig, study.merged(sources, changes), where="x")


def screen_of(probability) -> Screen:
    count = len(probability)
    display = Display(kernel.start(TASKS[0]), TASKS[0], 3)
    features = np.zeros((count, 2), np.float32)
    return Screen(tuple(map(Action.tap, np.arange(count) / 10, np.zeros(count))), np.array(probability), features,
                  np.zeros(2, np.float32), "home", display)  # fmt: skip


def test_the_best_of_n_draws_is_among_the_draws_and_without_n_all_that_is_likely_is_ranked():
    q, asked = np.array([0.1, 0.4, 0.9]), []

    def values(screen):
        asked.append(screen)
        return q

    rngs = [np.random.default_rng(k) for k in range(40)]
    seldom = screen_of([0.93, 0.06, 0.01])
    chooser = BestOfN(values, count=2)
    picked = [chooser(seldom, rng) for rng in rngs]
    assert picked.count(0) > picked.count(1) > 0
    assert asked == [seldom], "what was asked about a screen is kept"
    assert {BestOfN(values, 0, support=0.05)(seldom, rng) for rng in rngs} == {1}, "2 is too unlikely"
    assert {BestOfN(values, 0, support=0.0)(seldom, rng) for rng in rngs} == {2}


class Knows:
    """A policy that does what the oracle does on screens that it has been shown, half of the time."""

    def __init__(self):
        self.shown = {}

    def support(self, inputs, k):
        (seen,) = inputs
        display = self.shown[seen.screenshot.tobytes(), seen.goal]
        right = max(collector.SCRIPTED["oracle"](display), key=lambda choice: choice[1])[0]
        return [list(zip([right, Action.back(), Action.swipe("up")], (0.3, 0.3, 0.2), strict=True))]


def test_what_ranks_by_the_truth_finds_the_way_and_what_ranks_against_it_does_not(monkeypatch):
    policy = Knows()
    arcade = ranked.Arcade(plan_episodes(TASKS, 6, seed=3), policy)
    observe = Display.observe

    def watched(display, **how):
        seen = observe(display, **how)
        policy.shown[seen.screenshot.tobytes(), seen.goal] = display
        return seen

    monkeypatch.setattr(Display, "observe", watched)
    truth = Truth(0.95)
    won, visits = arcade.play(BestOfN(truth, count=8))
    assert sum(won) >= 5 and sum(visits.values()) <= 6 * 20
    assert arcade.play(BestOfN(truth, count=8)) == (won, visits), "what is kept changes nothing"
    against, _ = arcade.play(BestOfN(lambda screen: -truth(screen), count=8))
    assert not any(against)
    screen = next(iter(arcade._looks._seen.values()))
    assert screen.probability.sum() == pytest.approx(1) and len(screen.pair) == len(screen.actions) == 3


def test_a_critic_is_asked_in_one_shape():
    class Critic:
        def q(self, observation, pair):
            assert observation.shape == (1, 2) and pair.shape == (LIKELIEST, 2)
            return np.stack([pair[:, 0], pair[:, 0]], 1) + 1

        def aggregate(self, values):
            return values.mean(-1)

    np.testing.assert_array_equal(q_of(Critic())(screen_of([0.5, 0.5])), [1, 1])


def record(seed: int, cell: Cell, wins: int, pairs: float = 0.8) -> dict:
    success = "1" * wins + "0" * (study.EPISODES - wins)
    return {
        "seed": seed,
        **dataclasses.asdict(cell),
        "pairs": pairs,
        "pairs_heldout": pairs,
        "success": success,
        "likely": success[::-1],
    }


def test_the_page_names_factors_that_differ_in_one_thing(tmp_path):
    records = [record(seed, cell, 100) for seed in (100, 101) for cell in cells()]
    for r in records:
        if r["targets"] == "exact" and r["epochs"] == 10 and r["coverage"] == "8":
            r["success"] = "1" * 160 + "0" * 140
    found = {title: estimate for _, title, estimate in study.factors(records)}
    wide = found["Q* of every candidate instead of the logged action"]
    assert wide.value == pytest.approx(0.2) and wide.low > 0
    assert found["32 candidates of the policy's instead of 8, under Q*"].value == pytest.approx(-0.2)
    assert found["Q* instead of policy evaluation, on the logged action"].value == 0
    support = {"100": {"home": [30, 20, 15], "rare": [2, 1, 0]}, "101": {"home": [10, 10, 10]}}
    page = study.make_page(records, "A comment.", support)
    assert page == study.make_page(records, "A comment.", support) and "A comment." in page
    assert "| home | 40 | 75 % | 62 % | 12 points |" in page and "| all others | 2 | 50 % | 0 % |" in page
    assert page.count("\n| Q* of every candidate | ") == 6  # four numbers of updates, two other coverages
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*records, {**records[0], "pairs": 0.1}]))
    again = study.read_records(path)
    assert len(again) == len(records) and again[0]["pairs"] == 0.1


def test_a_best_action_counts_where_it_is_a_candidate_and_likely_enough():
    best = np.array([[True, False], [False, True], [False, True], [False, False]])
    valid = np.array([[True, True], [True, True], [True, False], [True, True]])
    supported = np.array([[True, True], [True, False], [True, True], [True, True]])
    found = best_among(best, valid, supported, ["home", "home", "tab", "tab"])
    assert found == {"home": [2, 2, 1], "tab": [2, 0, 0]}


def test_reported_seeds_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="seed 3 is not a tuning seed"):
        study.run_seeds([3], tmp_path / "r.jsonl")
