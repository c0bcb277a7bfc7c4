"""The distill stage: what each arm imitates, on real episodes, proposals and a fitted policy."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from digiq import artifacts
from digiq.agents import collect
from digiq.agents.build import AgentConfig
from digiq.data.rewards import LabelledEpisodes
from digiq.data.store import EpisodeStore
from digiq.data.transitions import observation_index
from digiq.errors import DigiQError
from digiq.extraction import critic_values, distill
from digiq.extraction.base import Values, read_states
from digiq.extraction.best_of_n import BestOfN
from digiq.extraction.digirl import DigiRL
from digiq.policies.base import load_policy
from digiq.proposals import propose
from digiq.proposals.values import EXACT
from tests.digiq.extraction.conftest import FIT


def test_filtered_bc_imitates_the_steps_of_successful_episodes(run, tmp_path):
    won = [e for e in EpisodeStore(run["episodes"]) if e.outcome == "success"]
    assert won
    config = distill.DistillConfig(objective="filtered_bc", fit=FIT)
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
    config = distill.DistillConfig(objective="filtered_bc", fit=FIT)
    with pytest.raises(DigiQError, match="collect episodes that succeed"):
        distill.run(config, behavior=run["behavior"], episodes=tmp_path / "episodes", out=tmp_path / "p")


def select(run, q_of_column, **settings):
    """States and what Best-of-N takes of them, where Q of every state is ``q_of_column`` and V is 0."""
    states, _ = read_states(LabelledEpisodes(run["episodes"], run["rewards"]))
    proposals = propose.load_proposals(run["proposals"])
    q = np.broadcast_to(np.array(q_of_column, np.float32), proposals.valid.shape)
    values = Values(q=q, v=np.zeros(len(q), np.float32), baseline="v", discount=1.0, bootstraps=False)
    states = dataclasses.replace(states, proposals=proposals, values=values)
    objective = BestOfN(threshold_mode="absolute", support=0.0, **settings)
    return states, objective.select(states, np.random.default_rng(0))


def test_best_of_n_imitates_the_candidate_of_highest_q(run):
    states, logged = select(run, [0.9, 0.5, 0.1], threshold=0.2)
    # The last observation of an episode that ran out of steps has candidates, but no logged action.
    imitated = dict(zip(logged.row.tolist(), logged.action, strict=True))
    executed = {row: action for row, action in enumerate(states.logged) if action is not None}
    assert {row: action for row, action in imitated.items() if row in executed} == executed
    _, other = select(run, [0.1, 0.9, 0.5], threshold=0.2)
    assert other.report["logged_share"] == 0.0
    assert len(other.row) == other.considered


def test_best_of_n_keeps_no_state_whose_best_candidate_is_not_worth_it(run):
    _, none = select(run, [0.1, 0.1, 0.1], threshold=0.2)
    assert not len(none.row) and none.report["mean_advantage_kept"] is None


def test_exact_values_rank_the_candidates_of_the_ceiling(run, tmp_path):
    stored = propose.load_proposals(run["proposals"])
    q = np.where(stored.valid, 0.1, np.nan)
    q[:, 1] = 0.9
    with artifacts.write(tmp_path / "exact", stage="value", version=1, config={}) as writer:
        np.savez(writer.path / EXACT, best_q=q, best_v=np.full(len(q), 0.9))
        writer.complete()
    config = distill.DistillConfig(
        values=distill.ValuesConfig(source="digiq.laboratory.controls:ExactValues"),
        fit=FIT,
        best_of_n=BestOfN(support=0.0, threshold_mode="absolute", threshold=0.1),
    )
    inputs = {name: run[name] for name in ("behavior", "episodes", "rewards", "proposals")}
    made = distill.run(config, **inputs, exact=tmp_path / "exact", out=tmp_path / "p")
    assert json.loads((tmp_path / "p/selection.json").read_text())["logged_share"] == 0.0
    assert made.manifest.counts["selected"] == made.manifest.counts["considered"]
    assert set(made.manifest.inputs) == {"behavior", "episodes", "rewards", "proposals", "exact"}
    with pytest.raises(DigiQError, match="--exact"):
        distill.run(config, **inputs, out=tmp_path / "q")


def test_random_values_choose_every_candidate_alike(run, tmp_path):
    config = distill.DistillConfig(
        values=distill.ValuesConfig(source="digiq.laboratory.controls:RandomValues"),
        fit=FIT,
        best_of_n=BestOfN(support=0.0),
    )
    inputs = {name: run[name] for name in ("behavior", "episodes", "rewards", "proposals")}
    distill.run(config, **inputs, out=tmp_path / "p")
    report = json.loads((tmp_path / "p/selection.json").read_text())
    assert 0.15 < report["logged_share"] < 0.55  # one candidate of three is the logged one


def test_digirl_imitates_the_logged_steps_that_pass_its_filter(run, tmp_path, monkeypatch):
    index = observation_index(EpisodeStore(run["episodes"]))
    features = SimpleNamespace(candidate_row=np.zeros((len(index), 1)))
    critic = SimpleNamespace(config=SimpleNamespace(timeout="terminal", gamma=0.9, baseline="v"))
    monkeypatch.setattr(critic_values, "open_features", lambda path: features)
    monkeypatch.setattr(critic_values, "load_critic", lambda path: critic)
    monkeypatch.setattr(critic_values, "state_values", lambda *_: np.full(len(index), 0.3, np.float32))
    for name in ("features", "critic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    config = distill.DistillConfig(objective="digirl", fit=FIT, digirl=DigiRL(decay=1.0, threshold=0.5))
    made = distill.run(
        config, behavior=run["behavior"], episodes=run["episodes"], rewards=run["rewards"],
        features=tmp_path / "features", critic=tmp_path / "critic", out=tmp_path / "p",
    )  # fmt: skip
    # With λ = 1 every step is worth its outcome, so the filter is that of filtered behaviour cloning.
    won = [e for e in EpisodeStore(run["episodes"]) if e.outcome == "success"]
    assert made.manifest.counts["selected"] == sum(e.num_actions for e in won)
