"""What was done before stands in the prompt, at test time exactly as when features were stored."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from android_env.actions import Action
from digiq.agents.agent import Agent, Past, Turn
from digiq.agents.learned import LearnedScorer
from digiq.agents.proposers import Seen
from digiq.features import extract as stage
from digiq.features import load_features
from digiq.policies.base import PolicyInput
from tests.digiq.features.test_extract import BACK, CONFIG, TAP, TYPE, episode, screen, write_inputs

pytestmark = pytest.mark.usefixtures("one_torch_thread")
ACTIONS = [TAP, BACK, TYPE, Action.enter()]
POLICY: Any = None
CANDIDATES = [[action, TYPE, Action.home()] for action in ACTIONS]


@pytest.fixture(params=["plain", "shared"])
def opened(request, vlm, tmp_path, monkeypatch):
    """A scorer opened beside features that hold the last two actions, and the features."""
    monkeypatch.setattr("digiq.agents.learned.load_critic", lambda path: None)
    # The screen never changes, so that histories alone tell states apart.
    inputs = write_inputs(tmp_path, [episode("a", "buy tea", [0] * 5, ACTIONS)], CANDIDATES)
    config = dataclasses.replace(
        CONFIG, engine=request.param, prompt="general", history=2, pair_spans=(), observation_spans=()
    )
    out = tmp_path / "features"
    stage.run(config, **inputs, vlm=vlm, out=out)
    return LearnedScorer.open(critic=out, features=out, vlm=vlm), load_features(out)


def turn(t: int) -> Turn:
    past = tuple(Past(b"", action) for action in ACTIONS[:t])
    return Turn(PolicyInput(screen(0), "buy tea"), np.random.default_rng(0), past=past)


def test_features_of_a_turn_are_those_that_were_stored_for_the_same_state(opened):
    scorer, stored = opened
    assert scorer.reads_past and Agent(POLICY, scorer).reads_past and not Agent(POLICY).reads_past
    found = scorer._of_turns([turn(t) for t in range(4)], CANDIDATES)
    for layer, rows in stored.observation.items():
        assert len({row.tobytes() for row in rows}) == 4  # no history, one action, two, two others
        np.testing.assert_allclose(
            found["observation"][layer].astype(float), rows.astype(float), rtol=1e-2, atol=1e-3
        )
    for layer, rows in stored.pair.items():
        for t in range(4):
            expected = rows[stored.candidate_row[t]].astype(float)
            got = found["pair"][layer][found["candidate_row"][t, :3]].astype(float)
            np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-3)
    without = scorer._of_turns([dataclasses.replace(turn(3), past=())], CANDIDATES[3:])
    layer = next(iter(stored.pair))
    assert not np.allclose(
        without["pair"][layer][0].astype(float), found["pair"][layer][9].astype(float), atol=1e-3
    )


def test_an_observation_that_carries_its_past_is_scored_with_it(opened, monkeypatch):
    scorer, _ = opened
    read = []
    monkeypatch.setattr(
        "digiq.agents.learned.candidate_values",
        lambda critic, features: read.append(features) or (np.zeros((1, 8)), np.zeros(1)),
    )
    one = turn(2)
    scorer.score_turns([one], CANDIDATES[:1])
    scorer.score(Seen(screen(0), "buy tea", one.past, one.rng), CANDIDATES[0])
    scorer.score(PolicyInput(screen(0), "buy tea"), CANDIDATES[0])
    layer = scorer.engine.layers[0]
    by_turn, by_seen, by_none = (np.asarray(f["pair"][layer][:3], np.float32) for f in read)
    np.testing.assert_array_equal(by_turn, by_seen)
    assert (by_turn != by_none).any()
