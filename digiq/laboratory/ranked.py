"""The best of N by a learned Q on the device, without pixels: what a critic is worth where its policy goes."""

from __future__ import annotations

import dataclasses

import numpy as np

from digiq.critics.critic import Critic
from digiq.laboratory.student import Shown, Student, draws


@dataclasses.dataclass
class BestOfN:
    """Chooses among a screen's actions (a :data:`digiq.laboratory.student.Chooser`) by the Q of a critic that was trained on
    :class:`digiq.laboratory.controls.ElementFeatures`."""

    critic: Critic
    student: Student
    """Proposes."""
    count: int = 8
    """N draws, with replacement, as policies propose; 0 asks about all that the screen offers."""
    temperature: float = 0.7
    """Of the draws."""
    _known: dict[int, tuple[Shown, np.ndarray]] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, shown: Shown, rng: np.random.Generator) -> int:
        """The first of the best."""
        q = self._q(shown)
        if not self.count:
            return int(np.argmax(q))
        drawn = draws(self.student.logits(shown.features), self.temperature, rng, self.count)
        return int(drawn[np.argmax(q[drawn])])

    def _q(self, shown: Shown) -> np.ndarray:
        """Of everything offered; screens come again, so it is kept. An entry holds its screen, whose id it is under."""
        if id(shown) not in self._known:
            # Padded, so that few programs are compiled.
            padded = np.zeros((-(-len(shown.features) // 16) * 16, shown.features.shape[1]), np.float32)
            padded[: len(shown.features)] = shown.features
            values = self.critic.aggregate(self.critic.q(shown.observation[None], padded))
            self._known[id(shown)] = (shown, values[: len(shown.features)])
        return self._known[id(shown)][1]
