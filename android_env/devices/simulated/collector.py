"""Scripted policies that read the phone's state: the collector of demonstrations, the oracle, and known failures.

The collector stands for a person who knows where to go but errs, and errs in the same way whenever a screen looks the
same: on each kind of screen some mistakes come naturally and one of them is the favourite. Its probabilities are
exact.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from android_env.actions import Action
from android_env.devices.simulated import kernel
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.screen import InertBox
from android_env.devices.simulated.state import NO_NOISE, AbstractAction, State

Choices = list[tuple[Action, float]]
"""Distinct actions with probabilities that sum to 1."""

MISTAKES = {
    "no_op": 20.0,
    "distractor": 7.0,
    "useless": 6.0,
    "back_home": 14.0,
    "wrong_text": 14.0,
}
"""Weights of the mistakes, before habit: nothing happens; leads astray; shows something new that helps nobody; back or
home; types something else. Where a kind is not possible the others take its place."""

COMPLETE = 0.025
"""Probability of declaring success too early, on every screen."""

SURENESS = {
    "launcher": 0.3,
    "tab": 0.26,
    "url": 0.65,
    "url typed": 0.9,
    "home": 0.3,
    "search": 0.65,
    "search typed": 0.9,
    "results": 0.3,
    "settings": 0.4,
    "switches": 0.5,
    "choices": 0.5,
    "clock": 0.4,
    "inbox": 0.4,
    "mail": 0.5,
}
"""Probability of the right action by page, of those on the way: some are hard for it, some easy."""
ELSEWHERE = 0.85
"""The same on all other pages, behind a panel, and while a page loads."""

HABIT = 3.0
"""By up to this factor a kind of mistake is more or less frequent on one screen than on the average one."""
MISTYPING = 6.0
"""Times as frequent is a wrong text where something is to be typed."""

FAVOURITE = 0.75
"""Share of the favourite among the mistakes of one kind on one screen."""

_SPOTS = ((0.5, 0.5), (0.35, 0.3), (0.35, 0.7), (0.65, 0.3), (0.65, 0.7))
"""Where in an element a finger lands, each equally likely; (y, x), fractions of the box."""


def collector(display: Display) -> Choices:
    """The distribution of the demonstrations' actions in one state."""
    return list(_collector(display.state, display.task, display.layout_seed))


def oracle(display: Display) -> Choices:
    """The kernel's oracle, with certainty; it declares COMPLETE where the goal stands."""
    return [(display.concrete(kernel.oracle(display.state, display.task)), 1.0)]


def uniform(display: Display) -> Choices:
    """Each visible element, each key, COMPLETE, and typing the last words of the goal, all equally likely."""
    last_words = " ".join(display.task.goal.split()[-2:])
    actions = [display.point(name) for name in display.reachable]
    actions += [Action.back(), Action.home(), Action.enter(), Action.complete(), Action.type_text(last_words)]
    return _gather((action, 1.0) for action in actions)


def idle(display: Display) -> Choices:
    """Taps where nothing is; never succeeds."""
    return [(display.concrete(("tap", None)), 1.0)]


def quitter(display: Display) -> Choices:
    """Declares the task complete at once; never succeeds."""
    return [(Action.complete(), 1.0)]


def homesick(display: Display) -> Choices:
    """Follows the oracle but goes home every time it has left the launcher; never succeeds."""
    return oracle(display) if display.state.page == "launcher" else [(Action.home(), 1.0)]


def mistyper(display: Display) -> Choices:
    """Follows the oracle but types the goal instead of the words it asks for; fails where something must be typed."""
    action = kernel.oracle(display.state, display.task)
    if action[0] == "type":
        action = ("enter",) if display.state.text == display.task.goal else ("type", display.task.goal)
    return [(display.concrete(action), 1.0)]


SCRIPTED: dict[str, Callable[[Display], Choices]] = {
    "collector": collector,
    "oracle": oracle,
    "random": uniform,
    "idle": idle,
    "quitter": quitter,
    "homesick": homesick,
    "mistyper": mistyper,
}
"""Scripted policies by name."""

KNOWN_FAILURES = ("idle", "quitter", "homesick")
"""Those of `SCRIPTED` that cannot succeed on any task."""


def draw(choices: Choices, rng: np.random.Generator | random.Random) -> tuple[Action, float]:
    """One action of a distribution, and its log-probability."""
    left = rng.random()
    chosen = choices[-1]
    for choice in choices:
        left -= choice[1]
        if left < 0:
            chosen = choice
            break
    return chosen[0], math.log(chosen[1])


def collector_policy(phone: SimulatedPhone, rng: np.random.Generator | random.Random) -> tuple[Action, float]:
    """The collector's action on a phone, and its exact log-probability."""
    return draw(collector(phone.display), rng)


def oracle_policy(phone: SimulatedPhone, rng: np.random.Generator | random.Random) -> tuple[Action, float]:
    """The oracle's action on a phone, and 0."""
    return draw(oracle(phone.display), rng)


def random_policy(phone: SimulatedPhone, rng: np.random.Generator | random.Random) -> tuple[Action, float]:
    """An action of `uniform` on a phone, and its log-probability."""
    return draw(uniform(phone.display), rng)


def mistakes(display: Display) -> dict[str, list[AbstractAction]]:
    """The mistakes that can be made in a state, by kind: the keys of `MISTAKES`, and `complete`."""
    state, task = display.state, display.task
    best = kernel.oracle(state, task)
    after_best = _after(display, best)
    kinds: dict[str, list[AbstractAction]] = {kind: [] for kind in (*MISTAKES, "complete")}
    useless = kernel.family_of(task).USELESS
    for name in display.reachable:
        action = ("tap", name)
        after = _after(display, action)
        if action == best or after == after_best:
            continue
        if after == state:
            kinds["no_op"].append(action)
        elif name.partition("-")[0] in useless:
            kinds["useless"].append(action)
        else:
            kinds["distractor"].append(action)
    if best != ("tap", None):
        kinds["no_op"].append(("tap", None))
    if state.loading:  # whatever is tapped, the page goes on loading
        kinds["no_op"] = [("tap", None)]
    for direction in ("up", "down"):
        if _after(display, ("swipe", direction)) not in (state, after_best):
            kinds["useless"].append(("swipe", direction))
    kinds["back_home"] = [a for a in (("back",), ("home",)) if _after(display, a) not in (state, after_best)]
    if state.text is not None and not state.loading:
        kinds["wrong_text"] = [("type", text) for text in wrong_texts(state, task.goal, best)]
        if state.text and best[0] == "type":
            kinds["distractor"].append(("enter",))
    kinds["complete"] = [("complete",)] if best != ("complete",) else []
    return {kind: actions for kind, actions in kinds.items() if actions}


def wrong_texts(state: State, goal: str, best: AbstractAction) -> list[str]:
    """What is typed by mistake: other spans of the goal, never what is asked for or what stands there already."""
    bounds = [match.span() for match in re.finditer(r"[^\s,]+", goal)]
    last = len(bounds) - 1
    spans = ((last, last), (last - 1, last), (0, 0), (1, min(2, last)), (0, last))
    texts = [goal[bounds[i][0] : bounds[j][1]] for i, j in spans]
    right = str(best[1]) if best[0] == "type" else (state.text or "")
    taken = {right.lower(), (state.text or "").lower()}
    return [text for text in dict.fromkeys(texts) if text.lower() not in taken]


def _after(display: Display, action: AbstractAction) -> State:
    return kernel.outcomes(display.state, action, display.task, NO_NOISE)[0][1]


def _sureness(display: Display) -> float:
    state = display.state
    if state.loading or state.overlay:
        return ELSEWHERE
    return SURENESS.get(f"{state.page} typed" if state.text else state.page, ELSEWHERE)


@lru_cache(maxsize=8192)
def _collector(state: State, task, layout_seed: int) -> tuple[tuple[Action, float], ...]:
    display = Display(state, task, layout_seed)
    best = kernel.oracle(state, task)
    screen = f"{display.screen.app}/{display.screen.template}/{'typed' if state.text else ''}/{state.overlay}"
    kinds = mistakes(display)
    sure = _sureness(display)
    habits = {k: share * HABIT ** (2 * _habit(screen, k) - 1) for k, share in MISTAKES.items() if k in kinds}
    if best[0] == "type" and "wrong_text" in habits:
        habits["wrong_text"] *= MISTYPING
    scale = (1 - sure - COMPLETE) / sum(habits.values())
    weights = {**{kind: scale * habit for kind, habit in habits.items()}, "complete": COMPLETE}
    shares: list[tuple[AbstractAction, float]] = [(best, sure)]
    for kind, actions in kinds.items():
        favourite = max(actions, key=lambda action: _habit(screen, kind, action))
        for action in actions:
            share = (1 - FAVOURITE) / len(actions) + (FAVOURITE if action == favourite else 0.0)
            shares.append((action, weights.get(kind, 0.0) * share))
    return tuple(_gather(part for action, p in shares for part in _fingers(display, action, p, screen)))


def _fingers(display: Display, action: AbstractAction, p: float, screen: str) -> list[tuple[Action, float]]:
    """The concrete actions an abstract one turns into: a tap lands on one of five spots of the element."""
    match action:
        case ("tap", None):
            return [(_nowhere(display, screen), p)]
        case ("tap", element):
            return [(display.point(element, y, x), p / len(_SPOTS)) for y, x in _SPOTS]
    return [(display.concrete(action), p)]


def _nowhere(display: Display, screen: str) -> Action:
    """A tap on something that does not react, the same whenever the screen looks the same."""
    inert = [
        name
        for name, box in display.boxes.items()
        if isinstance(box, InertBox) and name not in ("_scrim", "_loading", "keyboard")
    ]
    inert.sort(key=lambda name: _habit(screen, "nowhere", name))
    for name in inert:
        action = display.point(name)
        if display.resolve(action) == ("tap", None):
            return action
    return display.concrete(("tap", None))


def _habit(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=7).digest(), "big") / 2**56


def _gather(choices: Iterable[tuple[Action, float]]) -> Choices:
    """Adds up equal actions, and makes the probabilities sum to 1."""
    total: dict[Action, float] = {}
    for action, p in choices:
        total[action] = total.get(action, 0.0) + p
    whole = sum(total.values())
    return [(action, p / whole) for action, p in total.items()]


def shares(display: Display) -> dict[str, float]:
    """Probability of each kind of action in a state: `right`, the kinds of `MISTAKES`, or `fine` for another good one.

    For looking at a collector, not for running one.
    """
    kinds = mistakes(display)
    best = kernel.oracle(display.state, display.task)
    found: dict[str, float] = {}
    for action, p in collector(display):
        abstract = display.resolve(action)
        kind = next((k for k, actions in kinds.items() if abstract in actions), "fine")
        kind = "right" if abstract == best else kind
        found[kind] = found.get(kind, 0.0) + p
    return found
