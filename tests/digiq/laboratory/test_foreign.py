"""The simulated foreign agents: they answer over HTTP alone, in their dialects, and err as they are said to."""

from __future__ import annotations

import numpy as np
import pytest

from android_env.actions import Action, ParseError
from android_env.devices.simulated import kernel
from android_env.tasks import load_tasks
from digiq.agents.proposers import EndpointProposer, Seen
from digiq.endpoint import EndpointConfig
from digiq.laboratory import bring_your_own
from digiq.laboratory.foreign import CHARACTERS, Eyes, choices, serving, watched
from digiq.policies.base import Candidate

TASKS = list(load_tasks("webshop/tune"))


def screens(count: int):
    """Screens on the oracle's way, with the phone that shows them."""
    eyes = Eyes()
    for task in TASKS[:count]:
        phone = watched(eyes)
        phone.reset(task, seed=1)
        while phone.verdict() is None:
            yield eyes, phone
            phone.execute(phone.display.concrete(kernel.oracle(phone.state, task)))
            phone.observe()


@pytest.mark.parametrize("name", CHARACTERS)
def test_it_is_confused_by_kinds_of_screen_and_not_at_random(name):
    character = CHARACTERS[name]
    wrong = right = 0
    for _, phone in screens(4):
        options = choices(character, phone.display)
        assert sum(p for _, p in options) == pytest.approx(1)
        assert options == choices(character, phone.display)
        best = phone.display.concrete(kernel.oracle(phone.state, phone.task))
        favourite = max(options, key=lambda option: option[1])[0]
        wrong, right = wrong + (favourite != best), right + (favourite == best)
    # Where it errs, its likeliest answer is the mistake: neither greed nor voting helps.
    assert 0 < wrong < right


@pytest.mark.parametrize("name", CHARACTERS)
def test_a_server_answers_in_its_dialect_about_screens_that_were_shown(name):
    character = CHARACTERS[name]
    eyes, phone = next(iter(screens(1)))
    with serving(character, eyes) as url:
        model = EndpointConfig(url=url, cache=None, key_env="", several=True, log_probs=True)
        proposer = EndpointProposer.open(model, character.dialect)
        screen = phone.observe().screenshot
        said = proposer.propose(Seen(screen, phone.task.goal, (), np.random.default_rng(0)), 12)
        again = proposer.propose(Seen(screen, phone.task.goal, (), np.random.default_rng(0)), 12)
        unknown = proposer.propose(Seen(np.zeros_like(screen), "what?", (), np.random.default_rng(0)), 2)
    assert said == again and len(said) == 12
    actions = [c for c in said if isinstance(c, Candidate)]
    assert len(actions) >= 10 and all(c.log_prob < 0 for c in actions)
    assert all(isinstance(one, ParseError) for one in unknown)


def test_votes_count_taps_that_are_near_as_one():
    near = [Candidate(Action.tap(0.5, 0.5 + d), -3.0) for d in (0.0, 0.01, 0.02)]
    said = [Candidate(Action.back(), -1.0), Candidate(Action.back(), -1.0), *near]
    assert bring_your_own.most_common(said).action.is_tap
    assert bring_your_own.likeliest(said).action == Action.back()


def test_the_table_names_the_contrast(tmp_path):
    import json

    arms = {
        "one sample": [False, True] * 10,
        "majority of N": [False] * 20,
        "Q without guards": [True] * 20,
        "Q with guards": [True] * 19 + [False],
        "best of N by the truth": [True] * 20,
        "MC": [True] * 20,
    }
    found = {
        "seed": 0,
        "logs": {"success": 0.5},
        "tasks": [f"t{k}" for k in range(20)],
        "arms": {arm: {"won": won} for arm, won in arms.items()},
    }
    (tmp_path / "weak-0").mkdir()
    (tmp_path / "weak-0/results.json").write_text(json.dumps(found))
    text = bring_your_own.table(bring_your_own.Options(agents=("weak", "strong"), out=tmp_path))
    assert "Q without guards against the best of the others (one sample): +50.0 points" in text
    assert "| Q with guards | 95.0 |" in text and "strong" not in text
