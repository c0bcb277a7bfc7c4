"""The distill stage: what each arm imitates, on real episodes, proposals and a fitted policy."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from digiq.agents import collect
from digiq.agents.build import AgentConfig
from digiq.data import label
from digiq.data.store import EpisodeStore
from digiq.errors import DigiQError
from digiq.extraction import distill
from digiq.extraction.best_of_n import BestOfNConfig
from digiq.policies import fit
from digiq.policies.base import load_policy
from digiq.policies.grid import GridConfig
from digiq.proposals import propose

SMALL = GridConfig(input_height=64, input_width=32, width=8, word_buckets=64, speller_width=4)
FIT = fit.FitConfig(updates=2, batch_size=4, heldout=0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Directories by artefact name."""
    root = tmp_path_factory.mktemp("run")
    made = {name: root / name for name in ("behavior", "episodes", "rewards", "proposals")}
    collect.run(
        collect.CollectConfig(agent=AgentConfig(kind="collector"), num_episodes=16, seed=1),
        out=made["episodes"],
    )
    fit.run(fit.FitPolicyConfig(policy=SMALL, fit=FIT), episodes=made["episodes"], out=made["behavior"])
    label.run(label.LabelConfig(), episodes=made["episodes"], out=made["rewards"])
    propose.run(
        propose.ProposeConfig(num_candidates=3),
        episodes=made["episodes"], rewards=made["rewards"], policy=made["behavior"], out=made["proposals"],
    )  # fmt: skip
    return made


def test_filtered_bc_imitates_the_steps_of_successful_episodes(run, tmp_path):
    won = [e for e in EpisodeStore(run["episodes"]) if e.outcome == "success"]
    assert won
    config = distill.DistillConfig(arm="filtered_bc", fit=FIT)
    made = distill.run(
        config,
        behavior=run["behavior"],
        episodes=run["episodes"],
        rewards=run["rewards"],
        out=tmp_path / "p",
    )
    assert made.manifest.counts["selected"] == sum(e.num_actions for e in won)
    assert json.loads((tmp_path / "p/selection.json").read_text())["successful_episodes"] == len(won)
    load_policy(tmp_path / "p")


def test_without_a_success_filtered_bc_says_what_to_do(run, tmp_path):
    quitter = collect.CollectConfig(agent=AgentConfig(kind="quitter"), num_episodes=2)
    collect.run(quitter, out=tmp_path / "episodes")
    config = distill.DistillConfig(arm="filtered_bc", fit=FIT)
    with pytest.raises(DigiQError, match="collect episodes that succeed"):
        distill.run(config, behavior=run["behavior"], episodes=tmp_path / "episodes", out=tmp_path / "p")


def arm_with_values(run, monkeypatch, q_of_column, **best_of_n):
    """The arm ``digiq`` where the critic's Q of every state is ``q_of_column`` and its V is 0."""
    valid = propose.load_proposals(run["proposals"]).valid
    q = np.broadcast_to(np.array(q_of_column, np.float32), valid.shape)
    monkeypatch.setattr(distill, "load_features", lambda path: SimpleNamespace(candidate_row=valid))
    monkeypatch.setattr(distill, "load_critic", lambda path: None)
    monkeypatch.setattr(distill, "candidate_values", lambda *a, **k: (q, np.zeros(len(q), np.float32)))
    config = distill.DistillConfig(
        fit=FIT, best_of_n=BestOfNConfig(threshold_mode="absolute", support=0.0, **best_of_n)
    )
    return distill._select_best_of_n(
        distill.LabelledEpisodes(run["episodes"], run["rewards"]),
        run["proposals"], Path("features"), Path("critic"), config,
    )  # fmt: skip


def test_best_of_n_imitates_the_candidate_of_highest_q(run, monkeypatch):
    logged = arm_with_values(run, monkeypatch, [0.9, 0.5, 0.1], threshold=0.2)
    episodes = list(EpisodeStore(run["episodes"]))
    executed = {(n, t): s.action for n, e in enumerate(episodes) for t, s in enumerate(e.steps) if s.action}
    # The last observation of an episode that ran out of steps has candidates, but no logged action.
    assert {at: action for at, action in logged.targets.items() if at in executed} == executed
    other = arm_with_values(run, monkeypatch, [0.1, 0.9, 0.5], threshold=0.2)
    assert other.report["logged_share"] == 0.0
    assert len(other.targets) == other.considered


def test_best_of_n_keeps_no_state_whose_best_candidate_is_not_worth_it(run, monkeypatch):
    none = arm_with_values(run, monkeypatch, [0.1, 0.1, 0.1], threshold=0.2)
    assert none.targets == {} and none.report["mean_advantage_kept"] is None
