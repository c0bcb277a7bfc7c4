"""The learned scorer: test-time features are laid out as the stored ones, whatever the batch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from android_env.actions import Action
from digiq.agents import learned
from digiq.agents.agent import Turn
from digiq.agents.build import AgentConfig, build_agent
from digiq.agents.learned import LearnedScorer
from digiq.errors import ConfigError
from digiq.policies.base import PolicyInput

TAPS = [Action.tap(0.1 * n, 0.5) for n in range(1, 10)]


class FakeEngine:
    """Features that tell requests apart: mean pixel, prompt length; answered in shuffled batches."""

    layers = ("layer_02",)

    def rows(self, requests):
        order = np.random.default_rng(0).permutation(len(requests))
        for start in range(0, len(order), 3):
            positions = order[start : start + 3]
            rows = [[requests[i].screenshot.mean(), len(requests[i].prompt.text)] for i in positions]
            yield positions, np.array(rows, np.float32)[:, None]


def fake_values(critic, features):
    rows, pair = features["candidate_row"], features["pair"]["layer_02"].astype(np.float32)
    assert features["pair"]["layer_02"].dtype == ml_dtypes.bfloat16
    q = np.where(rows >= 0, pair[np.maximum(rows, 0)].sum(-1), np.nan)
    return q, features["observation"]["layer_02"].astype(np.float32).sum(-1)


@pytest.fixture
def scorer(monkeypatch):
    monkeypatch.setattr(learned, "candidate_values", fake_values)
    return LearnedScorer(None, FakeEngine(), "cursor")


def turn(shade: int, goal: str) -> Turn:
    return Turn(PolicyInput(np.full((40, 24, 3), shade, np.uint8), goal), np.random.default_rng(0))


def test_a_batch_of_turns_scores_each_as_it_would_alone(scorer):
    turns = [turn(20, "a"), turn(200, "a longer goal"), turn(90, "bb")]
    candidates = [TAPS[:2], TAPS, [Action.back()]]
    together = scorer.score_turns(turns, candidates)
    for one, actions, (q, v) in zip(turns, candidates, together, strict=True):
        alone_q, alone_v = scorer.score(one.observation, actions)
        assert q.shape == (len(actions),) and q == pytest.approx(alone_q) and v == pytest.approx(alone_v)
    assert together[1][0][0] > together[0][0][0]


def test_the_cursor_is_drawn_where_the_candidate_taps(scorer):
    q, _ = scorer.score(turn(0, "goal").observation, [TAPS[4], Action.back()])
    plain, _ = LearnedScorer(None, FakeEngine(), "text").score(turn(0, "goal").observation, [TAPS[4]])
    assert q[0] > 0 and q[0] != plain[0]


def test_all_three_artefacts_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("digiq.policies.base.load_policy", lambda path: None)
    with pytest.raises(ConfigError, match="--features"):
        build_agent(AgentConfig(scorer="critic"), policy=tmp_path, critic=tmp_path, vlm=tmp_path)
