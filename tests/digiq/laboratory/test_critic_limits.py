"""The cells of what limits a critic, the policy that ranks on the device, and the page of their records."""

import dataclasses
import json

import numpy as np
import pytest

from digiq.config import load, to_dict
from digiq.critics.train import TrainQConfig
from digiq.laboratory.critic_limits import COVERAGE, EPOCHS, TARGETS, Cell, best_among, cells
from digiq.laboratory.ranked import BestOfN
from digiq.laboratory.student import Shown, Student
from digiq.proposals.propose import ProposeConfig
from digiq.studies import critic_limits as study


def test_each_cell_is_asked_for_once_and_each_change_is_a_config():
    found = cells()
    assert len(set(found)) == len(found)
    assert {(c.targets, c.epochs) for c in found if c.coverage == "8" and c.epochs <= 40} == {
        (name, epochs) for name in TARGETS for epochs in EPOCHS if epochs <= 40
    }
    base = to_dict(TrainQConfig(critic={"heads": {"members": 4}, "gamma": 0.95}))
    configs = [
        load(TrainQConfig, study.merged(base, {"critic": changes}), where="x")
        for _, changes in TARGETS.values()
    ]
    assert len({c.critic for c in configs}) == len(TARGETS)
    assert {c.critic.heads.members for c in configs} == {4}
    sources = to_dict(ProposeConfig(num_candidates=8, policy={"temperature": 1.0}))
    for _, changes in COVERAGE.values():
        load(ProposeConfig, study.merged(sources, changes), where="x")


@dataclasses.dataclass
class Prefers:
    """A critic whose Q is one column of an action's features."""

    column: int
    asked: int = 0

    def q(self, observation, pair):
        assert observation.shape[0] == 1 and len(pair) % 16 == 0
        self.asked += 1
        return pair[:, self.column, None]

    def aggregate(self, values):
        return values.mean(-1)


def shown_of(q) -> Shown:
    features = np.array(q, np.float16)[:, None]
    return Shown(tuple(("tap", str(k)) for k in range(len(q))), features, "home", np.zeros(2, np.float32))


def test_the_best_of_n_draws_is_among_the_draws_and_all_that_is_offered_is_ranked_with_none():
    shown = shown_of([0.1, 0.9, 0.4])
    never = Student([(np.array([[-200.0]]), np.zeros(1))])  # proposes what has the least of the feature
    rngs = [np.random.default_rng(k) for k in range(20)]
    assert {BestOfN(Prefers(0), never)(shown, rng) for rng in rngs} == {0}
    even = Student([(np.zeros((1, 1)), np.zeros(1))])
    chooser = BestOfN(Prefers(0), even, count=2)
    picked = [chooser(shown, rng) for rng in rngs]
    assert set(picked) == {0, 1, 2} and picked.count(1) > picked.count(0)
    assert chooser.critic.asked == 1, "what was asked about a screen is kept"
    assert {BestOfN(Prefers(0), never, count=0)(shown, rng) for rng in rngs} == {1}


def record(seed: int, cell: Cell, wins: int, pairs: float = 0.8) -> dict:
    success = "1" * wins + "0" * (study.EPISODES - wins)
    return {
        "seed": seed,
        **dataclasses.asdict(cell),
        "pairs": pairs,
        "pairs_heldout": pairs,
        "success": success,
        "offered": success[::-1],
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
    with pytest.raises(SystemExit, match="seed 3 is no tuning seed"):
        study.run_seeds([3], tmp_path / "r.jsonl")
