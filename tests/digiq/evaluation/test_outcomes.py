"""Outcomes are counted, never dropped."""

from __future__ import annotations

import math

import pytest

from digiq.evaluation.outcomes import EpisodeResult, Outcome, tally


def result(outcome: str, steps: int = 4) -> EpisodeResult:
    return EpisodeResult(
        episode_id="e", task_id="t", split="test_site", index=0, seed=1, outcome=Outcome(outcome), steps=steps
    )


def test_strict_rate_counts_faults_and_the_other_leaves_them_out():
    rows = [result("success", 6), result("failure", 2), result("truncated", 10)]
    rows += [result("infra_error", 99), result("judge_error", 99), result("task_error", 99)]
    found = tally(rows)
    assert found.episodes == 6
    assert found.counts == {
        "success": 1, "failure": 1, "truncated": 1, "infra_error": 1, "judge_error": 1,
        "task_error": 1,
    }  # fmt: skip
    assert found.strict.value == pytest.approx(1 / 6)
    assert found.infra_excluded.value == pytest.approx(1 / 3)
    assert found.mean_steps == pytest.approx(6)


def test_nothing_but_faults_has_no_excluded_rate():
    found = tally([result("infra_error")])
    assert found.strict.value == 0.0
    assert math.isnan(found.infra_excluded.value) and math.isnan(found.mean_steps)


def test_json_round_trip_refuses_unknown_outcomes():
    row = result("truncated").to_json()
    assert EpisodeResult.from_json(row) == result("truncated")
    with pytest.raises(ValueError, match="maybe"):
        EpisodeResult.from_json({**row, "outcome": "maybe"})
