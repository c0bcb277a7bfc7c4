"""Anyone's agent with a critic and guards on top, from the command line, on the embedded phone."""

from __future__ import annotations

import json

import pytest

from android_env.actions import Action
from digiq.agents.learned import LearnedScorer
from digiq.agents.proposers import Seen
from digiq.cli import main
from digiq.config import load
from digiq.evaluation import evaluate_agent
from digiq.evaluation.evaluate import EvaluateConfig, read_results
from digiq.evaluation.evaluate import run as evaluate
from digiq.evaluation.evaluate_agent import EvaluateAgentConfig, proposer_of
from tests.digiq.served import Served

SAYS = ('{"action_type": "navigate_home"}', '{"action_type": "click", "x": 20, "y": 60}', "Hm.")


@pytest.fixture(scope="module")
def served():
    with Served(lambda payload: SAYS[payload["seed"] % 3]).running() as double:
        yield double


class Likes:
    """A critic that wants home."""

    def score_turns(self, turns, candidates):
        import numpy as np

        return [(np.array([float(a == Action.home()) for a in row]), 0.0) for row in candidates]


def test_the_command_plays_and_says_how_long_each_part_took(served, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LearnedScorer, "open", classmethod(lambda cls, **paths: Likes()))
    (tmp_path / "any").mkdir()
    given = [word for name in ("critic", "features", "vlm") for word in (f"--{name}", str(tmp_path / "any"))]
    command = ["evaluate", "--proposer", "endpoint", "--endpoint.model.url", served.url]
    command += [
        "--endpoint.model.cache",
        "None",
        "--episodes",
        "3",
        "--num-candidates",
        "3",
        "--records",
        "1",
    ]
    main([*command, *given, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "milliseconds per step: propose" in said and "unparsable" in said and "loops_broken" in said
    about = json.loads((tmp_path / "out/agent.json").read_text())
    assert set(about["latency_ms"]) == {"propose", "score", "guard", "total"}
    assert about["latency_ms"]["propose"] > 0 and about["counts"]["overruled"] > 0
    assert about["proposer"]["proposer"] == "endpoint" and "key" not in json.dumps(about)
    results = read_results(tmp_path / "out/episodes.jsonl")
    assert len(results) == 3 and not any(r.outcome == "success" for r in results)
    # The same episodes as any other agent's under that seed, so they compare in pairs.
    collector = load(EvaluateConfig, {"agent": {"kind": "collector"}, "episodes": 3, "records": 0})
    evaluate(collector, out=tmp_path / "collector")
    assert [r.episode_id for r in read_results(tmp_path / "collector/episodes.jsonl")] == [
        r.episode_id for r in results
    ]
    main(["compare", str(tmp_path / "collector"), str(tmp_path / "out")])
    assert "3 " in capsys.readouterr().out


def test_without_a_critic_the_guards_decide_and_what_lacks_is_said(served, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--proposer", "endpoint", "--out", str(tmp_path / "no")])
    assert "the proposer 'endpoint' with rerank needs --critic" in capsys.readouterr().err
    config = load(
        EvaluateAgentConfig,
        {
            "proposer": "endpoint",
            "endpoint": {"model": {"url": served.url, "cache": None}},
            "rerank": False,
            "num_candidates": 2,
            "episodes": 2,
            "guards": {"loops": None},
        },
    )
    first = evaluate_agent.run(config, out=tmp_path / "out")
    assert first.manifest.counts["episodes"] == 2
    asked = len(served.asked)
    evaluate_agent.run(config, out=tmp_path / "out")
    assert len(served.asked) == asked  # what is there is not played again


def test_other_sources_propose_too():
    import numpy as np

    config = load(EvaluateAgentConfig, {"proposer": "perturbed", "rerank": False})
    proposer = proposer_of(config.chosen, {}, "perturbed")
    assert proposer.propose(Seen(np.zeros((8, 6, 3), np.uint8), "x"), 3) == []
    assert proposer.describe() == {"proposer": "source", "source": "perturbed"}
