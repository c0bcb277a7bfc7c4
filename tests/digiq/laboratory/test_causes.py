"""The cells of the causes study, and the page of their records."""

import dataclasses

import numpy as np
import pytest

from android_env.actions import Action
from digiq.extraction.base import Choice, Targets
from digiq.laboratory import causes
from digiq.laboratory.causes import Cell
from digiq.laboratory.truth import pairwise_accuracy
from digiq.statistics import Estimate
from digiq.studies import causes_page
from digiq.studies.causes import key_of, plan, read_records, run_seeds

TASKS = "webshop/tune"


def test_noise_leaves_as_many_pairs_in_order_as_asked_and_like_actions_alike():
    rng = np.random.default_rng(0)
    q = rng.random((300, 4))
    q[:, 3], q[::5, 2] = q[:, 1], np.nan
    first = np.array([[True, True, True, False]] * 300) & ~np.isnan(q)
    same = np.array([[0, 1, 2, 1]] * 300)
    for accuracy in (0.76, 0.83):
        found = causes.noisy(q, first, same, accuracy, np.random.default_rng(1))
        assert pairwise_accuracy(q, found, first) == pytest.approx(accuracy, abs=0.01)
        np.testing.assert_array_equal(found[:, 3], found[:, 1])
        np.testing.assert_array_equal(np.isnan(found), np.isnan(q))


def test_clusters_hold_what_is_alike_and_the_best_half_of_each_is_kept():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 0.1, (20, 3)), rng.normal(5, 0.1, (30, 3))]).astype(np.float32)
    cluster = causes.clusters_of(features, 2, seed=0)
    assert len(set(cluster[:20])) == len(set(cluster[20:])) == 1 and cluster[0] != cluster[-1]
    advantage = np.concatenate([np.arange(20.0) - 100, np.arange(30.0)])
    choice = np.zeros(50, np.int64)
    choice[-1] = -1
    chosen = Choice(choice=choice, advantage=advantage, keep=choice >= 0, threshold=0.0)
    kept = np.flatnonzero(causes.best_in_clusters(chosen, cluster))
    np.testing.assert_array_equal(kept, [*range(10, 20), *range(35, 49)])


TAPS = [Action.tap(0.1, 0.1 * k) for k in range(3)]


def targets(rows, actions, weight=None) -> Targets:
    weight = np.ones(len(rows)) if weight is None else np.array(weight, float)
    return Targets(row=np.array(rows), action=actions, weight=weight, considered=4, report={})


def test_rightness_counts_weight_and_states_by_screen():
    found = causes.rightness(
        targets([0, 0, 2], [TAPS[0], TAPS[1], TAPS[0]], [3.0, 1.0, 2.0]),
        np.array([True, True, True, False]),
        ["home", "home", "results", "results"],
        lambda row, action: action == TAPS[0],
    )
    assert found == {"home": [2, 2.0, 1.5, 1], "results": [1, 1.0, 1.0, 1]}


def test_fewer_targets_are_some_of_them():
    many = targets(range(9), [TAPS[k % 3] for k in range(9)], range(9))
    some = causes.fewer(many, 4, seed=0)
    assert len(some.row) == len(set(some.row)) == len(some.action) == 4
    assert [TAPS[row % 3] for row in some.row] == some.action
    np.testing.assert_array_equal(some.row, some.weight)
    assert causes.fewer(many, 9, seed=0) is many


def test_every_cell_is_planned_once_and_exact_values_have_no_bound():
    found = plan(("epochs", "rows"), ("elements", "pixels"))
    assert len(found) == len(set(found)) == 2 * (4 + 2 * (7 * 5 + 3) * 2)
    assert {c.values for c in found if c.gate == "lower_bound"} == set(causes.LEARNED)


def test_reported_seeds_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="seed 25 is not a tuning seed"):
        run_seeds([100, 25], ("epochs",), ("elements",), tmp_path / "records.jsonl")


def record(cell: Cell, won: np.ndarray, seed: int = 100) -> dict:
    made = {"seed": seed, **dataclasses.asdict(cell), "success": "".join(map(str, won.astype(int)))}
    screens = {"home": [80, 40.0, 30.0, 20], "results": [20, 10.0, 0.0, 0]}
    return made | {
        "kept": 0.5,
        "pair_accuracy": 0.75,
        "screens": screens,
        "visits": {"home": 30, "results": 10},
    }


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    one = rng.random(120) < 0.4
    more = one | (rng.random(120) < 0.4)
    made = []
    for seed in (100, 101):
        for gate in ("progress", "positive"):
            made += [record(Cell("td", gate, 1), one, seed), record(Cell("td", gate, 8), more, seed)]
            made += [record(Cell("exact", gate, 1), more, seed), record(Cell("exact", gate, 8), one, seed)]
        made.append(record(Cell("none", "filtered_bc", 1), one, seed))
    return made


def test_differences_are_paired_and_the_first_sentence_says_what_they_say(records):
    one = {"values": "td", "gate": ("progress", "positive"), "candidates": 8}
    gaps, seeds, count = causes_page.paired(records, one, {"candidates": 1})
    assert seeds == [100, 101] and count == 4
    won = {n: causes_page.outcomes(records[k]) for k, n in ((0, 1), (1, 8))}
    np.testing.assert_array_equal(gaps[0], won[8] - won[1])
    page = causes_page.make_page(records, TASKS, "A comment.")
    said = page.split("\n\n")[1]
    assert said.startswith("**With the same learned critic and the same gate, N = 8 pays over N = 1**: +")
    assert "| learned, TD | 0.750, 0.750 |" in page
    assert "4 pairs" in said and "A comment." in page and "Filtered BC" in page
    assert causes_page.make_page(records, TASKS, "A comment.") == page
    turned = [{**r, "candidates": {1: 8, 8: 1}[r["candidates"]]} for r in records if r["values"] != "none"]
    assert "N = 8 costs success over N = 1**: -" in causes_page.make_page(turned, TASKS)
    assert causes_page.verdict_of(Estimate(0.1, -0.1, 0.3)) == "does not pay"


def test_the_grid_says_what_is_kept_right_and_found(records):
    table = causes_page.grid(records, TASKS)
    row = next(line for line in table.splitlines() if line.startswith("| progress | learned, TD |"))
    assert row.count("· 50, 60, 20") == 2  # 30 of 50 targets, 20 of 100 states
    whole = [{**r, "kept": 0.97} for r in records]
    assert "· none: 97, 60, 20" in causes_page.grid(whole, TASKS)


def test_records_are_read_back_the_last_of_a_cell_counting(records, tmp_path):
    import json

    path = tmp_path / "records.jsonl"
    again = {**records[0], "kept": 0.1}
    path.write_text("".join(json.dumps(r) + "\n" for r in (*records, again)))
    found = read_records(path)
    assert len(found) == len(records) and found[0] == again
    assert key_of(again) == (100, Cell("td", "progress", 1)) and read_records(tmp_path / "none") == []
