"""Exact success and Q of a memoryless policy on the simulated phone, by backward induction over (state, step).

One episode seed means one layout, so the phone is a finite Markov decision process with known probabilities. The policy
is queried once for each state it can reach. There are no rollouts and no sampling error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np

from android_env.actions import Action
from android_env.devices import Observation
from android_env.devices.simulated import kernel
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.phone import SuccessRule
from android_env.devices.simulated.state import NOISE, AbstractAction, NoiseConfig, State
from android_env.tasks.task import Task

PolicyFn = Callable[[list[Observation]], Sequence[Sequence[tuple[Action, float]]]]
"""Maps B observations to B lists of (action, probability). A list's probabilities may sum to less than 1 (top-k
support); they are then normalised."""
Distribution = Callable[[Display], Sequence[tuple[Action, float]]]
"""A scripted policy, which reads the state instead of the pixels."""
MAX_STATES = 50_000
"""Exploring more states than this is refused, since the policy then types an endless number of texts."""
StatePolicy = Callable[[list[Display]], Sequence[Sequence[tuple[Action, float]]]]


def seeing(policy_fn: PolicyFn) -> StatePolicy:
    """Turns a policy over observations into one over displays, by rendering each display."""
    return lambda displays: policy_fn([display.observe() for display in displays])


def reading(distribution: Distribution) -> StatePolicy:
    """Turns a scripted policy into one over batches of displays."""
    return lambda displays: [distribution(display) for display in displays]


def exact_success(
    policy_fn: PolicyFn,
    task: Task,
    layout_seed: int,
    *,
    noise: NoiseConfig = NOISE,
    success: SuccessRule = "on_reach",
    max_steps: int | None = None,
) -> float:
    """The probability that the policy's episode ends in success.

    Args:
        policy_fn: a policy that reads the current observation only, queried in batches.
        task: the task.
        layout_seed: the episode's layout seed, `phone.layout_seed_of(seed)`.
        noise: the mishaps that occur.
        success: when an episode counts as a success (see `SimulatedPhone`).
        max_steps: actions that an episode may execute; the task's own budget if None.
    """
    values = exact_q(policy_fn, task, layout_seed, noise=noise, success=success, max_steps=max_steps)
    return values.success


def exact_q(
    policy_fn: PolicyFn,
    task: Task,
    layout_seed: int,
    *,
    noise: NoiseConfig = NOISE,
    success: SuccessRule = "on_reach",
    max_steps: int | None = None,
    discount: float = 1.0,
) -> ExactValues:
    """The values of a policy in every state it can reach at every step; see `exact_success` and `ExactValues`."""
    return ExactValues(
        seeing(policy_fn),
        task,
        layout_seed,
        noise=noise,
        success=success,
        max_steps=max_steps,
        discount=discount,
    )


def optimal_q(
    task: Task,
    layout_seed: int,
    *,
    noise: NoiseConfig = NOISE,
    success: SuccessRule = "on_reach",
    max_steps: int | None = None,
    discount: float = 1.0,
) -> ExactValues:
    """The values of the optimal policy, which knows the state and the step.

    It chooses among taps on every visible element, the keys, both declarations, swipes, and typing what the task names.
    """
    return ExactValues(
        None, task, layout_seed, noise=noise, success=success, max_steps=max_steps, discount=discount
    )


class ExactValues:
    """V and Q of one policy on one task under one layout; the reward is 1 for success and 0 otherwise.

    States that the policy does not reach by itself are explored when they are first queried, so Q is available for any
    action in any state.

    Args:
        policy: a policy over displays (`seeing`, `reading`); None for the optimal policy.
        discount: γ; success at the k-th action from here is worth γ^(k-1).
        task, layout_seed, noise, success, max_steps: as for `exact_success`.
    """

    def __init__(
        self,
        policy: StatePolicy | None,
        task: Task,
        layout_seed: int,
        *,
        noise: NoiseConfig = NOISE,
        success: SuccessRule = "on_reach",
        max_steps: int | None = None,
        discount: float = 1.0,
    ) -> None:
        self.task, self.layout_seed, self.noise = task, layout_seed, noise
        self.max_steps = task.max_steps if max_steps is None else max_steps
        self.discount = discount
        self._success: SuccessRule = success
        self._policy = policy
        self._index: dict[State, int] = {}
        self._ends: list[float] = []  # 1 success, 0 failure, nan for a non-terminal state
        # One row for each (state, abstract action) of the policy; one link for each next state of a row.
        self._row_state: list[int] = []
        self._row_weight: list[float] = []
        self._link_row: list[int] = []
        self._link_next: list[int] = []
        self._link_p: list[float] = []
        self._explore([kernel.start(task)])

    @property
    def success(self) -> float:
        """The value of the initial state; with discount 1, the probability of success."""
        return self.v(kernel.start(self.task), 0)

    @property
    def states(self) -> tuple[State, ...]:
        """The states explored so far; the initial state comes first."""
        return tuple(self._index)

    def v(self, state: State, step: int) -> float:
        """The value of a state after `step` executed actions."""
        self._explore([state])
        return float(self._table[min(step, self.max_steps)][self._index[state]])

    def q(self, state: State, action: Action | AbstractAction, step: int) -> float:
        """The value of taking `action` in `state` as action number `step` (from 0), then following the policy."""
        if isinstance(action, Action):
            action = Display(state, self.task, self.layout_seed).resolve(action)
        if step >= self.max_steps or kernel.verdict(state, self.task, self._success):
            return self.v(state, step)
        reached = kernel.outcomes(state, action, self.task, self.noise)
        self._explore([after for _, after in reached])
        arrival = self._arrival(self._table[step + 1])
        return float(sum(p * arrival[self._index[after]] for p, after in reached))

    def occupancy(self) -> dict[State, float]:
        """The expected number of times per episode that the policy acts in each state.

        Raises:
            ValueError: the policy is the optimal one, whose choice depends on the step.
        """
        if self._policy is None:
            raise ValueError("occupancy is known only for a given policy, not for the optimal one.")
        rows, weights, links, nexts, p = self._arrays
        here = np.zeros(len(self._index))
        here[self._index[kernel.start(self.task)]] = 1.0
        going = np.isnan(self._ends)
        visits = np.zeros_like(here)
        for _ in range(self.max_steps):
            here = here * going
            visits += here
            here = np.bincount(nexts, (here[rows] * weights)[links] * p, minlength=len(here))
        return {state: float(n) for state, n in zip(self._index, visits, strict=True) if n > 0}

    def _arrival(self, values: np.ndarray) -> np.ndarray:
        """The value of arriving in each state: the reward, or the discounted value."""
        ends = np.asarray(self._ends)
        return np.where(np.isnan(ends), self.discount * values, ends)

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        return (
            np.asarray(self._row_state, np.intp),
            np.asarray(self._row_weight),
            np.asarray(self._link_row, np.intp),
            np.asarray(self._link_next, np.intp),
            np.asarray(self._link_p),
        )

    @cached_property
    def _table(self) -> np.ndarray:
        """V, float64[max_steps + 1, states]."""
        rows, weights, links, nexts, p = self._arrays
        count = len(self._index)
        table = np.zeros((self.max_steps + 1, count))
        ends = np.asarray(self._ends)
        table[:, ends == 1] = 1.0
        for step in reversed(range(self.max_steps)):
            q = np.bincount(links, p * self._arrival(table[step + 1])[nexts], minlength=len(rows))
            if self._policy is None:
                best = np.zeros(count)
                np.maximum.at(best, rows, q)
                table[step] = np.where(np.isnan(ends), best, table[step])
            else:
                table[step] += np.bincount(rows, weights * q, minlength=count)
        return table

    def _explore(self, roots: Iterable[State]) -> None:
        frontier = [state for state in dict.fromkeys(roots) if state not in self._index]
        if not frontier:
            return
        self.__dict__.pop("_table", None)
        self.__dict__.pop("_arrays", None)
        self._number(frontier)
        while going := [s for s in frontier if np.isnan(self._ends[self._index[s]])]:
            if len(self._index) > MAX_STATES:
                raise ValueError(
                    f"task {self.task.task_id!r}: the policy reaches more than {MAX_STATES} states; "
                    "give it a smaller support."
                )
            frontier = []
            for state, choices in zip(going, self._ask(going), strict=True):
                for action, weight in choices.items():
                    row = len(self._row_state)
                    self._row_state.append(self._index[state])
                    self._row_weight.append(weight)
                    for p, after in kernel.outcomes(state, action, self.task, self.noise):
                        if after not in self._index:
                            self._number([after])
                            frontier.append(after)
                        self._link_row.append(row)
                        self._link_next.append(self._index[after])
                        self._link_p.append(p)

    def _number(self, states: Iterable[State]) -> None:
        for state in states:
            self._index[state] = len(self._index)
            verdict = kernel.verdict(state, self.task, self._success)
            self._ends.append({"success": 1.0, "failure": 0.0, None: np.nan}[verdict])

    def _ask(self, states: Sequence[State]) -> list[dict[AbstractAction, float]]:
        """The policy's distribution over abstract actions in each state."""
        displays = [Display(state, self.task, self.layout_seed) for state in states]
        if self._policy is None:
            return [dict.fromkeys(self._options(display), 1.0) for display in displays]
        answers = []
        for display, choices in zip(displays, self._policy(displays), strict=True):
            total = sum(p for _, p in choices)
            if not total > 0:
                raise ValueError(
                    f"the policy gave no action a positive probability on {display.screen.template!r}."
                )
            merged: dict[AbstractAction, float] = {}
            for action, p in choices:
                key = display.resolve(action)
                merged[key] = merged.get(key, 0.0) + p / total
            answers.append(merged)
        return answers

    def _options(self, display: Display) -> list[AbstractAction]:
        options: list[AbstractAction] = [("tap", name) for name in display.reachable]
        options += [("tap", None), ("back",), ("home",), ("enter",), ("complete",)]
        options += [("swipe", "up"), ("swipe", "down")]
        if display.state.text is not None:
            options += [("type", text) for text in self.task.params.values()]
        return options
