"""What the kernel's families share: states, abstract actions, noise, distributions over next states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

AbstractAction = tuple[Any, ...]
"""An action with its place resolved: `("tap", element id or None)`, `("swipe", finger direction)`, `("type", text)`,
`("back",)`, `("home",)`, `("enter",)`, `("complete",)` or `("impossible",)`."""


class State(NamedTuple):
    """Everything the simulated phone knows between two actions, apart from the task. All that matters is on screen."""

    page: str
    """Kind of screen."""
    place: str = ""
    """The site or app it belongs to."""
    query: str = ""
    """What has been searched for, or which entry is open."""
    text: str | None = None
    """Content of the focused field; None when no field has the focus."""
    view: str = ""
    """Part of the page: the product opened, how far it is scrolled, a row's details."""
    facts: frozenset[str] = frozenset()
    """What has been switched, set, sent or deleted."""
    overlay: str = ""
    """The panel in front of the page, if any."""
    loading: bool = False
    """A spinner covers the page, and all but the home key is lost."""
    declared: str = ""
    """`complete` or `impossible` once the agent has said so; nothing happens after that."""


Outcomes = tuple[tuple[float, State], ...]
"""Next states with their probabilities, which sum to 1; each state once."""


@dataclass(frozen=True)
class NoiseConfig:
    """How the simulated phone misbehaves; probabilities, each multiplied by `scale`.

    Raises:
        ValueError: a field is negative, or a probability is above 1.
    """

    scale: float = 1.0
    """Multiplies every probability below, which is then cut at 1; 0 switches all noise off."""
    dropped_tap: float = 0.05
    """A tap that would do something does nothing."""
    slow_load: float = 0.15
    """A new page first shows a spinner, which takes one action to go away."""
    popup: float = 0.05
    """A page of a site comes with a promotion in front."""
    cookie_wall: float = 1.0
    """Multiplies each site's own probability (0.1 to 0.6) of greeting with a cookie wall."""
    dead_link: float = 0.03
    """A link leads to an advertisement."""
    sponsored: float = 0.4
    """A sponsored entry stands before the first organic one."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (field.name != "scale" and value > 1):
                raise ValueError(
                    f"noise {field.name} is {value}; use a number from 0 to 1 (scale may exceed 1)."
                )

    def p(self, name: str, factor: float = 1.0) -> float:
        """The probability in force of the noise called `name`, times `factor`."""
        return min(1.0, self.scale * getattr(self, name) * factor)


NOISE = NoiseConfig()
"""The ordinary mishaps."""
NO_NOISE = NoiseConfig(scale=0.0)


def sure(state: State) -> Outcomes:
    """The certain next state."""
    return ((1.0, state),)


def either(p: float, yes: Outcomes, no: Outcomes) -> Outcomes:
    """`yes` with probability `p`, else `no`."""
    return merge([*((p * q, s) for q, s in yes), *((q - p * q, s) for q, s in no)])


def merge(outcomes: Iterable[tuple[float, State]]) -> Outcomes:
    """Adds up the probabilities of equal states and leaves out the impossible ones."""
    total: dict[State, float] = {}
    for p, state in outcomes:
        if p > 0:
            total[state] = total.get(state, 0.0) + p
    return tuple((p, state) for state, p in total.items())
