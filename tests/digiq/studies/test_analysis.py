"""The numbers of a study: paired differences, and verdicts that say no more than the seeds allow."""

import dataclasses

import numpy as np
import pytest

from digiq.config import load
from digiq.evaluation.outcomes import Outcome
from digiq.studies.analysis import by_arm, compare, difference, judge, mean_success, rate
from digiq.studies.config import HypothesisConfig
from digiq.studies.records import CellRecord, EpisodeRecord

SEEDS = range(1, 7)


def record(arm: str, seed: int, wins: int, tasks: int = 20) -> CellRecord:
    """A cell whose first ``wins`` tasks succeed."""
    outcomes = [Outcome.SUCCESS] * wins + [Outcome.FAILURE] * (tasks - wins)
    episodes = tuple(EpisodeRecord(f"task{n}", "test", 0, outcome, 5) for n, outcome in enumerate(outcomes))
    return CellRecord(arm=arm, seed=seed, digest="", tasks="", episodes=episodes)


def hypothesis(**fields) -> HypothesisConfig:
    said = {"text": "", "arm": "a", "over": ["b"], "measure": "difference", "at_least": 0.0}
    return load(HypothesisConfig, said | fields)


def arm(name: str, *wins: int) -> list[CellRecord]:
    return [record(name, seed, count) for seed, count in zip(SEEDS, wins, strict=False)]


A, B = arm("a", 12, 11, 13, 12, 11, 13), arm("b", 8, 9, 9, 8, 7, 9)
SAME = arm("c", 12, 12, 12, 12, 12, 12)


def test_the_rate_is_the_value_of_the_interval():
    assert rate(A) == pytest.approx(0.6) == mean_success(A).value
    assert np.isnan(rate(A, "elsewhere")) and np.isnan(mean_success([]).value)


def test_a_difference_is_paired_within_seeds_and_tested_over_them():
    groups = by_arm([*A, *B[:4]])
    found = difference(groups, "a", "b")
    assert found is not None
    gaps = np.array([4, 2, 4, 4]) / 20
    half = 3.182446 * gaps.std(ddof=1) / 2
    assert found.mean == pytest.approx((gaps.mean(), gaps.mean() - half, gaps.mean() + half), abs=1e-6)
    assert difference(groups, "a", "nobody") is None


def test_only_shared_episodes_are_compared():
    few = [record("few", 1, 4, tasks=8)]
    found = difference(by_arm([record("a", 1, 8), *few]), "a", "few")
    assert found is not None and found.mean.value == pytest.approx(0.5) and found.p_value == 1.0


def test_comparisons_are_paired_and_take_the_best_of_the_others():
    groups = by_arm([record("a", 1, 10), record("b", 1, 5), record("c", 1, 8)])
    assert compare(groups, "a", ["b", "c"], "ratio").value == pytest.approx(1.25)
    assert compare(groups, "a", ["b", "c"], "difference").value == pytest.approx(0.1)
    assert np.isnan(compare(groups, "a", ["nobody"], "ratio").value)


def test_a_difference_is_decided_by_the_test_over_seeds():
    records = [*A, *B, *SAME]
    said = {
        "more": hypothesis(),
        "less": hypothesis(at_least=None, at_most=0.0),
        "much": hypothesis(at_least=0.4),
        "near": hypothesis(at_least=0.19),
        "tie": hypothesis(over=["a"]),
        "late": hypothesis(arm="nobody"),
    }
    found = judge({name: dataclasses.replace(h, alone=True) for name, h in said.items()}, records)
    assert {name: verdict.word for name, verdict in found.items()} == {
        "more": "held", "less": "not held", "much": "not held", "near": "undecided", "tie": "undecided",
        "late": "not run",
    }  # fmt: skip
    assert found["more"].adjusted == found["more"].test.p_value < 0.001 and found["late"].test is None
    one = judge({"more": hypothesis()}, [A[0], B[0]])["more"]
    assert one.word == "undecided" and one.adjusted == 1.0  # a single seed decides nothing


def test_all_but_those_that_stand_alone_are_corrected_for_their_number():
    slight = arm("d", 12, 12, 14, 13, 11, 14)  # four tasks more in twenty, in six seeds
    records = [*A, *B, *slight]
    said = {"first": hypothesis(alone=True), "slight": hypothesis(arm="d", over=["a"])}
    alone = judge(said, records)["slight"]
    assert alone.adjusted == alone.test.p_value == pytest.approx(0.0250, abs=1e-4) and alone.word == "held"
    others = {"other": hypothesis(), "late": hypothesis(arm="nobody"), "later": hypothesis(arm="nobody")}
    among = judge(said | others, records)
    assert among["slight"].adjusted == pytest.approx(
        3 * alone.adjusted
    )  # one is smaller, two have not run yet
    assert (among["slight"].word, among["other"].word) == ("undecided", "held")
    assert among["first"].adjusted == among["first"].test.p_value


def test_a_ratio_and_the_best_of_several_are_decided_by_the_bootstrap():
    said = {
        "ratio": hypothesis(measure="ratio", at_least=1.2),
        "huge": hypothesis(measure="ratio", at_least=5.0),
        "best": hypothesis(over=["b", "c"], at_least=-0.3),
        "close": hypothesis(measure="ratio", at_least=1.45),
    }
    found = judge(said, [*A, *B, *SAME])
    assert [v.word for v in found.values()] == ["held", "not held", "held", "undecided"]
    assert all(v.test is None and v.adjusted is None for v in found.values())
