"""The simulated foreign agents: they answer over HTTP alone, in their dialects, and err as they are said to."""

from __future__ import annotations

import numpy as np
import pytest

from android_env.actions import Action, ParseError
from android_env.devices.simulated import kernel
from android_env.tasks import load_tasks
from digiq.agents.agent import Turn
from digiq.agents.oracle import ExactScorer
from digiq.agents.proposers import EndpointProposer, Seen
from digiq.agents.rollout import plan_episodes
from digiq.endpoint import EndpointConfig
from digiq.laboratory import bring_your_own
from digiq.laboratory.foreign import CHARACTERS, Eyes, choices, serving, watched
from digiq.policies.base import Candidate, PolicyInput

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


def test_the_table_names_the_contrast_and_sets_step_critics_side_by_side(tmp_path):
    arms = {
        "one sample": [False, True] * 10,
        "majority of N": [False] * 20,
        "MC": [True] * 20,
        "Q without guards": [True] * 20,
        "Q with guards": [True] * 19 + [False],
        "best of N by the truth": [True] * 20,
    }
    options = bring_your_own.Options(agents=("weak", "strong"), out=tmp_path)
    records = bring_your_own.Records(options.file("weak", 0))
    records.add({"logs": 100, "success": 0.5})
    for arm, won in arms.items():
        for k, one in enumerate(won):
            line = {"arm": arm, "episode": f"e{k:02}", "task": f"t{k}"}
            records.add(line | {"outcome": "success" if one else "failure"})
    estimate = {"value": 0.75, "low": 0.7, "high": 0.8}
    records.add({"ranking": "Q", "accuracy": estimate, "regret": estimate})
    text = bring_your_own.table(options)
    assert "Q without guards against the best of the others (one sample): +50.0 points" in text
    assert "| Q with guards | 95.0 |" in text and "strong" not in text
    assert "| Q | 75.0 | 70.0 to 80.0 | 0.750 | 100.0 |" in text
    assert bring_your_own.sweep_figure(options) == ""  # not all N were played
    for count in options.sweep:
        arm = f"Q with guards, N = {count}"
        for k in range(20):
            line = {"arm": arm, "episode": f"e{k:02}", "task": f"t{k}"}
            records.add(line | {"outcome": "success" if k < 5 + count else "failure"})
    assert "the weak agent" in bring_your_own.sweep_figure(options)
    # An arm that was cut short leaves the others the episodes that it has.
    records.add({"arm": "greedy", "episode": "e19", "task": "t19", "outcome": "failure"})
    assert "paired, 1 episodes" in bring_your_own.table(options)


def test_the_contrast_is_shown_by_seed(tmp_path):
    options = bring_your_own.Options(agents=("weak",), seeds=(1, 2), out=tmp_path)
    for seed, first in ((1, True), (2, False)):
        records = bring_your_own.Records(options.file("weak", seed))
        records.add({"logs": 100, "success": 0.5})
        for arm, wins in (("one sample", [False, False]), ("Q with guards", [True, first])):
            for k, won in enumerate(wins):
                outcome = "success" if won else "failure"
                records.add({"arm": arm, "episode": f"e{k}", "task": f"t{k}", "outcome": outcome})
    assert "+75.0 points" in bring_your_own.table(options)
    assert "by seed +100.0, +50.0" in bring_your_own.table(options)


def test_a_sitting_goes_on_where_the_last_was_cut_off(tmp_path):
    specs = plan_episodes(TASKS, 3, 0)
    records = bring_your_own.Records(tmp_path / "r.jsonl")
    records.add({"arm": "greedy", "episode": specs[1].episode_id, "task": "t", "outcome": "success"})
    with records.file.open("a") as file:
        file.write('{"arm": "greedy", "epi')
    again = bring_your_own.Records(tmp_path / "r.jsonl")
    assert again.lines == records.lines and again.won("greedy") == [True]
    assert again.missing("greedy", specs) == [specs[0], specs[2]]
    assert len(again.missing("MC", specs)) == 3 and not again.has_all(["greedy"], specs)


def test_order_of_candidates():
    truth = np.array([0.9, 0.5, 0.5])
    assert bring_your_own.order(truth, np.array([3.0, 2.0, 1.0])) == ([1.0, 1.0], 0.0)
    right, lost = bring_your_own.order(truth, np.array([1.0, 1.0, 2.0]))
    assert right == [0.5, 0.0] and lost == pytest.approx(0.4)


def test_step_critics_are_held_against_the_simulator_on_the_same_candidates():
    """One that knows the values is always right, its opposite never, and the judge's double as often as it is told."""
    exact = ExactScorer(discount=bring_your_own.GAMMA)

    class Wrong:
        def score_turns(self, turns, candidates):
            return [(-q, v) for q, v in exact.score_turns(turns, candidates)]

    judge = bring_your_own.JudgeDouble(0.8, 0)
    comparing = bring_your_own.Comparing({"truth": exact, "judge": judge, "wrong": Wrong()})
    said, meant = [], []
    for _, phone in screens(2):
        seen = PolicyInput(phone.observe().screenshot, phone.task.goal)
        turn = Turn(
            seen,
            np.random.default_rng(0),
            phone,
            step=phone.state.steps if hasattr(phone.state, "steps") else 0,
        )
        best = phone.display.concrete(kernel.oracle(phone.state, phone.task))
        actions = list(dict.fromkeys([best, Action.home(), Action.back(), Action.tap(0.01, 0.99)]))
        comparing.score_turns([turn], [actions])
        (q, v), (scores, _) = exact.score_turns([turn], [actions])[0], judge.score_turns([turn], [actions])[0]
        said += scores.tolist()
        meant += (q >= v - bring_your_own.TIE).astype(float).tolist()
    lines = {line["ranking"]: line for line in comparing.lines()}
    assert lines["truth"]["accuracy"]["value"] == 1.0 and lines["truth"]["regret"]["value"] == 0.0
    assert lines["wrong"]["accuracy"]["value"] == 0.0 and lines["wrong"]["regret"]["value"] > 0
    assert 0.5 < lines["judge"]["accuracy"]["value"] < 1.0
    assert 0.6 < np.mean(np.equal(said, meant)) < 0.95


def test_ones_own_log_probability_ranks_what_was_said():
    class Says:
        def propose_all(self, observations, n):
            return [[Candidate(Action.back(), -2.0), Candidate(Action.home(), -1.0)] for _ in observations]

    remembered = bring_your_own.Remembered(Says())
    screen = np.zeros((4, 3, 3), np.uint8)
    remembered.propose(Seen(screen, "x"), 2)
    turn = Turn(PolicyInput(screen, "x"), np.random.default_rng(0))
    ((q, _),) = bring_your_own.OwnLogProb(remembered).score_turns([turn], [[Action.home(), Action.back()]])
    assert q.tolist() == [-1.0, -2.0]
