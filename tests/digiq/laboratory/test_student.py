"""A policy without pixels: what screens offer, what it learns, how it plays."""

import dataclasses

import numpy as np
import pytest

from android_env.actions import Action
from android_env.devices.simulated import kernel
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.tasks import load_tasks
from digiq.agents.rollout import plan_episodes
from digiq.laboratory.elements import action_features, observation_features, pair_features
from digiq.laboratory.student import Arcade, Examples, Student, look, looks_of

TASKS = load_tasks("webshop/train/1")


@pytest.fixture(scope="module")
def shown():
    """Screens of episodes that the oracle plays, each with the oracle's action and a no-op; and which offer the first is."""
    phone, seen = SimulatedPhone(render=False), []
    for spec in plan_episodes(TASKS, 24, seed=1):
        phone.reset(spec.task, seed=spec.seed)
        while phone.verdict() is None and len(seen) < 400:
            best = phone.display.concrete(kernel.oracle(phone.state, phone.task))
            seen.append((phone.display, [best, None, Action.tap(0.02, 0.5)]))
            phone.execute(best)
    return looks_of(seen), [display for display, _ in seen]


def test_every_candidate_is_among_what_its_screen_offers(shown):
    (screens, index), displays = shown
    assert index.shape == (len(displays), 3) and (index[:, 1] == -1).all()
    for screen, row, display in zip(screens, index, displays, strict=True):
        assert screen.actions[row[0]] == kernel.oracle(display.state, display.task)
        assert len(set(screen.actions)) == len(screen.actions) == len(screen.features)
        assert screen.screen == display.screen.template


def test_what_is_offered_beside_is_asked_for_by_name(shown):
    display = shown[1][0]
    text = Action.type_text("no such text")
    assert ("type", "no such text") not in look(display).actions
    assert look(display, [text]).actions[-1] == ("type", "no such text")


def test_features_of_an_action_are_those_of_the_laboratory(shown):
    display = shown[1][0]
    seen = display.observe(rendered=False)
    screen = look(display)
    whole = [
        pair_features("elements", seen.goal, display.concrete(action), seen.activity, seen.ui_elements)
        for action in screen.actions
    ]
    np.testing.assert_array_equal(np.stack(whole).astype(np.float16), screen.features)
    alone = action_features(seen.goal, Action.back())
    np.testing.assert_array_equal(alone, pair_features("text", seen.goal, Action.back(), "", "[]"))
    assert (
        observation_features("elements", seen.goal, seen.activity, seen.ui_elements).size + 99 + alone.size
        == (screen.features.shape[1])
    )


def test_it_learns_what_it_is_shown_and_plays_it(shown):
    (screens, index), _ = shown
    examples = Examples.of(screens)
    fresh = Student.fresh(examples.features.shape[-1], seed=0)
    rows, weight = np.arange(len(screens)), np.ones(len(screens))
    able = fresh.fit(examples, rows, index[:, 0], weight, updates=400)
    lazy = fresh.fit(examples, rows, index[:, 2], weight, updates=400)
    right = [int(np.argmax(able.logits(s.features))) == k for s, k in zip(screens, index[:, 0], strict=True)]
    assert np.mean(right) > 0.95
    arcade = Arcade(plan_episodes(TASKS, 12, seed=2))
    won, visits = arcade.play(able, temperature=0.1)
    assert sum(won) >= 9 and sum(arcade.play(lazy, temperature=0.1)[0]) == 0
    assert arcade.play(able, temperature=0.1) == (
        won,
        visits,
    )  # what is kept between students changes nothing
    assert Arcade(arcade.specs).play(able, temperature=0.1) == (won, visits)


def test_rows_of_no_weight_teach_nothing(shown):
    (screens, index), _ = shown
    examples, rows = Examples.of(screens), np.arange(len(screens))
    fresh = Student.fresh(examples.features.shape[-1], seed=0)
    both = np.concatenate([rows, rows]), np.concatenate([index[:, 0], index[:, 2]])
    weight = np.concatenate([np.ones(len(rows)), np.zeros(len(rows))])
    able = fresh.fit(examples, *both, weight, updates=400)
    right = [int(np.argmax(able.logits(s.features))) == k for s, k in zip(screens, index[:, 0], strict=True)]
    assert np.mean(right) > 0.95


def test_an_episode_ends_with_its_budget():
    arcade = Arcade([dataclasses.replace(spec) for spec in plan_episodes(TASKS, 2, seed=0)])
    nothing = Student.fresh(action_features("", Action.back()).size + 195 + 99, seed=0)
    _, visits = arcade.play(nothing)
    assert sum(visits.values()) <= 2 * 20
