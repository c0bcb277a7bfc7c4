"""Speed of the simulated phone: steps per second without rendering, milliseconds to render a screen.

It runs on one core, in one process. Each figure is printed with a bound: for steps, calling an empty device through the
same environment; for rendering, copying as many pixels as a screen has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from android_env.actions import Action
from android_env.devices.simulated.collector import collector, draw
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.exact import ExactValues, reading
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.env import AndroidEnv
from android_env.tasks import load_tasks


class EmptyDevice:
    """A device that does nothing, to measure the cost of the environment alone."""

    name, screen_hw = "empty", (320, 192)

    def __init__(self) -> None:
        self._phone = SimulatedPhone(render=False)

    def reset(self, task, *, seed):
        self._seen = self._phone.reset(task, seed=seed)
        return self._seen

    def execute(self, action):
        pass

    def observe(self):
        return self._seen

    def verdict(self):
        return None

    def close(self):
        pass


def recorded_actions(episodes: int) -> list[tuple[int, list[Action]]]:
    """Task numbers with the collector's actions, recorded so that choosing them is not timed."""
    tasks, phone, rng = load_tasks("webshop/train"), SimulatedPhone(render=False), np.random.default_rng(0)
    recorded = []
    for seed in range(episodes):
        index, actions = seed % len(tasks), []
        phone.reset(tasks[index], seed=seed)
        while phone.verdict() is None and len(actions) < tasks[index].max_steps:
            actions.append(draw(collector(phone.display), rng)[0])
            phone.execute(actions[-1])
        recorded.append((index, actions))
    return recorded


def steps_per_second(env: AndroidEnv, recorded: list[tuple[int, list[Action]]]) -> float:
    """Replays the recording through the environment, including resets."""
    steps, start = 0, time.perf_counter()
    for seed, (index, actions) in enumerate(recorded):
        env.reset(seed=seed, options={"task": env.tasks[index]})
        for action in actions:
            env.step(action)
        steps += len(actions)
    return steps / (time.perf_counter() - start)


def milliseconds(work: Callable[[Display], object], displays: list[Display]) -> float:
    """Mean time of `work` per screen."""
    start = time.perf_counter()
    for display in displays:
        work(display)
    return 1000 * (time.perf_counter() - start) / len(displays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer episodes and repetitions")
    quick = parser.parse_args().quick
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    tasks = load_tasks("webshop/train")
    recorded = recorded_actions(60 if quick else 400)
    repeats = 3 if quick else 9
    speed, empty = [], []
    for _ in range(repeats):  # interleaved, so that both run under the same load
        speed.append(steps_per_second(AndroidEnv(SimulatedPhone(render=False), tasks), recorded))
        empty.append(steps_per_second(AndroidEnv(EmptyDevice(), tasks), recorded))

    task = tasks.where(level=3)[0]
    states = ExactValues(reading(collector), task, 0).states[:: 8 if quick else 2]
    render, copy = [], []
    for layout_seed in range(repeats):
        displays = [Display(state, task, layout_seed) for state in states]
        for display in displays:
            _ = display.boxes  # placing the elements is part of a step, not of drawing
        render.append(milliseconds(lambda display: display.observe(), displays))
        pixels = np.zeros((*SimulatedPhone.screen_hw, 3), np.uint8)
        copy.append(milliseconds(lambda display, pixels=pixels: pixels.copy(), displays))

    metrics = {
        "steps_per_second": statistics.median(speed),
        "empty_device_steps_per_second": statistics.median(empty),
        "render_ms": statistics.median(render),
        "copy_pixels_ms": statistics.median(copy),
    }
    print(f"{'':28}{'measured':>12}{'bound':>12}")
    print(
        f"{'steps a second, one core':28}{metrics['steps_per_second']:12,.0f}{metrics['empty_device_steps_per_second']:12,.0f}"
    )
    print(f"{'render a screen, ms':28}{metrics['render_ms']:12.2f}{metrics['copy_pixels_ms']:12.4f}")
    print(
        f"{len(recorded)} episodes, {sum(len(a) for _, a in recorded)} steps, {len(states)} screens; medians of {repeats}"
    )
    result = {
        "benchmark": "simulated_phone",
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, one used",
        "versions": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("numpy", "pillow", "gymnasium")},
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
