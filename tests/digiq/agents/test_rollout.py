"""Roll-outs: episodes do not depend on what runs beside them, faults are counted, budgets are exact."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from typing import ClassVar

import numpy as np
import pytest

from android_env.actions import Action, ParseError, parse_action
from android_env.errors import DeviceFault, TaskError
from android_env.faults import AppRefused, BrowserGone, JudgeError, Quarantined, SessionLost
from android_env.tasks import Task
from digiq.agents.agent import Agent, Decision, EachTurn, ScriptedAgent
from digiq.agents.oracle import ExactScorer
from digiq.agents.rollout import Limits, plan_episodes, rollout
from digiq.policies.base import Candidate

GOOD, BAD = Action.tap(0.25, 0.25), Action.tap(0.75, 0.75)


def make_task(number: int, split: str = "train", max_steps: int = 6) -> Task:
    return Task(
        task_id=f"{split}/{number}", goal=f"goal {number}", family="toy", level=1, split=split, params={},
        max_steps=max_steps,
    )  # fmt: skip


class ToyEnv:
    """Three good taps succeed, COMPLETE fails; each step's noise comes from the episode seed and shows on screen."""

    made = 0

    def __init__(self, faults: dict[str, int] | None = None):
        type(self).made += 1
        self.faults = faults if faults is not None else {}
        self.closed = False

    @property
    def unwrapped(self):
        return self

    @property
    def device(self):
        return dataclasses.make_dataclass("Device", ["name", "screen_hw"])("toy", (4, 4))

    def reset(self, *, seed, options):
        self.task, self.noise = options["task"], np.random.default_rng(seed)
        self.good = self.steps = 0
        return self._observe(), {}

    def step(self, action):
        if self.faults.get(self.task.task_id, 0):
            self.faults[self.task.task_id] -= 1
            raise DeviceFault("the cable fell out")
        self.steps += 1
        self.good += action == GOOD and self.noise.random() > 0.2
        won, quit_ = self.good == 3, action == Action.complete()
        outcome = "success" if won else "failure" if quit_ else ""
        truncated = not (won or quit_) and self.steps == self.task.max_steps
        return self._observe(), float(won), won or quit_, truncated, {"outcome": outcome}

    def _observe(self):
        pixels = self.noise.integers(256, size=(4, 4, 3), dtype=np.uint8)
        return {"screenshot": pixels, "goal": self.task.goal, "activity": "", "ui_elements": "[]"}

    def close(self):
        self.closed = True


class ToyPolicy:
    """Draws GOOD, BAD or COMPLETE from each turn's own generator."""

    def sample(self, inputs, n, rng, temperature=1.0):
        rows = []
        for item, generator in zip(inputs, rng, strict=True):
            p_good = 0.4 + 0.4 * (item.screenshot[0, 0, 0] / 255)
            actions, p = [GOOD, BAD, Action.complete()], [p_good, 0.95 - p_good, 0.05]
            drawn = generator.choice(3, size=n, p=p)
            rows.append([Candidate(actions[i], math.log(p[i])) for i in drawn])
        return rows


def summarise(run):
    return run.spec.episode_id, run.outcome, run.steps, [(d.action, d.log_prob) for d in run.decisions]


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_episodes_do_not_depend_on_the_batch(batch_size, threads):
    specs = plan_episodes([make_task(i) for i in range(5)], 12, seed=3)
    reference = [summarise(r) for r in rollout(Agent(ToyPolicy()), specs, ToyEnv, batch_size=5)]
    options = {"batch_size": batch_size, "threads": threads}
    found = [summarise(r) for r in rollout(Agent(ToyPolicy()), specs, ToyEnv, **options)]
    assert found == reference
    assert len({outcome for _, outcome, _, _ in reference}) > 1
    # Resuming with the second half alone gives the same second half.
    rest = [summarise(r) for r in rollout(Agent(ToyPolicy()), specs[6:], ToyEnv, **options)]
    assert rest == reference[6:]


def test_with_threads_devices_act_at_the_same_time_and_bugs_still_surface():
    both = threading.Barrier(2)

    class Meeting(ToyEnv):
        def step(self, action):
            both.wait(timeout=60)
            return super().step(action)

    specs = plan_episodes([make_task(i) for i in range(2)], 2, seed=0)

    class Idle:
        name = "idle"

        def act(self, turns):
            return [Decision(BAD) for _ in turns]

    runs = list(rollout(Idle(), specs, Meeting, batch_size=2, threads=True))
    assert [run.outcome for run in runs] == ["truncated"] * 2

    class Buggy(ToyEnv):
        def step(self, action):
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        list(rollout(Idle(), specs, Buggy, batch_size=2, threads=True))


@pytest.mark.parametrize("declares", [{}, {"reads_device": False}, {"reads_device": True}])
def test_only_who_declares_to_read_it_gets_the_device(declares):
    seen = []

    class Looking:
        name = "looking"

        def act(self, turns):
            seen.extend(turn.device for turn in turns)
            return [Decision(GOOD) for _ in turns]

    actor = type("Declaring", (Looking,), declares)()
    list(rollout(actor, plan_episodes([make_task(0)], 2, seed=0), ToyEnv))
    assert seen and all((device is not None) == declares.get("reads_device", False) for device in seen)


def test_learned_agents_do_not_read_the_device_and_scripts_and_exact_values_do():
    assert not Agent(ToyPolicy()).reads_device and not Agent(ToyPolicy(), EachTurn(None)).reads_device
    assert Agent(ToyPolicy(), ExactScorer()).reads_device and ScriptedAgent(None, "oracle").reads_device


def test_another_seed_gives_other_episodes():
    tasks = [make_task(i) for i in range(5)]
    runs = [
        [summarise(r)[1:] for r in rollout(Agent(ToyPolicy()), plan_episodes(tasks, 10, seed), ToyEnv)]
        for seed in (0, 1)
    ]
    assert runs[0] != runs[1]


def test_no_more_envs_than_the_batch_and_all_are_closed():
    envs = []

    def make():
        envs.append(ToyEnv())
        return envs[-1]

    specs = plan_episodes([make_task(i) for i in range(5)], 11, seed=0)
    assert len(list(rollout(Agent(ToyPolicy()), specs, make, batch_size=4))) == 11
    assert len(envs) == 4 and all(env.closed for env in envs)


def test_recorded_episode_has_one_observation_more_than_actions():
    specs = plan_episodes([make_task(i) for i in range(4)], 8, seed=1)
    for run in rollout(Agent(ToyPolicy()), specs, ToyEnv):
        episode = run.episode
        assert episode is not None and episode.outcome == run.outcome
        assert len(episode.steps) == run.steps + 1
        assert [s.action for s in episode.steps] == [*(d.action for d in run.decisions), None]
        assert [s.is_first for s in episode.steps] == [True] + [False] * run.steps
        assert [s.is_last for s in episode.steps] == [False] * run.steps + [True]
        assert episode.steps[-1].is_terminal == (run.outcome != "truncated")
        assert sum(s.reward for s in episode.steps[:-1]) == (run.outcome == "success")
        terminated = run.outcome != "truncated"
        assert episode.steps[-2].discount == (0.0 if terminated else 1.0)
        assert all(s.behavior_log_prob < 0 for s in episode.steps[:-1])


def test_a_budget_of_n_is_n_executed_actions():
    class Idle(ToyPolicy):
        def sample(self, inputs, n, rng, temperature=1.0):
            return [[Candidate(BAD, 0.0)]] * len(inputs)

    (run,) = rollout(Agent(Idle()), plan_episodes([make_task(0, max_steps=6)], 1, 0), ToyEnv)
    assert (run.outcome, run.steps, len(run.episode.steps)) == ("truncated", 6, 7)


def test_a_faulted_episode_runs_again_under_its_seed_and_gives_up_at_the_cap():
    specs = plan_episodes([make_task(i) for i in range(3)], 3, seed=5)
    clean = {r.spec.episode_id: summarise(r) for r in rollout(Agent(ToyPolicy()), specs, ToyEnv)}
    flaky, broken = specs[0].task.task_id, specs[1].task.task_id
    faults = {flaky: 2, broken: 3}
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: ToyEnv(faults), infra_retries=2))
    assert summarise(runs[0]) == clean[runs[0].spec.episode_id]
    assert runs[1].outcome == "infra_error" and "the cable fell out" in runs[1].error
    assert runs[1].episode is None
    assert summarise(runs[2]) == clean[runs[2].spec.episode_id]


class GivenUp(ToyEnv):
    """A device that is given up after so many episodes."""

    def __init__(self, episodes: int):
        super().__init__()
        self.episodes = episodes

    def reset(self, **options):
        if not self.episodes:
            raise Quarantined("it never comes back")
        self.episodes -= 1
        return super().reset(**options)


def test_a_device_that_is_given_up_loses_no_episode_to_the_others():
    specs = plan_episodes([make_task(i) for i in range(6)], 6, seed=5)
    clean = [summarise(run) for run in rollout(Agent(ToyPolicy()), specs, ToyEnv)]
    envs = iter([GivenUp(1), ToyEnv(), GivenUp(0)])
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: next(envs), batch_size=3, infra_retries=0))
    assert [summarise(run) for run in runs] == clean


@pytest.mark.parametrize("batch_size", [1, 3])
def test_when_no_device_is_left_the_rest_are_infra_errors_and_none_is_dropped(batch_size):
    specs = plan_episodes([make_task(i) for i in range(6)], 6, seed=5)
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: GivenUp(1), batch_size=batch_size))
    assert [run.outcome == "infra_error" for run in runs] == [i >= batch_size for i in range(6)]
    assert all("no device is left: it never comes back" in run.error for run in runs[batch_size:])
    envs = iter([ToyEnv()])

    def fleet_of_one():
        if (env := next(envs, None)) is None:
            raise Quarantined("no further device")
        return env

    runs = list(rollout(Agent(ToyPolicy()), specs, fleet_of_one, batch_size=batch_size))
    assert len(runs) == 6 and not any(run.outcome == "infra_error" for run in runs)


def test_a_judge_that_fails_is_a_judge_error():
    class Unjudged(ToyEnv):
        def step(self, action):
            raise JudgeError("no answer")

    (run,) = rollout(Agent(ToyPolicy()), plan_episodes([make_task(0)], 1, 0), Unjudged, infra_retries=1)
    assert run.outcome == "judge_error" and run.episode is None


def test_a_refused_action_is_the_agents_failure_and_is_not_counted():
    class Strict(ToyEnv):
        def step(self, action):
            return self._observe(), 0.0, True, False, {"outcome": "failure", "refused": "not here"}

    (run,) = rollout(Agent(ToyPolicy()), plan_episodes([make_task(0)], 1, 0), Strict)
    assert (run.outcome, run.steps, run.error) == ("failure", 0, "not here")
    assert len(run.episode.steps) == 1 and run.episode.steps[0].action is None


def test_an_unparsable_answer_is_a_failure_and_is_not_run_again():
    class Babbler:
        name = "babbler"

        def __init__(self):
            self.calls = 0

        def act(self, turns):
            self.calls += 1
            error = parse_action("CLICK somewhere nice")
            assert isinstance(error, ParseError)
            return [Decision(error if turn.step == 1 else BAD) for turn in turns]

    babbler = Babbler()
    (run,) = rollout(babbler, plan_episodes([make_task(0)], 1, 0), ToyEnv)
    assert (run.outcome, run.steps, babbler.calls) == ("failure", 1, 2)
    assert run.error and len(run.episode.steps) == 2


def test_a_bug_in_the_agent_is_not_an_episode_outcome():
    class Broken(ToyPolicy):
        def sample(self, *args, **kwargs):
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        list(rollout(Agent(Broken()), plan_episodes([make_task(0)], 1, 0), ToyEnv))


def test_plan_spreads_over_splits_then_tasks_and_is_a_prefix_of_longer_plans():
    tasks = [make_task(i, "test_site") for i in range(2)] + [make_task(i, "test_query") for i in range(5)]
    plan = plan_episodes(tasks, 12, seed=2)
    assert [s.task.split for s in plan].count("test_site") == 6
    site = [s for s in plan if s.task.split == "test_site"]
    assert sorted(s.task.task_id for s in site[:2]) == ["test_site/0", "test_site/1"]
    assert [s.index for s in site] == [0, 0, 1, 1, 2, 2]
    assert plan == plan_episodes(tasks, 30, seed=2)[:12]
    assert len({s.episode_id for s in plan}) == len({s.seed for s in plan}) == 12
    with pytest.raises(ValueError, match="empty"):
        plan_episodes([], 3, seed=0)


class Late(ToyEnv):
    """Answers after a while that nobody can foresee."""

    def __init__(self, seed):
        super().__init__()
        self.late = np.random.default_rng(seed)

    def reset(self, **options):
        time.sleep(self.late.exponential(0.002))
        return super().reset(**options)

    def step(self, action):
        time.sleep(self.late.exponential(0.002))
        return super().step(action)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_latencies_give_identical_actions_and_outcomes(seed):
    specs = plan_episodes([make_task(i) for i in range(5)], 15, seed=3)
    reference = [summarise(r) for r in rollout(Agent(ToyPolicy()), specs, ToyEnv)]
    seeds = iter(range(100 * seed, 100 * seed + 99))
    options = {"batch_size": 4, "threads": True, "max_wait_s": 0.001}
    runs = rollout(Agent(ToyPolicy()), specs, lambda: Late(next(seeds)), **options)
    assert [summarise(r) for r in runs] == reference


def test_no_device_waits_for_another():
    """One device's reset lasts until the other has played everything else."""
    specs = plan_episodes([make_task(i) for i in range(8)], 8, seed=3)
    others, lock = threading.Event(), threading.Lock()
    resets, first = [], [True]

    class Hanging(ToyEnv):
        def reset(self, **options):
            with lock:
                mine, first[0] = first[0], False
            if mine:
                assert others.wait(timeout=60)
            observation = super().reset(**options)
            with lock:
                resets.append(options["options"]["task"])
                if len(resets) == 7:
                    others.set()
            return observation

    runs = list(rollout(Agent(ToyPolicy()), specs, Hanging, batch_size=2, threads=True))
    assert len(runs) == 8 and len(resets) == 8 and resets[-1] is specs[0].task


def test_scripts_are_asked_side_by_side():
    both = threading.Barrier(2)

    def choose(device, rng):
        both.wait(timeout=60)
        return GOOD, 0.0

    specs = plan_episodes([make_task(0, max_steps=2), make_task(1, max_steps=2)], 2, seed=0)
    runs = list(rollout(ScriptedAgent(choose, "s"), specs, ToyEnv, batch_size=2, threads=True))
    assert [run.steps for run in runs] == [2, 2]


@pytest.mark.parametrize("threads", [False, True])
def test_a_fault_that_a_script_meets_is_its_episodes(threads):
    left = [2]

    def choose(device, rng):
        if left[0]:
            left[0] -= 1
            raise SessionLost("while it looked at the page")
        return GOOD, 0.0

    (run,) = rollout(ScriptedAgent(choose, "s"), plan_episodes([make_task(0)], 1, 0), ToyEnv, threads=threads)
    assert run.outcome in ("success", "truncated") and run.tries == 3
    assert [text.partition(":")[0] for text in run.faults] == ["SessionLost"] * 2


class Refusing(ToyEnv):
    """Begins no task of these names."""

    asked: ClassVar[list] = []

    def __init__(self, *refused, error=AppRefused):
        super().__init__()
        self.refused, self.error = refused, error

    def reset(self, *, seed, options):
        if options["task"].task_id in self.refused:
            self.asked.append((id(self), options["task"].task_id))
            raise self.error("cannot activate 'com.typo'")
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("devices", [1, 3])
def test_a_task_that_devices_refuse_is_charged_after_the_second_one(devices, threads):
    Refusing.asked.clear()
    specs = plan_episodes([make_task(i) for i in range(6)], 6, seed=5)
    clean = {r.spec.episode_id: summarise(r) for r in rollout(Agent(ToyPolicy()), specs, ToyEnv)}
    bad = specs[1].task.task_id
    options = {"batch_size": devices, "threads": threads}
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: Refusing(bad), **options))
    assert runs[1].outcome == "task_error" and "com.typo" in runs[1].error
    assert len(Refusing.asked) == 2 and len(set(Refusing.asked)) == min(devices, 2)
    assert [summarise(r) for r in runs if r is not runs[1]] == [
        clean[r.spec.episode_id] for r in runs if r is not runs[1]
    ]


def test_a_task_that_is_none_is_charged_at_once():
    Refusing.asked.clear()
    specs = plan_episodes([make_task(0), make_task(1)], 2, seed=5)
    bad = specs[0].task.task_id
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: Refusing(bad, error=TaskError)))
    assert [r.outcome == "task_error" for r in runs] == [True, False] and len(Refusing.asked) == 1


def test_a_device_that_refuses_what_others_play_is_given_up():
    specs = plan_episodes([make_task(i) for i in range(8)], 8, seed=5)
    clean = [summarise(r) for r in rollout(Agent(ToyPolicy()), specs, ToyEnv)]
    Refusing.asked.clear()
    names = [spec.task.task_id for spec in specs]
    envs = iter([Refusing(*names), ToyEnv()])
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: next(envs), batch_size=2))
    assert [summarise(r) for r in runs] == clean
    assert len(Refusing.asked) == 3, "and after that it is asked for nothing"


class Crashing(ToyEnv):
    """Dies of a bad tap, at the second step of one task."""

    def __init__(self, task_id):
        super().__init__()
        self.task_id = task_id

    def step(self, action):
        if self.steps == 1 and self.task.task_id == self.task_id:
            raise BrowserGone("the page has crashed the browser")
        return super().step(action)


@pytest.mark.parametrize("devices", [1, 3])
def test_a_fault_that_follows_the_agents_action_everywhere_is_its_failure(devices):
    specs = plan_episodes([make_task(i) for i in range(3)], 3, seed=5)
    bad = specs[0].task.task_id
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: Crashing(bad), batch_size=devices))
    assert runs[0].outcome == "failure" and runs[0].fault == "browser_gone" and runs[0].tries == 3
    assert "its action at step 2" in runs[0].error and runs[0].steps == 1
    # Once is no evidence.
    (run,) = rollout(Agent(ToyPolicy()), specs[:1], lambda: Crashing(bad), infra_retries=0)
    assert run.outcome == "infra_error"


def test_a_device_that_comes_back_is_used_again():
    specs = plan_episodes([make_task(i) for i in range(6)], 6, seed=5)
    clean = [summarise(r) for r in rollout(Agent(ToyPolicy()), specs, ToyEnv)]

    class Away(ToyEnv):
        resets = 0

        def reset(self, **options):
            type(self).resets += 1
            if self.resets == 2:
                raise Quarantined("it is away")
            return super().reset(**options)

    options = {"batch_size": 1, "threads": True, "retry_lost_s": 0.01, "patience_s": 30.0}
    runs = list(rollout(Agent(ToyPolicy()), specs, Away, **options))
    assert [summarise(r) for r in runs] == clean and Away.resets == 7


def test_what_one_episode_may_cost_is_capped():
    specs = plan_episodes([make_task(i) for i in range(8)], 8, seed=5)
    bad = specs[3].task.task_id

    class Deadly(ToyEnv):
        def reset(self, **options):
            if options["options"]["task"].task_id == bad:
                raise Quarantined("it has burnt")
            return super().reset(**options)

    runs = list(rollout(Agent(ToyPolicy()), specs, Deadly, batch_size=4))
    assert [r.outcome == "infra_error" for r in runs] == [i == 3 for i in range(8)]
    assert "2 devices were given up on it" in runs[3].error
    faults = {bad: 99}
    limits = Limits(infra_retries=50, seconds=0.0)
    runs = list(rollout(Agent(ToyPolicy()), specs, lambda: ToyEnv(faults), limits=limits))
    assert runs[3].outcome == "infra_error" and faults[bad] == 98


def test_where_there_never_was_a_device_nobody_waits_for_one():
    def nothing():
        raise Quarantined("the fleet is empty")

    specs = plan_episodes([make_task(i) for i in range(3)], 3, seed=5)
    options = {"batch_size": 2, "threads": True, "patience_s": 600.0}
    runs = list(rollout(Agent(ToyPolicy()), specs, nothing, **options))
    assert [r.outcome for r in runs] == ["infra_error"] * 3 and "the fleet is empty" in runs[0].error
