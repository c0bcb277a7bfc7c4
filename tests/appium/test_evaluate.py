"""`digiq evaluate` with a learned policy on a real browser; every episode recorded."""

from __future__ import annotations

import json

from digiq import artifacts
from digiq.agents.build import AgentConfig, DeviceConfig
from digiq.config import load_yaml
from digiq.evaluation import evaluate
from digiq.policies.grid import GridConfig, GridPolicy


def test_a_grid_policy_runs_unchanged(installed, tmp_path):
    policy = tmp_path / "policy"
    with artifacts.write(
        policy, stage="fit-policy", version=1, config=GridConfig(), inputs={}, overwrite=False
    ) as w:
        GridPolicy.create(GridConfig(), seed=0).save(w.path)
        w.complete(counts={})
    config = load_yaml(evaluate.EvaluateConfig, "configs/evaluate_miniwob.yaml")
    small = evaluate.EvaluateConfig(
        tasks=config.tasks, device=config.device, episodes=3, records=3, batch_size=2
    )
    assert config.records >= config.episodes and small.device == DeviceConfig(name="chromium")
    found = evaluate.run(small, policy=policy, out=tmp_path / "out")
    assert found.manifest.counts["episodes"] == 3 and not found.manifest.counts["infra_error"]
    records = sorted((tmp_path / "out" / "records").iterdir())
    assert len(records) == 3
    for record in records:
        told = json.loads((record / "record.json").read_text())
        assert told["screen_hw"] == [320, 192] and told["steps"]
        assert len(list(record.glob("*.png"))) == len(told["steps"]) + 1


def test_scripted_players_run_there_too(installed, tmp_path):
    config = evaluate.EvaluateConfig(
        tasks="miniwob/test",
        device=DeviceConfig(name="chromium"),
        agent=AgentConfig(kind="oracle"),
        episodes=2,
        batch_size=1,
    )
    found = evaluate.run(config, out=tmp_path / "out")
    assert found.manifest.counts["success"] == 2
