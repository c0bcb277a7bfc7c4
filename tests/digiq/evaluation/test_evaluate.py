"""Evaluation on the simulated phone: resumable line by line, exact where it can be, honest about faults."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from android_env.env import AndroidEnv
from android_env.errors import DeviceFault
from digiq import artifacts
from digiq.agents.build import AgentConfig
from digiq.errors import ArtifactError, ConfigError
from digiq.evaluation import evaluate
from digiq.evaluation.evaluate import EvaluateConfig, read_results
from digiq.evaluation.records import recorded_strips

CONFIG = EvaluateConfig(
    arm="collector", agent=AgentConfig(kind="collector"), episodes=9, records=2, batch_size=4, seed=3
)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluation") / "collector"
    evaluate.run(CONFIG, out=path)
    return path


def test_episodes_spread_over_the_test_splits_and_the_table_adds_up(evaluated):
    results = read_results(evaluated / "episodes.jsonl")
    table = json.loads((evaluated / "table.json").read_text())
    assert len({r.episode_id for r in results}) == table["pooled"]["episodes"] == 9
    assert {split: row["episodes"] for split, row in table["splits"].items()} == {
        "test_query": 3, "test_combination": 3, "test_site": 3,
    }  # fmt: skip
    wins = sum(r.outcome == "success" for r in results)
    assert table["pooled"]["success"] == pytest.approx(wins / 9)
    assert table["pooled"]["outcomes"]["success"] == wins
    assert table["pooled"]["low"] <= wins / 9 <= table["pooled"]["high"]


def test_first_episodes_are_recorded_with_their_screens(evaluated):
    results = read_results(evaluated / "episodes.jsonl")
    strips = recorded_strips(evaluated)
    assert len(strips) == 2
    steps = {r.episode_id: r.steps for r in results[:2]}
    for strip in strips:
        episode_id = strip.title.split(" · ")[1]
        assert len(strip.frames) == steps[episode_id] + 1
        assert strip.frames[0].caption and not strip.frames[-1].caption


def test_a_killed_evaluation_resumes_and_a_torn_line_is_run_again(evaluated, tmp_path, monkeypatch):
    with artifacts.write(
        tmp_path / "arm", stage="evaluate", version=evaluate.VERSION, config=CONFIG, inputs={}
    ) as w:
        lines = (evaluated / "episodes.jsonl").read_text().splitlines(keepends=True)
        (w.path / "episodes.jsonl").write_text("".join(lines[:4]) + lines[4][:30])
        shutil.copytree(evaluated / "records", w.path / "records")
        whole = next((w.path / "records").iterdir())
        shutil.copytree(whole, whole.with_name(f"{whole.name}.123.tmp"))  # killed while it was written
    ran = []
    rollout = evaluate.rollout
    monkeypatch.setattr(
        evaluate, "rollout", lambda agent, specs, *a, **k: ran.extend(specs) or rollout(agent, specs, *a, **k)
    )
    evaluate.run(CONFIG, out=tmp_path / "arm")
    assert len(ran) == 5
    assert {p.name for p in (tmp_path / "arm/records").iterdir()} == {
        p.name for p in (evaluated / "records").iterdir()
    }
    assert (tmp_path / "arm/report.html").read_text() == (evaluated / "report.html").read_text()
    assert (tmp_path / "arm/episodes.jsonl").read_text() == (evaluated / "episodes.jsonl").read_text()
    assert (tmp_path / "arm/table.json").read_text() == (evaluated / "table.json").read_text()
    evaluate.run(CONFIG, out=tmp_path / "arm")
    assert len(ran) == 5


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "episodes.jsonl").write_text('{"episode_id": "a"}\n')
    with pytest.raises(ArtifactError, match=r"episodes\.jsonl: a line is not an episode's result"):
        read_results(tmp_path / "episodes.jsonl")


def test_device_faults_are_counted_and_not_dropped(tmp_path, monkeypatch):
    step = AndroidEnv.step

    def sometimes(self, action):
        if "test" in self.task.split and self.task.split == "test_site":
            raise DeviceFault("no such device")
        return step(self, action)

    monkeypatch.setattr(AndroidEnv, "step", sometimes)
    evaluate.run(dataclasses.replace(CONFIG, records=0), out=tmp_path / "arm")
    table = json.loads((tmp_path / "arm/table.json").read_text())
    assert table["pooled"]["faults"] == table["splits"]["test_site"]["faults"] == 3
    assert table["pooled"]["episodes"] == 9 and table["splits"]["test_site"]["success"] == 0.0
    assert table["splits"]["test_site"]["infra_excluded"]["value"] is None
    results = read_results(tmp_path / "arm/episodes.jsonl")
    assert sum("no such device" in r.error for r in results) == 3


class Idle:
    """Always taps the status bar, and says so with certainty."""

    def sample(self, inputs, n, rng, temperature=1.0):
        from digiq.policies.base import Candidate

        return [[Candidate(a, 0.0) for a, _ in row] * n for row in self.support(inputs, 1)]

    def support(self, inputs, k):
        from android_env.actions import Action

        return [[(Action.home(), 1.0)] for _ in inputs]


def test_exact_success_stands_beside_the_roll_outs(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load_policy", lambda path: Idle())
    monkeypatch.setattr("digiq.policies.base.load_policy", lambda path: Idle())
    policy = tmp_path / "policy"
    policy.mkdir()
    config = EvaluateConfig(arm="idle", episodes=3, records=0, exact=True)
    evaluate.run(config, policy=policy, out=tmp_path / "arm")
    table = json.loads((tmp_path / "arm/table.json").read_text())
    assert table["pooled"]["exact"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert table["pooled"]["success"] == 0.0 and table["pooled"]["mean_steps"] == 20.0
    assert len((tmp_path / "arm/exact.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ConfigError, match="exact"):
        sharpened = dataclasses.replace(config, agent=AgentConfig(temperature=0.5))
        evaluate.run(sharpened, policy=policy, out=tmp_path / "other")
