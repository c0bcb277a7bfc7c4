"""Numbers about a learned Q, on cases small enough to work out by hand, and the stage on a real small run."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from android_env.devices.simulated import collector
from android_env.devices.simulated.display import Display
from digiq import artifacts
from digiq.agents.build import device_tasks
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import DigiQError
from digiq.extraction import critic_values
from digiq.laboratory import card, exact_values, q_metrics
from digiq.laboratory.card import CardConfig, coverage, mistake_mix
from digiq.laboratory.controls import CollectorValues
from digiq.laboratory.q_metrics import QMetricsConfig, regret_by_visits, rightness, support_of
from digiq.proposals.values import load_exact

NAN = np.nan


def test_the_collectors_exact_values_are_those_of_what_it_does_and_never_above_the_best(small_run, tmp_path):
    root, policy = small_run.root, tmp_path / "behavior"
    policy.mkdir()
    (policy / "file").write_text("behaviour")
    exact_values.run(
        exact_values.ExactValuesConfig(policy_episodes=0, collector=True), episodes=root / "episodes",
        rewards=root / "rewards", proposals=root / "proposals", policy=policy, out=tmp_path / "exact",
    )  # fmt: skip
    truth = load_exact(tmp_path / "exact")
    states = range(len(truth["best_v"]))
    values = CollectorValues().read(states, frozenset({"members"}), {"exact": tmp_path / "exact"}, 0)
    assert values.baseline == "v" and (values.deviation == 0).all()
    assert (np.isnan(values.q) == np.isnan(truth["best_q"])).all() and np.isfinite(values.v).all()
    assert (values.v <= truth["best_v"] + 1e-6).all() and (values.v < truth["best_v"] - 0.01).mean() > 0.5
    # The candidates were drawn from the collector, so its V is the mean of their Q but for the draw.
    assert np.abs((np.nanmean(values.q, axis=1) - values.v).mean()) < 0.02


def test_regret_is_weighted_by_where_the_policy_goes():
    truth = np.array([[0.9, 0.5], [0.2, 0.6], [0.4, 0.4], [0.3, NAN]])
    choice = np.array([1, 0, 1, 0])
    screens = ["launcher", "results", "results", "url"]
    found = regret_by_visits(truth, choice, screens, {"launcher": 1, "results": 6, "cart": 3})
    # launcher loses .4; results loses .4 and 0, mean .2; url loses nothing and is never visited.
    assert found.plain == pytest.approx((0.4 + 0.4 + 0 + 0) / 4)
    assert found.covered == pytest.approx(0.7)
    assert found.weighted == pytest.approx((0.1 * 0.4 + 0.6 * 0.2) / 0.7)
    assert found.worst == "results"
    assert found.kinds["results"] == {"states": 2, "visits": 0.6, "regret": pytest.approx(0.2)}


def test_states_without_a_choice_or_a_truth_are_left_out():
    truth = np.array([[NAN, NAN], [0.5, 0.1], [NAN, 0.7]])
    found = regret_by_visits(truth, np.array([0, -1, 0]), ["a", "b", "c"], {"a": 1})
    assert found.kinds == {} and found.worst == "" and np.isnan(found.weighted) and np.isnan(found.plain)


def test_support_says_how_likely_the_imitated_candidates_were():
    log_prob = np.log(np.array([[0.5, 0.25], [0.1, 0.4], [0.3, 0.3]]))
    found = support_of(log_prob, np.ones((3, 2), bool), np.array([1, 1, 0]), np.array([True, True, False]))
    assert found["kept"] == pytest.approx(2 / 3) and found["logged"] == 0.0
    assert found["likelihood"][1] == pytest.approx(0.75)  # between .25 / .5 and 1
    assert support_of(log_prob, np.ones((3, 2), bool), np.zeros(3, int), np.zeros(3, bool))["kept"] == 0.0


def test_what_is_imitated_is_right_where_no_action_exceeds_it():
    best_q = np.array([[0.5, 0.9], [0.5, 0.4], [0.2, 0.1], [0.0, 0.7]])
    best_v, choice = np.array([0.9, 0.8, 0.2, NAN]), np.array([1, 0, 1, 1])
    assert rightness(best_q, best_v, choice, np.array([True, True, False, True])) == 0.5
    assert np.isnan(rightness(best_q, best_v, np.full(4, -1), np.ones(4, bool)))


def test_coverage_is_the_chance_that_a_draw_is_best():
    assert coverage(np.array([0.5, 0.0]), 2) == pytest.approx(0.375)
    assert coverage(np.array([1.0]), 1) == 1.0


class Scripted:
    """The collector as a learned policy: it knows the screens it has been shown the states of."""

    def __init__(self, displays):
        self.known = {(d.observe().screenshot.tobytes(), d.task.goal): d for d in displays}

    def support(self, inputs, k):
        return [collector.collector(self.known[i.screenshot.tobytes(), i.goal])[:k] for i in inputs]


@pytest.fixture(scope="module")
def logged(small_run):
    """The states of the first three recorded episodes, replayed."""
    from android_env.devices.simulated.phone import SimulatedPhone

    tasks = {task.task_id: task for task in device_tasks("webshop/train")}
    phone, displays = SimulatedPhone(render=False), []
    for episode in [LabelledEpisodes(small_run.root / "episodes")[n] for n in range(3)]:
        phone.reset(tasks[episode.task_id], seed=episode.seed)
        for step in episode.steps:
            displays.append(Display(phone.state, phone.task, phone.layout_seed))
            if step.action is not None:
                phone.execute(step.action)
    return displays


def test_a_data_card_of_the_collector(small_run, logged, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "load_policy", lambda path: Scripted(logged))
    policy = tmp_path / "policy"
    policy.mkdir()
    made = card.run(
        CardConfig(valued=3, candidates=(1, 64)), episodes=small_run.root / "episodes", policy=policy,
        out=tmp_path / "card",
    )  # fmt: skip
    found = card.read_card(made.path)
    assert found["episodes"] == 16 and 0 < found["states"] <= len(logged)
    assert 0.2 < found["coverage"]["1"] < 0.8 < found["coverage"]["64"] <= 1.0
    assert sum(found["mistakes"].values()) == pytest.approx(1.0, abs=0.001)
    assert found["mistakes"]["right"] > 0.15 and {"no_op", "back_home"} & set(found["mistakes"])
    assert list(found["best_probability"].values()) == sorted(found["best_probability"].values())
    card.print_card(found)


def test_an_oracle_makes_no_mistake(tmp_path):
    from digiq.agents import collect
    from digiq.agents.build import AgentConfig

    config = collect.CollectConfig(agent=AgentConfig(kind="oracle"), num_episodes=4, seed=2)
    collect.run(config, out=tmp_path / "episodes")
    store = LabelledEpisodes(tmp_path / "episodes")
    assert mistake_mix(tmp_path / "episodes", [store[n] for n in range(4)]) == {"right": 1.0}


def test_the_stage_judges_a_perfect_critic_perfect(small_run, tmp_path, monkeypatch):
    """The critic of this run is the truth itself, so nothing is lost and every pair is in order."""
    root = small_run.root
    policy = tmp_path / "behavior"
    policy.mkdir()
    (policy / "file").write_text("behaviour")
    exact_values.run(
        exact_values.ExactValuesConfig(policy_episodes=0), episodes=root / "episodes", rewards=root / "rewards",
        proposals=root / "proposals", policy=policy, out=tmp_path / "exact",
    )  # fmt: skip
    with pytest.raises(DigiQError, match=r"exact\.collector"):
        CollectorValues().read([], frozenset(), {"exact": tmp_path / "exact"}, 0)
    truth = load_exact(tmp_path / "exact")
    assert np.isfinite(truth["best_v"]).all() and np.isnan(truth["policy_q"]).all()
    assert (np.nanmax(truth["best_q"], axis=1) <= truth["best_v"] + 1e-9).all()
    assert set(truth["screen"]) >= {"launcher"}
    with artifacts.write(
        tmp_path / "policy", stage="distill", version=1, config={"best_of_n": {"support": 0.0}}
    ) as writer:
        writer.complete()

    def stage(values, out):
        q, v = values.astype(np.float32), np.zeros(len(values), np.float32)
        critic = SimpleNamespace(config=SimpleNamespace(timeout="terminal", gamma=0.9, baseline="v"))
        monkeypatch.setattr(
            critic_values, "open_features", lambda path: SimpleNamespace(candidate_row=values)
        )
        monkeypatch.setattr(critic_values, "load_critic", lambda path: critic)
        monkeypatch.setattr(critic_values, "candidate_values", lambda *_, **__: (q, v))
        monkeypatch.setattr(q_metrics, "count_visits", lambda *_: {"launcher": 3, "results": 1})
        q_metrics.run(
            QMetricsConfig(), episodes=root / "episodes", rewards=root / "rewards", proposals=root / "proposals",
            features=root / "features", critic=root / "critic", exact=tmp_path / "exact", policy=tmp_path / "policy",
            out=out,
        )  # fmt: skip
        return json.loads((out / "q_metrics.json").read_text())

    perfect = stage(truth["best_q"], tmp_path / "perfect")
    assert perfect["regret"]["weighted"] == perfect["regret"]["plain"] == 0.0
    assert perfect["pairwise_best"] == 1.0 and perfect["reliability"] is None
    assert 0 < perfect["right"] <= 1.0
    upside_down = stage(-truth["best_q"], tmp_path / "down")
    assert (
        upside_down["right"] < perfect["right"]
        and upside_down["pairwise_best"] == 0.0
        and upside_down["regret"]["plain"] > 0.05
    )


def test_visits_are_counted_where_the_policy_acts(monkeypatch):
    from digiq.agents.build import AgentConfig, build_agent

    scripted = build_agent(AgentConfig(kind="homesick"))
    monkeypatch.setattr(q_metrics, "build_agent", lambda *_, **__: scripted)
    visits = q_metrics.count_visits(QMetricsConfig(rollouts=2), None)
    # It goes home every time it has left the launcher, and spends all of its budget.
    assert sum(visits.values()) == 40 and visits["launcher"] >= 18
    assert dataclasses.is_dataclass(QMetricsConfig())
