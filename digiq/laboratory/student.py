"""A policy without pixels, for studies of what is imitated: it fits and plays in seconds, the real one in a minute.

It reads the device's own elements and chooses among the actions that a screen offers: a tap on each reachable element,
a tap on nothing, the keys, swipes, both declarations, and texts that are spans of the goal. A small network scores each
action by its features (:mod:`digiq.laboratory.elements`). So neither perception nor coordinates limit it, only the
data that it imitates.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from android_env.actions import Action
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.devices.simulated.state import AbstractAction
from digiq.agents.rollout import EpisodeSpec
from digiq.laboratory.arcade import Looks, play
from digiq.laboratory.elements import action_features, observation_features

_HIDDEN = 64
_CHUNK = 50  # updates compiled as one scan
_LONGEST = 2  # words in a span of the goal that may be typed, besides the task's own texts


class Shown(NamedTuple):
    """The actions that a screen offers."""

    actions: tuple[AbstractAction, ...]
    """The K actions."""
    features: npt.NDArray[np.float16]
    """Features of the actions, [K, D]."""
    screen: str
    """The kind of screen."""


def look(display: Display, extra: Iterable[Action] = ()) -> Shown:
    """The actions that a screen offers, and the ``extra`` ones."""
    words = display.task.goal.split()
    texts: list[str] = list(display.task.params.values())
    if display.state.text is not None:
        spans = (words[i : i + n] for n in range(1, _LONGEST + 1) for i in range(len(words) - n + 1))
        texts += [" ".join(span) for span in spans]
    offered: dict[AbstractAction, Action] = {}
    for name in (*display.reachable, None):
        offered[("tap", name)] = display.concrete(("tap", name))
    for key in ("back", "home", "enter", "complete", "impossible"):
        offered[(key,)] = display.concrete((key,))
    for direction in ("up", "down"):
        offered[("swipe", direction)] = Action.swipe(direction)
    for text in texts:
        offered.setdefault(("type", text), Action.type_text(text))
    for action in extra:
        offered.setdefault(display.resolve(action), action)
    seen = display.observe(rendered=False)
    elements = json.loads(seen.ui_elements)
    shown = observation_features("elements", seen.goal, seen.activity, seen.ui_elements)
    rows = [action_features(seen.goal, action, shown, elements) for action in offered.values()]
    return Shown(tuple(offered), np.stack(rows).astype(np.float16), display.screen.template)


class Examples(NamedTuple):
    """S screens, padded to the largest number of actions."""

    features: jax.Array
    """Features of the actions, float16[S, K, D]."""
    exists: jax.Array
    """Whether each action exists, bool[S, K]."""

    @classmethod
    def of(cls, screens: Sequence[Shown]) -> Examples:
        """Pads screens."""
        most = max(len(shown.actions) for shown in screens)
        features = np.zeros((len(screens), most, screens[0].features.shape[1]), np.float16)
        exists = np.zeros((len(screens), most), bool)
        for s, shown in enumerate(screens):
            features[s, : len(shown.actions)] = shown.features
            exists[s, : len(shown.actions)] = True
        return cls(jnp.asarray(features), jnp.asarray(exists))


@dataclasses.dataclass(frozen=True)
class Student:
    """A network that scores actions."""

    params: Any

    @classmethod
    def fresh(cls, features: int, seed: int) -> Student:
        """An untrained network."""
        keys = jax.random.split(jax.random.PRNGKey(seed), 3)
        sizes = ((features, _HIDDEN), (_HIDDEN, _HIDDEN), (_HIDDEN, 1))
        return cls(
            [
                (jax.random.normal(key, size) * np.sqrt(2 / size[0]), jnp.zeros(size[1]))
                for key, size in zip(keys, sizes, strict=True)
            ]
        )

    def fit(
        self,
        examples: Examples,
        row: npt.NDArray[np.int64],
        choice: npt.NDArray[np.int64],
        weight: npt.NDArray[np.float64],
        *,
        updates: int,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> Student:
        """Maximises the weighted log-probability of the chosen actions.

        Args:
          examples: the screens.
          row: [R], index of the screen of each row.
          choice: [R], index of the chosen action.
          weight: [R], weight of each row.
          updates: number of Adam updates, rounded up to a multiple of 50; the learning rate rises over a tenth of them
            and then falls as a cosine.
          batch_size: rows per update, drawn with replacement.
          learning_rate: the peak learning rate.
          seed: seed of the batches.
        """
        updates = -(-updates // _CHUNK) * _CHUNK
        rates = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(1, updates // 10), updates + 1)
        drawn = np.random.default_rng(seed).integers(len(row), size=(updates, batch_size))
        scale = weight / weight.mean()
        state = (self.params, optax.scale_by_adam().init(self.params))
        for start in range(0, updates, _CHUNK):
            batch = drawn[start : start + _CHUNK]
            rate = jnp.array([rates(k) for k in range(start, start + _CHUNK)], jnp.float32)
            state = _updates(
                state, examples, row[batch], choice[batch], scale[batch].astype(np.float32), rate
            )
        return Student(jax.device_get(state[0]))

    def logits(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Scores, float32[K], of features, float[K, D], computed with NumPy."""
        x = features.astype(np.float32)
        for number, (w, b) in enumerate(self.params):
            x = x @ np.asarray(w) + np.asarray(b)
            if number + 1 < len(self.params):
                x = np.maximum(x, 0)
        return x[:, 0]


def _loss(params: Any, features: Any, exists: Any, choice: Any, weight: Any) -> Any:
    x = features.astype(jnp.float32)
    for number, (w, b) in enumerate(params):
        x = x @ w + b
        if number + 1 < len(params):
            x = jax.nn.relu(x)
    logits = jnp.where(exists, x[..., 0], -1e9)
    return (weight * optax.softmax_cross_entropy_with_integer_labels(logits, choice)).mean()


@jax.jit
def _updates(state: Any, examples: Examples, row: Any, choice: Any, weight: Any, rate: Any) -> Any:
    adam = optax.scale_by_adam()

    def update(state: Any, batch: Any) -> Any:
        params, moments = state
        row, choice, weight, rate = batch
        gradient = jax.grad(_loss)(params, examples.features[row], examples.exists[row], choice, weight)
        step, moments = adam.update(gradient, moments)
        params = jax.tree.map(lambda p, s: p - rate * (s + 1e-4 * p), params, step)
        return (params, moments), None

    return jax.lax.scan(update, state, (row, choice, weight, rate))[0]


@dataclasses.dataclass
class Arcade:
    """Episodes that many students play, all with the same random numbers; the screens' actions are kept for all."""

    specs: Sequence[EpisodeSpec]
    _looks: Looks[Shown] = dataclasses.field(default_factory=lambda: Looks(look), repr=False)

    def play(self, student: Student, temperature: float = 1.0) -> tuple[list[bool], dict[str, int]]:
        """Plays the episodes: whether each succeeds, and how often the student acts on each kind of screen."""

        def act(phone: SimulatedPhone, shown: Shown, rng: np.random.Generator) -> None:
            noise = rng.gumbel(size=200)[: len(shown.actions)]
            picked = int(np.argmax(student.logits(shown.features) / temperature + noise))
            phone.execute_abstract(shown.actions[picked])

        return play(self.specs, self._looks, act)


def looks_of(
    states: Iterable[tuple[Display, Sequence[Action | None]]],
) -> tuple[list[Shown], npt.NDArray[np.int64]]:
    """The actions of S logged screens, including N candidates each, and the candidates' indices in them, int[S, N]."""
    screens, index = [], []
    for display, candidates in states:
        shown = look(display, [action for action in candidates if action is not None])
        where = {action: k for k, action in enumerate(shown.actions)}
        screens.append(shown)
        index.append([-1 if a is None else where[display.resolve(a)] for a in candidates])
    return screens, np.array(index, np.int64)
