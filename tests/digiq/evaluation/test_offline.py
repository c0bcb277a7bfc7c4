"""Matching what was logged: the published rules on fixtures of their formats, and the stage."""

from __future__ import annotations

import dataclasses
import json

import pytest

from android_env.actions import Action, ActionType
from digiq.cli import main
from digiq.data.store import EpisodeWriter
from digiq.errors import DigiQError
from digiq.evaluation import offline
from digiq.evaluation.offline import OfflineConfig, matches, scores
from tests.digiq.data.test_store import make_episode

TAP = Action.tap(0.5, 0.5)
BOXES = json.dumps([{"yxhw": [0.4, 0.4, 0.2, 0.2]}, {"yxhw": [0.0, 0.0, 1.0, 1.0]}, {}])
LONG = Action(ActionType.LONG_PRESS, (0.5, 0.5))
CLOCK = Action(ActionType.OPEN_APP, text="Clock")

CASES = [
    # predicted, logged, by Android in the Wild's rule, by AndroidControl's
    (TAP, TAP, True, True),
    (Action.tap(0.58, 0.58), TAP, True, True),  # near, and in the element
    (Action.tap(0.62, 0.5), TAP, True, False),  # near, and beside the element
    (Action.tap(0.95, 0.5), TAP, True, False),  # inside one box, that of the whole screen
    (Action.swipe("up"), Action.swipe("down"), True, False),  # AitW looks at the axis alone
    (Action.swipe("up"), Action.swipe("up"), True, True),
    (Action.swipe("up"), TAP, False, False),
    (Action.type_text("tea"), Action.type_text("Tea "), True, True),
    (Action.type_text("tea"), Action.type_text("coffee"), True, False),  # AitW does not compare texts
    (Action.back(), Action.back(), True, True),
    (Action.back(), Action.home(), False, False),
    (Action.complete(), Action.complete(), True, True),
    (LONG, LONG, True, True),
    (TAP, LONG, False, False),
    (CLOCK, CLOCK, True, True),
    (CLOCK, Action(ActionType.OPEN_APP, text="Mail"), True, False),
]


@pytest.mark.parametrize(("predicted", "logged", "aitw", "control"), CASES)
def test_the_published_rules(predicted, logged, aitw, control):
    assert matches("aitw", predicted, logged, BOXES) is aitw
    assert matches("android_control", predicted, logged, BOXES) is control


def test_a_tap_on_no_element_is_matched_by_its_distance():
    assert matches("android_control", Action.tap(0.6, 0.5), TAP, "[]")
    assert not matches("android_control", Action.tap(0.7, 0.5), TAP, "[]")


def test_partial_and_complete_match_are_averages_over_episodes():
    told = scores(
        ["a", "a", "a", "a", "b"],
        [TAP, TAP, Action.back(), Action.swipe("up"), TAP],
        [True, True, True, False, True],
    )
    assert told["step_accuracy"]["value"] == pytest.approx(0.8)
    assert told["partial_match"]["value"] == pytest.approx((0.75 + 1) / 2)
    assert told["complete_match"]["value"] == pytest.approx(0.5)
    assert told["by_type"]["TAP"] == {"accuracy": 1.0, "steps": 3}
    assert told["by_type"]["SWIPE"] == {"accuracy": 0.0, "steps": 1}


class Backer:
    """Presses back, and taps where it is told to."""

    def sample(self, inputs, n, rng, temperature=1.0):
        from digiq.policies.base import Candidate

        return [[Candidate(TAP if seen.goal == "tap it" else Action.back(), 0.0)] for seen in inputs]


@pytest.fixture
def made(tmp_path, monkeypatch):
    with EpisodeWriter(tmp_path / "episodes", extras=True) as writer:
        told = make_episode("a", [TAP, Action.back()])
        steps = [
            dataclasses.replace(s, extras=json.dumps({"step_instruction": "tap it"})) for s in told.steps[:1]
        ]
        writer.write(dataclasses.replace(told, split="test", steps=(*steps, *told.steps[1:])))
        writer.write(make_episode("b", [Action.home()]))
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/x").write_text("")
    monkeypatch.setattr(offline, "load_policy", lambda path: Backer())
    return tmp_path


def run(made, out="out", **settings):
    return offline.run(
        OfflineConfig(**settings), episodes=made / "episodes", policy=made / "policy", out=made / out
    )


def test_the_stage_scores_a_split_at_both_levels(made):
    artifact = run(made)
    found = json.loads((artifact.path / "offline.json").read_text())
    assert found["step_accuracy"]["value"] == 0.5 and found["complete_match"]["value"] == 0.0
    assert artifact.manifest.counts == {"episodes": 1, "steps": 2, "matched": 1}
    low = run(made, "low", rule="android_control", level="low")
    assert low.manifest.counts == {"episodes": 1, "steps": 1, "matched": 1}
    with pytest.raises(DigiQError, match="no episodes in split 'x'"):
        run(made, "no", split="x")
    with pytest.raises(DigiQError, match="no step has an instruction"):
        run(made, "none", split="train", level="low")


def test_evaluate_offline_is_its_command(made, capsys):
    main(
        [
            "evaluate",
            "--offline",
            "--episodes",
            str(made / "episodes"),
            "--policy",
            str(made / "policy"),
            "--out",
            str(made / "cli"),
        ]
    )
    assert "matched 1" in capsys.readouterr().err
