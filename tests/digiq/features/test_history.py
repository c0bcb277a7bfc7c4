"""What was done before stands in the prompt, at test time exactly as when features were stored."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from android_env.actions import Action
from digiq.agents.agent import Agent, Past, Turn, screen_digest
from digiq.agents.learned import LearnedScorer
from digiq.agents.proposers import Seen
from digiq.config import load, to_dict
from digiq.errors import ConfigError, DigiQError
from digiq.features import extract as stage
from digiq.features import extract_features, load_features
from digiq.features.engines import plain
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


SCREENS = [0, 1, 0, 2, 0]  # that of the first and third step is the same, what came before it is not


@pytest.fixture(params=["plain", "shared"])
def shown(request, vlm, tmp_path, monkeypatch):
    """A scorer opened beside features that show the screen before, these features, and their inputs."""
    monkeypatch.setattr("digiq.agents.learned.load_critic", lambda path: None)
    inputs = write_inputs(tmp_path, [episode("a", "buy tea", SCREENS, ACTIONS)], CANDIDATES)
    history = {"actions": 0, "screenshot": True}
    config = load(
        stage.FeaturizeConfig,
        {
            "engine": request.param,
            "history": history,
            "layers": [-1],
            "dtype": "float32",
            "grounding": "crop",
        },
    )
    out = tmp_path / "features"
    stage.run(config, **inputs, vlm=vlm, out=out)
    return LearnedScorer.open(critic=out, features=out, vlm=vlm), load_features(out), inputs, config


def passed(t: int) -> tuple[Past, ...]:
    """What a roll-out passes on: the screen of the last action alone."""
    done = [Past(screen_digest(screen(SCREENS[i])), ACTIONS[i]) for i in range(t)]
    return tuple(
        dataclasses.replace(one, screenshot=screen(SCREENS[t - 1]) if i == t - 1 else None)
        for i, one in enumerate(done)
    )


def test_the_screen_before_is_seen_in_training_and_on_a_device_alike(shown):
    scorer, stored, _, _ = shown
    assert scorer.reads_past
    turns = [
        Turn(PolicyInput(screen(SCREENS[t]), "buy tea"), np.random.default_rng(0), past=passed(t))
        for t in range(4)
    ]
    found = scorer._of_turns(turns, CANDIDATES)
    layer = next(iter(stored.pair))
    rows = np.asarray(stored.observation[layer], float)
    assert not np.allclose(
        rows[0], rows[2], atol=1e-2
    )  # the same screen, with nothing and with another before it
    np.testing.assert_allclose(np.asarray(found["observation"][layer], float), rows, rtol=2e-2, atol=2e-3)
    for t in range(4):
        expected = np.asarray(stored.pair[layer][stored.candidate_row[t]], float)
        got = np.asarray(found["pair"][layer][found["candidate_row"][t, :3]], float)
        np.testing.assert_allclose(got, expected, rtol=2e-2, atol=2e-3)
    forgotten = dataclasses.replace(turns[3], past=tuple(Past(p.screen, p.action) for p in passed(3)))
    with pytest.raises(DigiQError, match=r"history.screenshot\), but the last 'Past' has no screenshot"):
        scorer._of_turns([forgotten], CANDIDATES[3:])


def test_extract_features_takes_the_image_before_and_gives_what_is_stored(shown, vlm):
    _, stored, _, config = shown
    items = [
        (screen(SCREENS[t]), "buy tea", CANDIDATES[t], None, screen(SCREENS[t - 1]) if t else None)
        for t in range(4)
    ]
    found = extract_features(items, model=vlm, dtype="float32", engine=config.engine, grounding="crop")
    (layer,) = stored.pair
    expected = np.concatenate([np.asarray(stored.pair[layer][row], float) for row in stored.candidate_row])
    np.testing.assert_allclose(found[3], expected, rtol=2e-2, atol=2e-3)
    with pytest.raises(
        DigiQError, match=r"item 0, the image before.*cannot be read|item 0, the image before"
    ):
        extract_features([(*items[1][:4], b"no image")], model=vlm)


def test_rows_without_the_screen_before_are_found_again_and_those_with_it_are_others(
    shown, vlm, tmp_path, monkeypatch
):
    _, _, inputs, config = shown
    counts: list[int] = []
    original = plain.extract
    monkeypatch.setattr(
        plain, "extract", lambda b, items, **o: counts.append(len(items)) or original(b, items, **o)
    )
    config = dataclasses.replace(config, engine="plain", grounding="text")
    for number, history in enumerate((0, stage.History(), 0, stage.History(screenshot=True))):
        config = dataclasses.replace(config, history=history)
        stage.run(config, **inputs, vlm=vlm, out=tmp_path / f"again{number}")
    # Screens 0, 1, 2 with their candidates; nothing new; of the last, the first step is as without.
    assert counts[:2] == [3, counts[1]] and counts[2] == 3 and len(counts) == 4


def test_history_is_a_number_or_says_what_it_is_of():
    assert stage.FeaturizeConfig(history=2).remembered == stage.History(actions=2)
    assert to_dict(stage.FeaturizeConfig())["history"] == 0  # as recipes always said
    with pytest.raises(
        ConfigError, match=r"unknown key 'history\.screens'; did you mean 'history\.screenshot'"
    ):
        load(stage.FeaturizeConfig, {"history": {"screens": True}})
    with pytest.raises(ConfigError, match="history"):
        stage.FeaturizeConfig(history=-1)


def test_a_screen_before_that_cannot_be_read_is_named():
    from digiq.features.engines.base import Request

    asked = Request.build(screen(0), "go", None, "text", before=b"nothing", where="episode a, step 1")
    with pytest.raises(DigiQError, match="episode a, step 1: its previous screenshot cannot be read"):
        plain.screens([asked])
