"""Repeats, comparisons, judges' errors and leakage, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import pytest

from android_env.tasks import load_tasks
from digiq import artifacts
from digiq.agents import collect
from digiq.agents.build import AgentConfig
from digiq.agents.collect import CollectConfig
from digiq.agents.rollout import plan_episodes, plan_repeats
from digiq.cli import main
from digiq.errors import DigiQError
from digiq.evaluation import evaluate
from digiq.evaluation.compare import compare
from digiq.evaluation.evaluate import EvaluateConfig
from digiq.evaluation.leakage import warn_of_leakage
from digiq.evaluation.outcomes import EpisodeResult, Outcome
from digiq.evaluation.rejudge import Agreement, Rejudged, read_rows, write_rows
from digiq.evaluation.repeats import bounds, by_tries, fault_kinds, flip_rate, table_rows
from digiq.statistics import judge_corrected

LETTERS = {
    "s": Outcome.SUCCESS,
    "f": Outcome.FAILURE,
    "i": Outcome.INFRA_ERROR,
    "k": Outcome.TASK_ERROR,
}


def arm(**tasks: str) -> list[EpisodeResult]:
    """Results by task, a letter a try."""
    return [
        EpisodeResult(
            episode_id=f"{task}#{index}",
            task_id=task,
            split="test_query",
            index=index,
            seed=index,
            outcome=LETTERS[letter],
            steps=3,
            fault="session_lost" if letter == "i" else "",
        )
        for task, letters in tasks.items()
        for index, letter in enumerate(letters)
    ]


def test_pass_at_k_and_pass_hat_k_over_tasks():
    one, two, three = by_tries(arm(a="ssf", b="fff", c="sss"))
    assert one.pass_at_k.value == pytest.approx(5 / 9) and one.pass_hat_k.value == pytest.approx(5 / 9)
    assert two.pass_at_k.value == pytest.approx((1 + 0 + 1) / 3)  # of a's three pairs none is without success
    assert two.pass_hat_k.value == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert three.pass_at_k.value == pytest.approx(2 / 3) and three.pass_hat_k.value == pytest.approx(1 / 3)
    assert [row.tasks for row in by_tries(arm(a="ss", b="s"))] == [2, 1]
    assert two.pass_at_k.low <= two.pass_at_k.value <= two.pass_at_k.high


def test_flips_bounds_and_kinds_of_fault():
    results = arm(a="sf", b="ss", c="fi", d="ik")
    assert flip_rate(results) == pytest.approx(1 / 2), "c and d have not two tries without a fault"
    assert flip_rate(arm(a="s")) is None
    assert bounds(results) == (3 / 8, 6 / 8)
    assert fault_kinds(results) == {"session_lost": 2, "task_error": 1}
    rows = table_rows(results)
    assert rows["flip_rate"] == 0.5 and [row["k"] for row in rows["repeats"]] == [1, 2]
    assert "repeats" not in table_rows(arm(a="s", b="f"))


def test_comparison_pairs_episodes_and_says_it_in_a_sentence():
    tasks = [f"t{i}" for i in range(12)]
    better, worse = arm(**dict.fromkeys(tasks, "ss")), arm(**dict.fromkeys(tasks, "sf"))
    found = compare(better, worse, ("new", "old"))
    assert found.strict.difference.value == 0.5 and (found.strict.wins, found.strict.losses) == (12, 0)
    assert found.verdict.startswith("new succeeds more often than old, by 50.0 points")
    assert compare(worse, better, ("old", "new")).verdict == found.verdict, "whichever is named first"
    same = compare(better, better, ("a", "b"))
    assert same.verdict.startswith("No difference is shown") and not same.warnings
    part = compare(better, worse[:10], ("a", "b"))
    assert part.pairs == 10 and part.left_out == 14 and "left out" in part.warnings[0]
    with pytest.raises(DigiQError, match="no episode in common"):
        compare(better, [dataclasses.replace(r, seed=9) for r in worse], ("a", "b"))


def test_faults_that_meet_one_arm_more_often_are_said():
    tasks = [f"t{i}" for i in range(12)]
    a = arm(**dict.fromkeys(tasks, "ss"))
    b = arm(**{task: "si" if number < 9 else "ss" for number, task in enumerate(tasks)})
    found = compare(a, b, ("a", "b"))
    assert found.faults == (0, 9) and found.fault_p < 0.01 and "not equally frequent" in found.warnings[0]
    assert found.excluded is not None and found.excluded.difference.value == 0.0
    assert found.strict.difference.value == pytest.approx(9 / 24)
    assert found.worst.value == 0.0 and found.best.value == pytest.approx(9 / 24)
    assert "unless faults hid the opposite" in found.verdict


def test_a_judges_errors_widen_and_shift_the_interval():
    sure = {"true_positives": 400, "positives": 400, "true_negatives": 400, "negatives": 400}
    exact = judge_corrected(60, 100, **sure)
    assert exact.value == pytest.approx(0.6) and 0.49 < exact.low < 0.52 and 0.68 < exact.high < 0.71
    fallible = {"true_positives": 36, "positives": 40, "true_negatives": 32, "negatives": 40}
    found = judge_corrected(60, 100, **fallible)
    assert found.value == pytest.approx((0.6 + 0.8 - 1) / (0.9 + 0.8 - 1))
    assert found.high - found.low > exact.high - exact.low
    chance = {"true_positives": 5, "positives": 10, "true_negatives": 5, "negatives": 10}
    assert math.isnan(judge_corrected(60, 100, **chance).value)
    with pytest.raises(ValueError, match="at least one episode"):
        judge_corrected(1, 2, **{**sure, "positives": 0, "true_positives": 0})


def test_repeats_are_every_task_so_often_under_the_same_seeds():
    tasks = list(load_tasks("general/test"))[:5]
    plan = plan_repeats(tasks, 3, seed=4)
    assert [s.task.task_id for s in plan] == [t.task_id for t in tasks] * 3
    assert [s.index for s in plan] == [0] * 5 + [1] * 5 + [2] * 5
    seeds = {s.episode_id: s.seed for s in plan_episodes(tasks, 60, seed=4)}
    assert all(seeds[s.episode_id] == s.seed for s in plan)


def test_evaluate_repeats_and_compare_from_the_command_line(tmp_path, capsys):
    config = {"tasks": "general/test_query", "repeats": 2, "exact": False, "records": 0}
    try:
        load_tasks("general/test_query")
    except ValueError:
        config["tasks"] = "general/test"
    for name in ("oracle", "idle"):
        evaluate.run(EvaluateConfig(arm=name, agent=AgentConfig(kind=name), **config), out=tmp_path / name)
    table = (tmp_path / "oracle" / "table.json").read_text()
    assert '"repeats"' in table and '"pass_hat_k"' in table
    main(["compare", str(tmp_path / "oracle"), str(tmp_path / "idle")])
    out, err = capsys.readouterr()
    assert "oracle succeeds more often than idle" in out and "idle alone 0" in out
    # Beside no recipe there is only the evaluation itself to look at; beside one, the run.
    assert f"Next: digiq view {tmp_path / 'oracle'}\n" in err and "Next" not in out
    (tmp_path / "recipe.json").write_text("{}")
    main(["compare", str(tmp_path / "oracle"), str(tmp_path / "idle")])
    (command,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("Next: "))
    assert Path(command.removeprefix("Next: digiq view ")).resolve() == tmp_path.resolve()


def test_tasks_that_the_policy_has_learned_from_are_warned_of(tmp_path, caplog):
    episodes = tmp_path / "run" / "episodes"
    collect.run(
        CollectConfig(agent=AgentConfig(kind="collector"), tasks="general/train", num_episodes=6),
        out=episodes,
    )
    inputs, behavior = {"episodes": episodes}, tmp_path / "run" / "behavior"
    with artifacts.write(behavior, stage="fit-policy", version=1, config={}, inputs=inputs) as w:
        (w.path / "weights").write_text("none")
        w.complete(counts={})
    learned = list(load_tasks("general/train"))
    test = [dataclasses.replace(task, split="test_query") for task in learned]
    with caplog.at_level(logging.WARNING, "digiq.evaluation"):
        leaked = warn_of_leakage(tmp_path / "run" / "behavior", test)
    assert 1 <= len(leaked) <= 6 and "was trained on" in caplog.text
    assert warn_of_leakage(tmp_path / "run" / "behavior", load_tasks("general/test")) == []


def test_a_judges_errors_stretch_a_difference_and_its_interval():
    """A judge that sees 8 of 10 and denies 9 of 10 shows 0.7 of a difference."""
    judge = Agreement(20, true_positives=8, positives=10, true_negatives=9, negatives=10, errors=0)
    tasks = {f"t{n}": "s" if n % 2 else "f" for n in range(40)}
    worse = {f"t{n}": "s" if n % 4 == 1 else "f" for n in range(40)}
    plain = compare(arm(**tasks), arm(**worse), ("a", "b"))
    found = compare(arm(**tasks), arm(**worse), ("a", "b"), judge)
    assert plain.judged is None and found.strict == plain.strict
    assert found.judged is not None and found.judged.value == pytest.approx(0.25 / 0.7)
    low, high = plain.strict.difference[1:]
    assert found.judged.high - found.judged.low > (high - low) / 0.7
    sure = dataclasses.replace(judge, true_positives=10, true_negatives=10)
    assert compare(arm(**tasks), arm(**worse), ("a", "b"), sure).judged.value == pytest.approx(0.25)
    blind = compare(arm(**tasks), arm(**worse), ("a", "b"), dataclasses.replace(judge, true_positives=1))
    assert math.isnan(blind.judged.value) and blind.judged[1:] == (-1, 1)
    assert "no better than chance" in blind.warnings[-1]


def test_rows_of_rejudge_are_read_back(tmp_path):
    rows = [Rejudged("a#0", "a", "success", "failure", 3), Rejudged("b#0", "b", "failure", "failure", 4)]
    write_rows(rows, tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == rows
    (tmp_path / "rows.jsonl").write_text('{"episode": 1}\n')
    with pytest.raises(DigiQError, match="cannot be read as a file of 'digiq rejudge --out'"):
        read_rows(tmp_path / "rows.jsonl")
