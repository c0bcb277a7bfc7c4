"""The kernel: probabilities, oracles, known failures, and that the screen shows what matters."""

from __future__ import annotations

import pytest

from android_env.devices.simulated import kernel
from android_env.devices.simulated.collector import (
    KNOWN_FAILURES,
    SCRIPTED,
    collector,
    mistyper,
    oracle,
    uniform,
)
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.exact import ExactValues, optimal_q, reading
from android_env.devices.simulated.state import NO_NOISE, NOISE, NoiseConfig, State
from android_env.errors import TaskError
from android_env.tasks import Task, load_tasks
from android_env.tasks.webshop import SITES

ALL = [*load_tasks("webshop"), *load_tasks("general")]
# One task of every kind: three levels of the webshop, the twelve templates.
KINDS = list({(t.family, t.level, t.params.get("template")): t for t in ALL}.values())


def reachable(task: Task, layout_seed: int = 3) -> list[State]:
    """States that the collector or a random policy can get into."""
    states = dict.fromkeys(ExactValues(reading(collector), task, layout_seed).states)
    states.update(dict.fromkeys(ExactValues(reading(uniform), task, layout_seed).states))
    return [state for state in states if kernel.verdict(state, task, "on_reach") is None]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("task", KINDS[:4], ids=lambda t: t.task_id)
def test_outcomes_are_distributions(task, scale):
    noise = NoiseConfig(scale=scale)
    for state in reachable(task)[::3]:
        display = Display(state, task, 3)
        actions = [("tap", name) for name in display.reachable]
        actions += [
            ("tap", None),
            ("type", "x"),
            ("back",),
            ("home",),
            ("enter",),
            ("swipe", "up"),
            ("complete",),
        ]
        for action in actions:
            found = kernel.outcomes(state, action, task, noise)
            assert sum(p for p, _ in found) == pytest.approx(1) and all(p > 0 for p, _ in found)
            assert len({after for _, after in found}) == len(found)
            assert scale or len(found) == 1


def test_the_oracle_solves_every_task_without_noise():
    steps = {}
    for task in ALL:
        actions = kernel.solve(task)
        steps.setdefault((task.family, task.level), set()).add(len(actions))
    assert steps == {
        ("webshop", 1): {4},
        ("webshop", 2): {7},
        ("webshop", 3): {8},
        ("general", 1): {3},
        ("general", 2): {4},
        ("general", 3): {5},
    }


@pytest.mark.parametrize("task", KINDS, ids=lambda t: t.task_id)
def test_no_way_is_shorter_than_the_oracles(task):
    # With discount 1/2 the value of the start says how many actions the best policy needs.
    best = optimal_q(task, 3, noise=NO_NOISE, discount=0.5)
    assert best.success == 0.5 ** (len(kernel.solve(task)) - 1)


@pytest.mark.parametrize("task", KINDS, ids=lambda t: t.task_id)
def test_the_oracle_finds_back_from_anywhere(task):
    values = ExactValues(reading(oracle), task, 3, noise=NO_NOISE, max_steps=14)
    assert all(values.v(state, 0) == 1 for state in reachable(task) if not state.declared)


def test_the_oracle_copes_with_noise_in_every_layout():
    for index, task in enumerate(ALL[::17]):
        for layout_seed in (index, 1000 + index):
            values = ExactValues(reading(oracle), task, layout_seed)
            assert values.success > (0.98 if task.family == "webshop" else 0.9), (task.task_id, layout_seed)


@pytest.mark.parametrize("name", KNOWN_FAILURES)
def test_known_failures_fail(name):
    for task in ALL[::9]:
        for success in ("on_reach", "on_declare"):
            assert ExactValues(reading(SCRIPTED[name]), task, 1, success=success).success == 0


def test_who_types_the_goal_fails_where_typing_is_needed():
    for task in ALL[::9]:
        types = any(action[0] == "type" for action in kernel.solve(task))
        success = ExactValues(reading(mistyper), task, 1).success
        assert (success == 0) == types, task.task_id


@pytest.mark.parametrize("task", KINDS, ids=lambda t: t.task_id)
def test_the_screen_shows_what_the_next_action_depends_on(task):
    wanted = {}
    for state in reachable(task):
        if state.loading or state.declared:
            continue
        shown = kernel.screen(state, task)
        action = kernel.oracle(state, task)
        assert wanted.setdefault(shown, action) == action, (state, action)


def test_progress_changes_the_screen():
    for task in KINDS:
        state = kernel.start(task)
        for action in kernel.solve(task):
            before = kernel.screen(state, task)
            ((_, state),) = kernel.outcomes(state, action, task, NO_NOISE)
            assert kernel.screen(state, task) != before


def test_cookie_walls_come_as_often_as_the_site_has_them():
    rates = []
    for site in SITES:
        task = next(t for t in ALL if t.params.get("site") == site)
        found = kernel.outcomes(State("url", "Browser", text=site), ("enter",), task, NOISE)
        rates.append(sum(p for p, state in found if state.overlay == "cookie"))
    assert min(rates) == pytest.approx(0.1) and max(rates) == pytest.approx(0.6)


def test_mishaps_have_their_named_rates():
    task = next(t for t in ALL if t.level == 3)
    results = State("results", task.params["site"], task.params["query"])

    def share(action, condition, state=results, noise=NOISE):
        return sum(p for p, after in kernel.outcomes(state, action, task, noise) if condition(after))

    assert share(("tap", "item-1"), lambda s: s == results) == pytest.approx(0.05)
    assert share(("tap", "item-1"), lambda s: s.page == "ad") == pytest.approx(0.95 * 0.03)
    assert share(("tap", "item-1"), lambda s: s.overlay == "popup") == pytest.approx(0.95 * 0.97 * 0.05)
    assert share(("tap", "item-1"), lambda s: s.loading) == pytest.approx(0.95 * 0.15)
    typed = State("search", results.place, text=results.query)
    assert share(("enter",), lambda s: "sponsored" in s.facts, typed) == pytest.approx(0.4)
    doubled = NoiseConfig(scale=2)
    assert share(("tap", "item-1"), lambda s: s == results, noise=doubled) == pytest.approx(0.1)
    assert share(("enter",), lambda s: "sponsored" in s.facts, typed, doubled) == pytest.approx(0.8)


def test_taps_are_lost_while_a_page_loads():
    task = KINDS[1]
    loading = State("home", task.params["site"], loading=True)
    for action in (("tap", "search"), ("back",), ("enter",), ("type", "x")):
        assert kernel.outcomes(loading, action, task, NO_NOISE) == ((1.0, loading._replace(loading=False)),)
    assert kernel.outcomes(loading, ("home",), task, NO_NOISE)[0][1].page == "launcher"


def test_only_the_first_organic_entry_counts():
    task = next(t for t in ALL if t.level == 3)
    opened = State("product", task.params["site"], task.params["query"], view="1")
    assert kernel.is_success(opened, task)
    for wrong in (
        opened._replace(view="2"),
        opened._replace(view="ad"),
        opened._replace(query="something else"),
        opened._replace(place="elsewhere.com"),
        opened._replace(overlay="popup"),
        opened._replace(loading=True),
    ):
        assert not kernel.is_success(wrong, task)


def test_declarations_are_judged():
    task = KINDS[0]
    home = State("home", task.params["site"])
    assert kernel.verdict(home, task, "on_reach") == "success"
    assert kernel.verdict(home, task, "on_declare") is None
    assert kernel.verdict(home._replace(declared="complete"), task, "on_declare") == "success"
    assert kernel.verdict(home._replace(declared="impossible"), task, "on_declare") == "failure"
    assert kernel.verdict(State("launcher", declared="complete"), task, "on_declare") == "failure"


def test_unknown_families_and_impossible_noise_are_refused():
    with pytest.raises(TaskError, match="webshop, general"):
        kernel.start(Task("x", "y", "chess", 1, "train"))
    with pytest.raises(ValueError, match="popup"):
        NoiseConfig(popup=1.5)
    with pytest.raises(ValueError, match="scale"):
        NoiseConfig(scale=-1)
