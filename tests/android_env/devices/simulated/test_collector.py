"""The collector: exact probabilities, the promised mix of mistakes, habits."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache

import numpy as np
import pytest

from android_env.devices.simulated import kernel
from android_env.devices.simulated.collector import (
    SCRIPTED,
    collector,
    collector_policy,
    draw,
    mistakes,
    shares,
)
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.exact import ExactValues, reading
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import State
from android_env.tasks import load_tasks

TRAIN = load_tasks("webshop/train")


@cache
def survey() -> tuple[float, Counter, float, dict[str, float]]:
    """Mean success, expected actions by kind in an episode, the median right probability, kinds where text is due."""
    successes, kinds, rights, typing = [], Counter(), [], Counter()
    # Levels in about their shares of the set, over all sites.
    levels = [TRAIN.where(level=level) for level in (1, 2, 3)]
    for task in (*levels[0][3::12], *levels[1][5::13], *levels[2][9::13]):
        values = ExactValues(reading(collector), task, 1)
        successes.append(values.success)
        for state, visits in values.occupancy().items():
            found = shares(Display(state, task, 1))
            for kind, p in found.items():
                kinds[kind] += visits * p
                if kernel.oracle(state, task)[0] == "type":
                    typing[kind] += visits * p
            rights.append((found.get("right", 0.0), visits))
    rights.sort()
    cumulated = np.cumsum([visits for _, visits in rights])
    median = rights[int(np.searchsorted(cumulated, cumulated[-1] / 2))][0]
    return float(np.mean(successes)), kinds, median, typing


def test_it_succeeds_on_a_fifth_to_a_third_of_the_training_tasks():
    assert 0.2 <= survey()[0] <= 0.35


@pytest.mark.parametrize(
    "kind, least, most",
    [
        ("no_op", 0.13, 0.18),
        ("distractor", 0.09, 0.13),
        ("useless", 0.07, 0.11),
        ("back_home", 0.05, 0.09),
        ("complete", 0.02, 0.05),
    ],
)
def test_its_mistakes_have_their_shares(kind, least, most):
    kinds = survey()[1]
    assert least <= kinds[kind] / kinds.total() <= most


def test_it_types_the_wrong_words_now_and_then():
    typing = survey()[3]
    assert 0.1 <= typing["wrong_text"] / typing.total() <= 0.25


def test_the_right_action_is_unlikely_in_the_median_state():
    assert 0.15 <= survey()[2] <= 0.35


@pytest.mark.parametrize("name", SCRIPTED)
def test_probabilities_sum_to_one(name):
    for task in (TRAIN[0], TRAIN[30], load_tasks("general")[30]):
        for state in ExactValues(reading(collector), task, 2).states[::11]:
            choices = SCRIPTED[name](Display(state, task, 2))
            assert sum(p for _, p in choices) == pytest.approx(1)
            assert len({action for action, _ in choices}) == len(choices)


def test_drawn_actions_come_with_their_log_probability():
    phone = SimulatedPhone(render=False)
    phone.reset(TRAIN[30], seed=5)
    rng = np.random.default_rng(0)
    exact = dict(collector(phone.display))
    drawn = [collector_policy(phone, rng) for _ in range(4000)]
    assert all(log_p == pytest.approx(math.log(exact[action])) for action, log_p in drawn)
    counts = Counter(action for action, _ in drawn)
    for action, p in exact.items():
        assert abs(counts[action] / 4000 - p) <= 4 * math.sqrt(p * (1 - p) / 4000) + 1e-9


def test_draw_never_leaves_the_support():
    class Top:
        def random(self):
            return 1.0 - 1e-17

    choices = collector(Display(kernel.start(TRAIN[0]), TRAIN[0], 1))
    assert draw(choices, Top())[0] == choices[-1][0]


def test_habits_belong_to_the_screen_and_not_to_the_episode():
    def favourite(task, layout_seed):
        display = Display(State("tab", "Browser"), task, layout_seed)
        found = Counter()
        for action, p in collector(display):
            found[display.resolve(action)] += p
        del found[kernel.oracle(display.state, task)], found["tap", None]
        return found.most_common(1)[0][0]

    assert len({favourite(task, layout) for task in TRAIN[::20] for layout in (1, 2)}) == 1


def test_mistakes_are_what_they_are_called():
    task = TRAIN[30]
    home = Display(State("home", task.params["site"]), task, 4)
    kinds = mistakes(home)
    assert ("tap", "banner") in kinds["distractor"] and ("tap", "cart") in kinds["useless"]
    assert kinds["no_op"] == [("tap", None)] and kinds["back_home"] == [("back",), ("home",)]
    assert all(("tap", "search") not in actions for actions in kinds.values())
    for other in TRAIN[::9]:
        typing = Display(State("url", "Browser", text=""), other, 4)
        assert all(text in other.goal for _, text in mistakes(typing)["wrong_text"])
    typing = Display(State("url", "Browser", text=""), task, 4)
    wrong = {text for _, text in mistakes(typing)["wrong_text"]}
    assert wrong and task.params["site"] not in wrong
