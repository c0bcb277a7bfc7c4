"""The simulated phone as a finite Markov decision process: every probability is written out in `outcomes`.

The kernel never sees pixels or coordinates; taps arrive as element ids. One module a family holds its pages and its
own mishaps, here is what they share: declarations, spinners, dropped taps.
"""

from __future__ import annotations

from types import ModuleType

from android_env.devices import Verdict
from android_env.devices.simulated import general, webshop
from android_env.devices.simulated.screen import Screen
from android_env.devices.simulated.state import (
    NO_NOISE,
    NOISE,
    AbstractAction,
    NoiseConfig,
    Outcomes,
    State,
    either,
    merge,
    sure,
)
from android_env.errors import TaskError
from android_env.tasks.task import Task

__all__ = [
    "NOISE",
    "NO_NOISE",
    "AbstractAction",
    "NoiseConfig",
    "Outcomes",
    "State",
    "is_success",
    "oracle",
    "outcomes",
    "screen",
    "solve",
    "start",
    "verdict",
]

FAMILIES: dict[str, ModuleType] = {"webshop": webshop, "general": general}
"""Modules with `start`, `screen`, `step`, `oracle`, `is_success` and `USELESS`."""


def family_of(task: Task) -> ModuleType:
    """The module that plays the task.

    Raises:
        TaskError: the simulated phone does not know the task's family.
    """
    try:
        return FAMILIES[task.family]
    except KeyError:
        known = ", ".join(FAMILIES)
        raise TaskError(
            f"task {task.task_id!r} is of family {task.family!r}; the simulated phone plays: {known}."
        ) from None


def start(task: Task) -> State:
    """The first state of every episode of the task."""
    return family_of(task).start(task)


def screen(state: State, task: Task) -> Screen:
    """What a state shows."""
    return family_of(task).screen(state, task)


def is_success(state: State, task: Task) -> bool:
    """Whether the state fulfils the goal, whatever has been declared."""
    return family_of(task).is_success(state, task)


def verdict(state: State, task: Task, success: str) -> Verdict | None:
    """Whether and how the episode ends in this state.

    Args:
        state: the state reached.
        task: what was to be done.
        success: `on_reach`: reaching the goal ends the episode (Android in the Wild). `on_declare`: the agent must
            declare the task complete while the goal stands (AndroidWorld). Any other declaration is a failure.
    """
    if not state.declared:
        return "success" if success == "on_reach" and is_success(state, task) else None
    return "success" if state.declared == "complete" and is_success(state, task) else "failure"


def outcomes(state: State, action: AbstractAction, task: Task, noise: NoiseConfig) -> Outcomes:
    """The distribution over next states. All randomness of the simulated phone is here.

    Args:
        state: any state of the task.
        action: an abstract action; one that does nothing here (a tap on nothing, text without a focused field) is
            allowed and leaves the state as it is.
        task: what the episode is about.
        noise: mishaps in force.

    Returns:
        Next states with probabilities that sum to 1; each state once.
    """
    kind = action[0]
    if state.declared:
        return sure(state)
    if kind in ("complete", "impossible"):
        return sure(state._replace(declared=kind))
    if state.loading:
        state = state._replace(loading=False)
        if kind != "home":
            return sure(state)
    reached = family_of(task).step(state, action, task, noise)
    slow = noise.p("slow_load")
    if slow:
        reached = merge(
            part
            for p, after in reached
            for part in (
                ((p * slow, after._replace(loading=True)), (p * (1 - slow), after))
                if _is_load(state, after)
                else ((p, after),)
            )
        )
    if kind == "tap" and action[1] is not None:
        return either(noise.p("dropped_tap"), sure(state), reached)
    return reached


def oracle(state: State, task: Task) -> AbstractAction:
    """A good action in any state, found by rules that know the goal; COMPLETE where the goal stands."""
    return family_of(task).oracle(state, task)


def solve(task: Task) -> list[AbstractAction]:
    """The oracle's actions from the start to the goal when nothing goes wrong, without a final COMPLETE.

    Raises:
        TaskError: the oracle does not reach the goal within the task's budget.
    """
    state, actions = start(task), []
    while not is_success(state, task):
        if len(actions) == task.max_steps:
            raise TaskError(f"task {task.task_id!r} cannot be solved within {task.max_steps} steps.")
        actions.append(oracle(state, task))
        ((_, state),) = outcomes(state, actions[-1], task, NO_NOISE)
    return actions


# Pages of the phone itself that appear at once.
_INSTANT = frozenset({"launcher", "url", "search"})


def _is_load(before: State, after: State) -> bool:
    """Whether a new page has to be fetched."""
    return (before.page, before.place) != (after.page, after.place) and after.page not in _INSTANT
