"""summary.json and the final table come from finished evaluations alone."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from digiq import artifacts
from digiq.errors import ArtifactError
from digiq.evaluation.evaluate import make_table
from digiq.evaluation.outcomes import EpisodeResult, Outcome
from digiq.evaluation.summary import main_arm, print_summary, write_summary


def results(wins: int, total: int, faults: int = 0) -> list[EpisodeResult]:
    rows = []
    for i in range(total):
        outcome = (
            Outcome.SUCCESS if i < wins else Outcome.INFRA_ERROR if i < wins + faults else Outcome.TRUNCATED
        )
        split = "test_query" if i % 2 else "test_site"
        rows.append(
            EpisodeResult(
                episode_id=f"t{i}#0", task_id=f"t{i}", split=split, index=0, seed=i, outcome=outcome, steps=i
            )
        )
    return rows


def evaluation(path, arm, rows, complete=True):
    with artifacts.write(path, stage="evaluate", version=1, config={"arm": arm}) as w:
        artifacts.atomic_write_json(w.path / "table.json", make_table(arm, rows))
        if complete:
            w.complete()
    return path


def test_summary_has_the_arms_their_splits_and_the_seconds(tmp_path):
    arms = {
        "behavior": evaluation(tmp_path / "a", "behavior", results(2, 10)),
        "digiq": evaluation(tmp_path / "b", "digiq", results(8, 10, faults=1)),
    }
    out = tmp_path / "summary.json"
    summary = write_summary(arms, {"collect": 12.34, "train-q": 5.0}, out)
    assert json.loads(out.read_text()) == summary
    assert list(summary["arms"]) == ["behavior", "digiq"]
    row = summary["arms"]["digiq"]
    assert (row["success"], row["episodes"], row["faults"]) == (0.8, 10, 1)
    assert row["low"] < 0.8 < row["high"]
    assert row["infra_excluded"]["value"] == pytest.approx(8 / 9)
    assert row["mean_steps"] == pytest.approx((sum(range(8)) + 9) / 9)
    assert row["splits"]["test_site"]["episodes"] == 5
    assert summary["seconds"] == {"collect": 12.3, "train-q": 5.0}

    console = Console(file=io.StringIO(), width=140)
    print_summary(summary, tmp_path / "report.html", console)
    printed = console.file.getvalue()
    for text in ("80.0", "49.0–94.3", "Behaviour policy", "unseen", "site"):
        assert text in printed
    assert "Faults" in printed and "report.html" in printed.replace("\n", "")


def test_the_table_fits_a_narrow_terminal():
    rate = {"success": 0.97, "low": 0.912, "high": 1.0, "episodes": 300, "mean_steps": 17.9}
    splits = dict.fromkeys(("test_query", "test_combination", "test_site"), rate)
    summary = {
        "arms": {arm: {**rate, "splits": splits} for arm in ("behavior", "digiq", "ceiling")},
        "seconds": {},
    }
    console = Console(file=io.StringIO(), width=80)
    print_summary(summary, console=console)
    printed = console.file.getvalue()
    assert "…" not in printed and printed.count("91.2–100.0") == 3 * 4


def test_a_rate_that_claims_nothing_is_said_to(tmp_path):
    """Of a replayed recording that knows too few of the actions."""
    rows = [dataclasses.replace(row, steps=10, notes={"unrecorded": 4}) for row in results(2, 10)]
    few = [dataclasses.replace(row, notes={"unrecorded": 2}) for row in rows]
    arms = {
        "behavior": evaluation(tmp_path / "a", "behavior", rows),
        "digiq": evaluation(tmp_path / "b", "digiq", few),
    }
    console = Console(file=io.StringIO(), width=300)
    print_summary(write_summary(arms, {}, tmp_path / "summary.json"), console=console)
    printed = console.file.getvalue()
    assert "Behaviour policy, no claim of success: 40 of 100 actions were never recorded" in printed
    assert "Digi-Q, no claim" not in printed


def test_an_unfinished_evaluation_is_refused(tmp_path):
    path = evaluation(tmp_path / "a", "digiq", results(1, 2), complete=False)
    with pytest.raises(ArtifactError, match="has not finished"):
        write_summary({"digiq": path}, {}, tmp_path / "summary.json")


def test_the_main_arm_is_the_first_that_was_distilled_by_q_whatever_it_is_called(tmp_path):
    policies = {}
    for arm, needs in (("cloned", []), ("mine", ["proposals", "q", "v"]), ("late", ["q"])):
        with artifacts.write(
            policies.setdefault(arm, tmp_path / arm), stage="distill", version=1, config={}
        ) as writer:
            writer.complete(extra={"needs": needs})
    assert main_arm(["behavior", "cloned", "mine", "late", "ceiling"], policies) == "mine"
    assert main_arm(["behavior", "cloned"], policies) == "cloned"
    assert main_arm(["behavior", "ceiling"], {}) == "ceiling"
