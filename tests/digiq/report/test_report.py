"""The report of a small run: every section is there, what it shows is what the artefacts hold."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from digiq import artifacts
from digiq.agents.build import AgentConfig
from digiq.drawing import figures
from digiq.errors import DigiQError
from digiq.evaluation import evaluate
from digiq.evaluation.evaluate import EvaluateConfig
from digiq.extraction.best_of_n import BestOfN
from digiq.extraction.distill import DistillConfig
from digiq.laboratory.truth_section import truth_section
from digiq.report import run_report as report
from digiq.report.run_report import logged_outcomes, logged_values, write_report
from digiq.statistics import Estimate


@pytest.fixture(scope="module")
def evaluations(small_run):
    paths = {}
    for arm, kind in (("behavior", "random"), ("digiq", "oracle")):
        paths[arm] = small_run.root / "evaluation" / arm
        config = EvaluateConfig(arm=arm, agent=AgentConfig(kind=kind), episodes=6, records=1)
        evaluate.run(config, out=paths[arm])
    return paths


def test_the_report_is_one_file_with_every_section(small_run, evaluations, tmp_path):
    run = dataclasses.replace(small_run.artifacts, evaluations=evaluations)
    out = write_report(
        run,
        tmp_path / "report.html",
        title="DigiQ <test>",
        seconds={"collect": 3.0},
        further=(truth_section,),
    )
    html = out.read_text()
    for name in ("results", "episodes", "critic", "truth", "curves", "data", "play", "provenance"):
        assert f'<h2 id="{name}">' in html and f'href="#{name}"' in html
    assert "DigiQ &lt;test&gt;" in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert sum(source.startswith("data:image/png") for source in sources) > 5
    assert "Digi-Q minus Behaviour policy" in html and "held-out" in html.lower()
    assert "imitates, at each state" in html and html.index('class="verdict"') < html.index('class="tiles"')
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["results"]["Success"]["Digi-Q"]["all test"]["value"] == 1.0
    assert (
        html.count('download="') >= len(numbers["critic"]) + 1
        and numbers["critic"]["Calibration of Q"]["count"]
    )


def test_a_report_without_critic_or_evaluation_has_what_there_is(small_run, tmp_path):
    run = report.RunArtifacts(episodes=small_run.artifacts.episodes)
    html = write_report(run, tmp_path / "report.html", title="data").read_text()
    assert 'id="data"' in html and 'id="results"' not in html and 'id="critic"' not in html


def test_the_strip_shows_the_stored_candidates_in_the_critics_order(small_run):
    values = logged_values(small_run.artifacts)
    strip = report.logged_strip(values, 0, "x", None)
    episode, rows = values.episodes[0], values.rows_of(0)
    assert len(strip.frames) == len(episode.steps)
    for frame, row in zip(strip.frames, rows, strict=False):
        q = [c.q for c in frame.candidates]
        assert q == sorted(q, reverse=True)
        assert q[0] == pytest.approx(np.nanmax(values.q[row]))
        assert sum(c.copies for c in frame.candidates) == values.proposals.valid[row].sum()
        assert [c.logged for c in frame.candidates].count(True) == int(values.proposals.valid[row, 0])
        assert frame.v == pytest.approx(values.v[row])


def test_logged_outcomes_follow_the_episodes(small_run):
    values = logged_values(small_run.artifacts)
    found = logged_outcomes(values, gamma=0.9)
    start = 0
    for number, episode in enumerate(values.episodes):
        rows = slice(start, start + episode.num_actions)
        assert (found.episode[rows] == number).all()
        assert found.remaining[rows].tolist() == list(range(episode.num_actions, 0, -1))
        assert (found.succeeded[rows] == (episode.outcome == "success")).all()
        expected = [episode.total_reward * 0.9 ** (k - 1) for k in found.remaining[rows]]
        assert found.returns[rows] == pytest.approx(expected, rel=1e-5)
        start += episode.num_actions


def test_artefacts_of_different_runs_are_refused(small_run, monkeypatch):
    candidate_values = report.candidate_values

    def shorter(critic, features):
        return tuple(values[:-1] for values in candidate_values(critic, features))

    monkeypatch.setattr(report, "candidate_values", shorter)
    with pytest.raises(DigiQError, match="artefacts of one run"):
        logged_values(small_run.artifacts)


def test_an_unfinished_last_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "q_loss": 2.0}\n{"epoch": 2, "q_l')
    assert report.read_metrics(tmp_path / "metrics.jsonl") == [{"epoch": 1, "q_loss": 2.0}]


def test_the_report_finds_threshold_and_support_whatever_the_arm_is_called(tmp_path):
    paths = {name: tmp_path / name for name in ("first", "mine")}
    settings = {
        "first": DistillConfig(objective="filtered_bc"),
        "mine": DistillConfig(best_of_n=BestOfN(support=0.3)),
    }
    for name, extra in (("first", {"needs": []}), ("mine", {"needs": ["q"], "threshold": 0.25})):
        with artifacts.write(paths[name], stage="distill", version=1, config=settings[name]) as writer:
            writer.complete(extra=extra)
    assert report.gate_of(paths) == report.Gate(0.25, 0.3)
    assert report.gate_of({"first": paths["first"]}) is None and report.gate_of({}) is None


def test_the_verdict_says_no_more_than_the_intervals_hold(evaluations):
    found = report.compare_arms(evaluations, {})
    said = report.verdict(evaluations, {}, found)
    assert said.startswith("Digi-Q succeeds on 100.0 %") and "more than the behaviour policy" in said
    low = Estimate(0.1, -0.05, 0.25)
    near = {"behavior": found["behavior"]._replace(difference=low)}
    assert "not told apart from the behaviour policy (+10.0 points" in report.verdict(evaluations, {}, near)


def test_a_ceiling_is_no_contestant_and_p_at_its_floor_says_so(evaluations):
    arms = {**evaluations, "ceiling": evaluations["digiq"]}
    pairs = report.compare_arms(arms, {})
    assert set(pairs) == {"behavior", "ceiling"}
    floor = pairs["behavior"]._replace(p_value=1 / 4001)
    section = report.results_section(arms, {}, {**pairs, "behavior": floor})
    success, paired = section.tables
    assert success.rows[success.best].cells[0].text == "Digi-Q"
    assert paired.rows[0].cells[-1].text == "< 0.00025"
    assert any(term.name.startswith("Ceiling") for term in section.terms)


def test_behaviour_and_main_arm_play_one_task_to_its_end(evaluations):
    section = report.play_section(evaluations, {})
    for before, after in section.pairs:
        assert before.goal == after.goal and before.title.startswith("Behaviour policy")
        assert after.end == f"success after {len(after.frames) - 1} actions"
        assert len(before.frames) - 1 == int(before.end.split()[-2])


def test_a_long_curve_is_smoothed_and_a_short_one_is_not():
    y = np.array([0.0, 1.0] * 60)
    assert (
        np.abs(figures.smoothed(y)[10:-10] - 0.5).max() < 0.06
        and figures.smoothed(np.ones(30)).tolist() == [1.0] * 30
    )
    short, long = (figures.curves({"loss": (np.arange(n), y[:n])}, title="t", xlabel="x") for n in (10, 120))
    assert "opacity: 0.25" in long and "opacity: 0.25" not in short
    assert short.data["loss"]["value"].tolist() == y[:10].tolist()
