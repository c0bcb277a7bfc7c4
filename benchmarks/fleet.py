"""How well a fleet uses its devices' time when some steps are slow and devices fail.

Six devices play episodes by a script of latencies that is drawn beforehand. A step takes about 0.1 s, one in ten takes
ten times as long, and a reset takes about 0.3 s. With a given probability an episode meets a fault at a random step of
its first try; the device then needs a recovery of about 1.5 s before it can begin again. Time is real, but everything
takes a twentieth of the time that it takes on a phone.

``goodput_of_bound``   device-seconds that finished episodes were scheduled to take, over (devices × time); the bound
                       adds the least recovery and the lost part of each faulted try, both known from the script, so
                       no scheduler can exceed 1.
``vs_lockstep``        time of the same episodes in lockstep, each round as long as its slowest step, over this time.
``lost``, ``hung``     episodes without a result; episodes whose result did not come within a minute of the last.
``twice``              episodes that were played to their end more than once.

    .venv/bin/python benchmarks/fleet.py
    .venv/bin/python benchmarks/fleet.py --quick

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from android_env.actions import Action
from android_env.faults import SessionLost
from android_env.tasks import Task
from digiq.agents.agent import Decision
from digiq.agents.rollout import EpisodeSpec, rollout

DEVICES = 6
PACE = 0.05
"""The benchmark's seconds per second of a phone."""
STEP_S, SLOW_S, RESET_S, RECOVERY_S = 2.0, 20.0, 6.0, 30.0
"""Durations on a phone, seconds."""
SLOW = 0.1
"""Share of slow steps."""
RATES = (0.0, 0.05, 0.15, 0.30)


@dataclass(frozen=True)
class Script:
    """The durations of one episode, in the benchmark's seconds."""

    reset_s: float
    steps_s: tuple[float, ...]
    fault_at: int | None
    """The step before which its first try fails; None: no fault."""
    recovery_s: float

    @property
    def wasted_s(self) -> float:
        """Device time that the fault costs at least: the first try up to the fault, and the recovery."""
        if self.fault_at is None:
            return 0.0
        return self.reset_s + sum(self.steps_s[: self.fault_at]) + self.recovery_s

    @property
    def useful_s(self) -> float:
        return self.reset_s + sum(self.steps_s)


def scripts(episodes: int, rate: float, seed: int) -> list[Script]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(episodes):
        steps = int(rng.integers(5, 16))
        base = np.where(rng.random(steps) < SLOW, SLOW_S, STEP_S) * rng.lognormal(0, 0.25, steps)
        fault = int(rng.integers(steps)) if rng.random() < rate else None
        reset, recovery = RESET_S * rng.lognormal(0, 0.25), RECOVERY_S * rng.lognormal(0, 0.25)
        made.append(Script(PACE * reset, tuple(PACE * base), fault, PACE * recovery))
    return made


class World:
    """The script that all devices play, and counts of tries and finished episodes."""

    def __init__(self, made: list[Script]) -> None:
        self.made = made
        self.tries: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.lock = threading.Lock()


class ScriptedEnv:
    """An environment whose calls take the scripted time."""

    def __init__(self, world: World) -> None:
        self.world, self.recovery_s = world, 0.0
        self.device = SimpleNamespace(name="scripted", screen_hw=(8, 8))
        self.seen = {"screenshot": np.zeros((8, 8, 3), np.uint8), "activity": "", "ui_elements": "[]"}

    @property
    def unwrapped(self) -> ScriptedEnv:
        return self

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        time.sleep(self.recovery_s)  # the repair left over from the previous fault
        self.recovery_s = 0.0
        self.number, self.step_number = seed, 0
        with self.world.lock:
            self.first = self.world.tries[seed] == 0
            self.world.tries[seed] += 1
        time.sleep(self.world.made[seed].reset_s)
        return {**self.seen, "goal": options["task"].goal}, {}

    def step(self, action: Action) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        script = self.world.made[self.number]
        if self.first and script.fault_at == self.step_number:
            self.recovery_s = script.recovery_s
            raise SessionLost("by the script")
        time.sleep(script.steps_s[self.step_number])
        self.step_number += 1
        done = self.step_number == len(script.steps_s)
        if done:
            with self.world.lock:
                self.world.ended[self.number] += 1
        return {**self.seen, "goal": ""}, float(done), done, False, {"outcome": "success" if done else ""}

    def close(self) -> None:
        pass


class Policy:
    """Answers a batch in the time that a small network would take."""

    name = "policy"

    def act(self, turns: Any) -> list[Decision]:
        time.sleep(PACE * 0.05)
        return [Decision(Action.home()) for _ in turns]


def lockstep_s(made: list[Script]) -> float:
    """Total time if every round takes as long as its slowest device."""
    waiting = [(script, script.fault_at) for script in made]
    running: list[list[Any]] = []
    total = 0.0
    while waiting or running:
        starting = []
        while waiting and len(running) + len(starting) < DEVICES:
            script, fault = waiting.pop(0)
            starting.append([script, fault, 0])
        total += max((script.reset_s for script, _, _ in starting), default=0.0)
        running += starting
        still, took = [], 0.0
        for item in running:
            script, fault, at = item
            if fault == at:
                took = max(took, script.recovery_s)
                waiting.insert(0, (script, None))
                continue
            took = max(took, script.steps_s[at])
            item[2] += 1
            if item[2] < len(script.steps_s):
                still.append(item)
        total += took + PACE * 0.05
        running = still
    return total


def measure(episodes: int, rate: float, seed: int) -> dict[str, float]:
    made = scripts(episodes, rate, seed)
    world = World(made)
    task = Task("fleet/1", "play", "fleet", 1, "train", {}, 99)
    specs = [EpisodeSpec(task, number, number) for number in range(episodes)]
    start, results, hung, last = time.monotonic(), 0, 0, time.monotonic()
    runs = rollout(
        Policy(),
        specs,
        lambda: ScriptedEnv(world),
        batch_size=DEVICES,
        record=lambda spec: False,
        threads=True,
        max_wait_s=PACE * 0.02,
    )
    for run in runs:
        now = time.monotonic()
        hung += now - last > 60
        last = now
        results += run.outcome == "success"
    took = time.monotonic() - start
    bound = sum(script.useful_s + script.wasted_s for script in made) / DEVICES
    return {
        "goodput_of_bound": bound / took,
        "vs_lockstep": lockstep_s(made) / took,
        "lost": episodes - results,
        "hung": hung,
        "twice": sum(count > 1 for count in world.ended.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer episodes")
    episodes = 120 if parser.parse_args().quick else 360
    names = ("goodput_of_bound", "vs_lockstep", "lost", "hung", "twice")
    print(f"{'faults an episode':20}" + "".join(f"{name:>18}" for name in names))
    metrics = {}
    for rate in RATES:
        row = measure(episodes, rate, seed=int(1000 * rate))
        print(f"{rate:<20.0%}" + "".join(f"{row[name]:18.3g}" for name in names), flush=True)
        metrics |= {f"{name}_at_{100 * rate:.0f}": round(float(value), 4) for name, value in row.items()}
    worst = {"goodput_of_bound": min, "vs_lockstep": min, "lost": max, "hung": max}
    for name, pick in worst.items():
        metrics[name] = pick(metrics[f"{name}_at_{100 * rate:.0f}"] for rate in RATES)
    result = {
        "benchmark": "fleet",
        "metrics": metrics,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
