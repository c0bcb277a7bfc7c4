"""Exact values against arithmetic, against themselves, and against roll-outs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from android_env.actions import Action
from android_env.devices.simulated import exact, kernel
from android_env.devices.simulated.collector import collector, draw, oracle, uniform
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.exact import (
    ExactValues,
    exact_q,
    exact_success,
    optimal_q,
    reading,
    seeing,
)
from android_env.devices.simulated.phone import SimulatedPhone, layout_seed_of
from android_env.devices.simulated.state import NO_NOISE, NoiseConfig
from android_env.tasks import load_tasks

TRAIN = load_tasks("webshop/train")
LEVELS = [TRAIN.where(level=level)[0] for level in (1, 2, 3)]


def roll_out(phone: SimulatedPhone, distribution, rng, steps: int) -> bool:
    for _ in range(steps):
        phone.execute(draw(distribution(phone.display), rng)[0])
        if phone.verdict():
            return phone.verdict() == "success"
    return False


def within_error(rate: float, exact: float, count: int) -> bool:
    return abs(rate - exact) <= 4 * math.sqrt(exact * (1 - exact) / count) + 1e-9


def test_dropped_taps_alone_give_a_negative_binomial():
    # Level 1 takes two taps that may be lost, then typing and enter, which are not.
    p = 0.3
    noise = NoiseConfig(0.5, dropped_tap=0.6, slow_load=0, popup=0, cookie_wall=0, dead_link=0, sponsored=0)
    for budget, expected in ((3, 0), (4, (1 - p) ** 2), (5, (1 - p) ** 2 * (1 + 2 * p))):
        values = ExactValues(reading(oracle), LEVELS[0], 7, noise=noise, max_steps=budget)
        assert values.success == pytest.approx(expected)


def test_discount_counts_from_the_rewarded_action():
    values = ExactValues(reading(oracle), LEVELS[2], 7, noise=NO_NOISE, discount=0.9)
    assert values.success == pytest.approx(0.9 ** (len(kernel.solve(LEVELS[2])) - 1))


@pytest.mark.parametrize("success", ["on_reach", "on_declare"])
@pytest.mark.parametrize("task", LEVELS, ids=lambda t: t.task_id)
def test_success_agrees_with_roll_outs(task, success):
    # Declaring needs a policy that does it at the right time; half oracle, half collector.
    def policy(display: Display):
        return [(a, p / 2) for part in (oracle(display), collector(display)) for a, p in part]

    seed, count = 11, 500
    truth = ExactValues(reading(policy), task, layout_seed_of(seed), success=success).success
    assert 0.1 < truth < 0.999
    phone = SimulatedPhone(success=success, render=False)
    rng = np.random.default_rng(0)
    wins = 0
    for index in range(count):
        phone.reset(task, seed=seed)
        phone._chance.seed(index)
        wins += roll_out(phone, policy, rng, task.max_steps)
    assert within_error(wins / count, truth, count)


def test_q_agrees_with_clones_rolled_out():
    task, seed, count = LEVELS[0], 4, 300
    values = ExactValues(reading(collector), task, layout_seed_of(seed))
    phone = SimulatedPhone(render=False)
    phone.reset(task, seed=seed)
    rng = np.random.default_rng(1)
    for step in range(3):
        for action in (phone.display.concrete(kernel.oracle(phone.state, task)), Action.home()):
            wins = 0
            for index in range(count):
                twin = phone.clone()
                twin._chance.seed(index)
                twin.execute(action)
                wins += roll_out(twin, collector, rng, task.max_steps - step - 1)
            assert within_error(wins / count, values.q(phone.state, action, step), count)
        phone.execute(phone.display.concrete(kernel.oracle(phone.state, task)))


@pytest.mark.parametrize("distribution", [collector, uniform])
def test_v_is_the_mean_of_q(distribution):
    task = LEVELS[1]
    values = ExactValues(reading(distribution), task, 5, discount=0.95)
    for state in values.states[::40]:
        choices = distribution(Display(state, task, 5))
        for step in (0, 7, 19):
            mean = sum(p * values.q(state, action, step) for action, p in choices)
            assert values.v(state, step) == pytest.approx(mean)


def test_nothing_is_better_than_the_best_policy():
    for task in LEVELS:
        best = optimal_q(task, 2)
        for distribution in (oracle, collector, uniform):
            assert ExactValues(reading(distribution), task, 2).success <= best.success + 1e-12
        start = kernel.start(task)
        assert best.q(start, kernel.oracle(start, task), 0) == pytest.approx(best.v(start, 0))
        assert best.q(start, ("tap", "app-Mail"), 10) < best.v(start, 10)


def test_q_of_a_state_the_policy_never_reaches():
    task = LEVELS[0]
    values = ExactValues(reading(oracle), task, 2, noise=NO_NOISE)
    astray = kernel.outcomes(kernel.start(task), ("tap", "app-Mail"), task, NO_NOISE)[0][1]
    assert astray not in values.states
    assert values.q(kernel.start(task), ("tap", "app-Mail"), 0) == 1.0
    assert values.q(astray, ("home",), 15) == 1.0 and values.q(astray, ("home",), 16) == 0.0


def test_a_policy_over_pixels_is_asked_once_a_state_in_batches():
    task, calls, seen = LEVELS[0], [], []
    mail = Display(kernel.start(task), task, 3).point("app-Mail")

    def policy(observations):
        calls.append(len(observations))
        for observation in observations:
            assert observation.screenshot.shape == (320, 192, 3) and observation.goal == task.goal
            seen.append(observation.screenshot.tobytes())
        # A top-2 support that sums to 0.8 stands for one that sums to 1.
        return [[(Action.swipe("up"), 0.2), (mail, 0.6)] for _ in observations]

    values = exact_q(policy, task, 3, noise=NO_NOISE, max_steps=4)
    assert len(seen) == sum(calls) <= len(values.states) and len(calls) < len(seen)
    assert exact_success(policy, task, 3, noise=NO_NOISE, max_steps=4) == values.success


def test_pixels_are_enough_to_act_well():
    # A policy that looks its actions up by screenshot does as well as the oracle that wrote the table.
    task, layout_seed = LEVELS[2], 9
    states = ExactValues(reading(oracle), task, layout_seed).states
    displays = [Display(state, task, layout_seed) for state in states]
    table = {d.observe().screenshot.tobytes(): oracle(d) for d in displays}
    pixels = exact_success(lambda obs: [table[o.screenshot.tobytes()] for o in obs], task, layout_seed)
    assert pixels == pytest.approx(ExactValues(reading(oracle), task, layout_seed).success)


def test_occupancy_counts_the_steps_of_an_episode():
    task = LEVELS[2]
    values = ExactValues(reading(oracle), task, 5, noise=NO_NOISE)
    visits = values.occupancy()
    assert sum(visits.values()) == pytest.approx(len(kernel.solve(task)))
    with pytest.raises(ValueError, match="optimal"):
        optimal_q(task, 5).occupancy()


def test_policies_without_an_action_or_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(exact, "MAX_STATES", 500)
    with pytest.raises(ValueError, match="no action"):
        ExactValues(seeing(lambda observations: [[] for _ in observations]), LEVELS[0], 1)

    def chatter(display):
        bar = display.concrete(("tap", "app-Browser" if display.state.page == "launcher" else "url"))
        return [(Action.type_text((display.state.text or "") + "x"), 0.5), (bar, 0.5)]

    with pytest.raises(ValueError, match="smaller support"):
        ExactValues(reading(chatter), LEVELS[0], 1, noise=NO_NOISE)
