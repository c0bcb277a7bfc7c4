"""A learned Q on top of anyone's agent: what is played, each guard alone, and the adapters."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import digiq
from android_env.actions import Action, ParseError
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.env import AndroidEnv
from android_env.tasks import load_tasks
from digiq.agents.agent import EachTurn, Past, Turn, screen_digest
from digiq.agents.proposers import EndpointProposer, PolicyProposer, Seen, TextProposer, VlmProposer
from digiq.agents.reranked import Agent, Guards
from digiq.agents.rollout import plan_episodes, rollout
from digiq.dialects.plain_json import PlainJson
from digiq.dialects.ui_tars import UiTars
from digiq.endpoint import EndpointConfig
from digiq.policies.base import Candidate, PolicyInput
from digiq.vlm import TINY_VLM_PATH
from tests.digiq.agents.test_agent import FixedPolicy, TableScorer
from tests.digiq.served import Served

A, B, C = Action.tap(0.1, 0.1), Action.tap(0.5, 0.5), Action.back()
DONE = Action.complete()
SCREEN = np.arange(40 * 24 * 3, dtype=np.uint8).reshape(40, 24, 3)
HERE = screen_digest(SCREEN)
OFF = Guards.off()


class Listed:
    """Proposes from a list, going on where it stopped."""

    def __init__(self, *proposals):
        self.proposals, self.asked, self.at = proposals, [], 0

    def propose(self, observation: Seen, n: int):
        self.asked.append(n)
        start, self.at = self.at, self.at + n
        return self.proposals[start : start + n]

    def describe(self):
        return {"proposer": "listed"}


def agent(proposals=(A, B, C), values=None, *, guards=OFF, v=0.0, **settings) -> Agent:
    critic = None if values is None else TableScorer(values, v)
    return Agent(Listed(*proposals), critic, guards=guards, **settings)


def decide(made: Agent, *past: Action):
    return made.decide(SCREEN, "goal", [Past(HERE, action) for action in past])


def test_the_agent_is_at_hand_without_loading_anything_heavy():
    assert digiq.Agent is Agent
    with pytest.raises(AttributeError, match="Agnt"):
        _ = digiq.Agnt


def test_the_candidate_of_highest_q_is_played():
    made = agent(values={A: 0.1, B: 0.2, C: 0.9}, v=0.3)
    decision = decide(made)
    assert decision.action == C and math.isnan(decision.log_prob) and decision.v == pytest.approx(0.3)
    assert decision.candidates == (A, B, C) and decision.q == pytest.approx((0.1, 0.2, 0.9))
    assert made.counts["overruled"] == 1 and made.counts["samples"] == 8


def test_without_a_critic_the_agents_own_choice_stands_with_its_probability():
    decision = decide(agent([Candidate(B, -0.5), Candidate(A, -1.0)]))
    assert (decision.action, decision.log_prob, decision.q) == (B, -0.5, ())


def test_equal_candidates_are_valued_once():
    made = agent([A, B, A, A], {A: 0.1, B: 0.2})
    assert decide(made).candidates == (A, B) and made.critic.scorer.seen == [[A, B]]


def test_a_single_candidate_is_played_without_asking_the_critic():
    made = agent((A, A), values={})  # which knows no value of anything
    decision = decide(made)
    assert (decision.action, decision.q) == (A, ()) and made.counts["unscored"] == 1
    # Of two, both have a Q, however late the second came.
    made = agent(
        (A, A, B), values={A: 0.2, B: 0.1}, num_candidates=3, guards=dataclasses.replace(OFF, first=1)
    )
    assert decide(made).q == pytest.approx((0.2, 0.1)) and made.counts["unscored"] == 0


@pytest.mark.parametrize(("v", "played"), [(0.3, C), (0.5, A)])
def test_below_the_threshold_the_own_choice_stands(v, played):
    assert decide(agent(values={A: 0.1, B: 0.2, C: 0.9}, v=v, threshold=0.5)).action == played


def test_what_does_not_parse_is_counted_and_never_becomes_an_action():
    wrong = ParseError("hm", "no action")
    made = agent([wrong, B, wrong], {B: 0.0})
    assert decide(made).action == B and made.counts["unparsable"] == 2
    assert decide(agent([wrong, wrong], {})).action == wrong
    assert isinstance(decide(agent([], {})).action, ParseError)


# --- guards, each alone, and off


def test_an_action_that_led_back_to_this_screen_twice_is_not_taken_again():
    values = {A: 0.9, B: 0.5, C: 0.1}
    made = agent(values=values, guards=Guards(loops=2))
    assert decide(made, A).action == A
    made = agent(values=values, guards=Guards(loops=2))
    assert decide(made, A, A).action == B and made.counts["loops_broken"] == 1
    assert decide(agent(values=values), A, A).action == A
    elsewhere = [Past(b"another", A)] * 5
    assert agent(values=values, guards=Guards(loops=2)).decide(SCREEN, "g", elsewhere).action == A
    # Where every candidate loops, the best of them is all there is.
    assert decide(agent([A], {A: 0.9}, guards=Guards(loops=1)), A, A).action == A


def test_vetoed_actions_are_not_taken_even_where_nothing_else_is_left():
    values = {A: 0.9, B: 0.5, C: 0.1}
    made = agent(values=values, guards=Guards(veto=lambda seen, action: action == A))
    assert decide(made).action == B and made.counts["vetoed"] == 1
    decision = decide(agent(values=values, guards=Guards(veto=lambda seen, action: True)))
    assert isinstance(decision.action, ParseError) and "vetoed" in decision.action.reason
    said = Action.type_text("my PASSWORD")
    assert decide(agent([said, B], {said: 1.0, B: 0.0}, guards=Guards(deny_texts=("password",)))).action == B
    assert decide(agent([said, B], {said: 1.0, B: 0.0})).action == said


@pytest.mark.parametrize(("answer", "played"), [(True, A), (False, B), (None, B)])
def test_what_cannot_be_undone_is_confirmed(answer, played):
    confirm = None if answer is None else lambda seen, action: answer
    guards = Guards(undoable=lambda seen, action: action == A, confirm=confirm)
    made = agent(values={A: 0.9, B: 0.5, C: 0.1}, guards=guards)
    assert decide(made).action == played
    assert made.counts["confirmed" if answer else "unconfirmed"] == 1


def test_a_declared_end_has_to_be_better_than_what_else_there_is():
    values = {DONE: 0.5, B: 0.45}
    assert decide(agent([DONE, B], values, guards=Guards(finish_margin=0.0))).action == DONE
    held = agent([DONE, B], values, guards=Guards(finish_margin=0.1))
    assert decide(held).action == B and held.counts["ends_held"] == 1
    assert decide(agent([DONE], {DONE: 0.5}, guards=Guards(finish_margin=0.1))).action == DONE


@pytest.mark.parametrize(("done", "played"), [(True, DONE), (False, B)])
def test_a_declared_success_is_checked(done, played):
    made = agent(
        [DONE, B], {DONE: 0.5, B: 0.1}, guards=Guards(finished=lambda seen: done, finish_margin=None)
    )
    assert decide(made).action == played


def test_sampling_stops_when_the_leader_is_safe():
    values = {A: 0.1, B: 0.9, C: 0.5, DONE: 0.0}
    many = (A, B, C, A, DONE, A, A, A)
    made = agent(many, values, guards=Guards(first=2, lead=0.5, finish_margin=None))
    assert decide(made).action == B and made.proposer.asked == [2] and made.counts["stopped_early"] == 1
    unsafe = agent(many, values, guards=Guards(first=2, lead=0.9, finish_margin=None))
    assert decide(unsafe).action == B and unsafe.proposer.asked == [2, 2, 2, 2]
    # Candidates are valued once, however often more are drawn.
    assert unsafe.critic.scorer.seen == [[A, B], [C], [DONE]]
    whole = agent(many, values)
    decide(whole)
    assert whole.proposer.asked == [8]


class Far(TableScorer):
    def score_turns(self, turns, candidates):
        return [(q, v) for q, v, _ in self.score_with_distance(turns, candidates)]

    def score_with_distance(self, turns, candidates):
        return [
            (*self.score(None, row), np.array([9.0 if c == C else 1.0 for c in row])) for row in candidates
        ]


@pytest.mark.parametrize(("distance", "played"), [(3.0, A), (None, C), (10.0, C)])
def test_outside_the_critics_support_the_own_choice_stands(distance, played):
    critic = Far({A: 0.1, B: 0.2, C: 0.9})
    made = Agent(Listed(A, B, C), critic, guards=Guards(distance=distance, finish_margin=None, loops=None))
    assert decide(made).action == played and made.counts["abstained"] == (played == A)


def test_latency_is_told_by_part_and_records_hold_no_secret():
    made = agent(values={A: 0.1, B: 0.2, C: 0.9})
    decide(made)
    told = made.latency()
    assert set(told) == {"propose", "score", "guard", "total"} and all(v >= 0 for v in told.values())
    assert told["total"] == pytest.approx(told["propose"] + told["score"] + told["guard"])
    about = made.describe()
    assert about["proposer"] == {"proposer": "listed"} and about["guards"]["loops"] is None


# --- adapters


def test_a_policy_of_ours_proposes():
    made = Agent(
        PolicyProposer(FixedPolicy(), 0.7),
        TableScorer({A: 0.1, B: 0.2, C: 0.9}),
        num_candidates=4,
        guards=OFF,
    )
    turns = [Turn(PolicyInput(SCREEN, "goal"), np.random.default_rng(i)) for i in range(3)]
    assert [d.action for d in made.act(turns)] == [C] * 3
    assert made.proposer.policy.asked == (4, 0.7)


def test_an_endpoint_proposes_in_its_dialect_and_hears_what_was_done(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    texts = ["Action: click(point='<point>500 500</point>')", "Action: press_back()", "no"]
    with Served(lambda payload: texts[payload["seed"] % 3]).running() as served:
        model = EndpointConfig(url=served.url, cache=None, key_env="MY_KEY")
        made = Agent(
            EndpointProposer.open(model, UiTars()),
            TableScorer({B: 0.1, C: 0.2}),
            num_candidates=12,
            guards=OFF,
        )
        decision = made.decide(SCREEN, "goal", [Past(HERE, Action.home())], np.random.default_rng(0))
        again = made.decide(SCREEN, "goal", [Past(HERE, Action.home())], np.random.default_rng(0))
    assert set(decision.candidates) == {B, C} and decision.action == C == again.action
    assert decision.candidates == again.candidates and 0 < made.counts["unparsable"] < 24
    text = served.asked[0][2]["messages"][0]["content"][1]["text"]
    assert "Before: Action: press_home()" in text and "Goal: goal" in text
    assert "sk-secret" not in str(made.describe())


def test_any_function_that_says_what_to_do_proposes():
    def say(screenshot, goal, past, n):
        assert screenshot.shape == (40, 24, 3) and goal == "goal"
        return ['{"action_type": "navigate_back"}', "hm"][:n]

    made = Agent(TextProposer(say, PlainJson()), TableScorer({C: 0.5}), guards=OFF)
    assert decide(made).action == C and made.counts["unparsable"] == 1
    assert made.describe()["proposer"]["dialect"] == "plain_json"


def test_a_local_model_proposes_alike_for_the_same_generator():
    proposer = VlmProposer.open(TINY_VLM_PATH, PlainJson(), max_tokens=4)
    seen = [Seen(np.zeros((160, 96, 3), np.uint8), "open it", (), np.random.default_rng(3)) for _ in range(2)]
    said = [proposer.propose(one, 3) for one in seen]
    assert len(said[0]) == 3 and said[0] == said[1]
    # It was never taught to write JSON; whatever it says is read or has a reason.
    assert all(isinstance(p, Candidate | ParseError) for p in said[0])
    assert proposer.describe()["path"] == str(TINY_VLM_PATH)


def test_roll_outs_run_it_and_tell_what_was_done():
    """On the embedded phone, where pressing home for ever is what the loop guard is for."""
    tasks = list(load_tasks("webshop/train"))[:2]
    homesick = Listed()
    homesick.propose = lambda observation, n: [Action.home(), Action.tap(0.5, 0.5)][:n]
    made = Agent(homesick, None, guards=Guards(loops=2))
    specs = plan_episodes(tasks, 2, seed=0)
    runs = list(rollout(made, specs, lambda: AndroidEnv(SimulatedPhone(), load_tasks("webshop/train"))))
    acted = [[decision.action for decision in run.decisions] for run in runs]
    assert all(actions[:2] == [Action.home()] * 2 for actions in acted)
    assert all(Action.tap(0.5, 0.5) in actions for actions in acted) and made.counts["loops_broken"] > 0
    plain = Agent(homesick, None, guards=OFF)
    (run,) = rollout(plain, specs[:1], lambda: AndroidEnv(SimulatedPhone(), load_tasks("webshop/train")))
    assert {decision.action for decision in run.decisions} == {Action.home()}


def test_a_random_scorer_is_a_critic_too():
    from digiq.critics.scorer import RandomScorer

    made = Agent(Listed(A, B, C), EachTurn(RandomScorer()), guards=OFF)
    other = Agent(Listed(A, B, C), RandomScorer(), guards=OFF)
    assert decide(made).action == decide(other).action
