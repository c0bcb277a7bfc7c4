"""True values of the candidates, as written by the ``value`` stage; readers need not know the simulator."""

from pathlib import Path

import numpy as np

from digiq import artifacts

STAGE = "value"
EXACT = "exact.npz"
"""``best_q`` float64 [S, N] and ``best_v`` float64 [S] of the best policy, ``policy_q`` and ``policy_v`` of the
behaviour policy, NaN where unknown; ``collector_q`` and ``collector_v`` of the scripted collector, if it was valued;
``screen`` str [S], kinds of screens."""


def load_exact(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a ``value`` artefact; see :data:`EXACT`.

    Raises:
      ArtifactError: it is unfinished or made by another stage, or a byte has changed ("Digest mismatch").
    """
    artifact = artifacts.open(path, stage=STAGE)
    with np.load(artifact.path / EXACT, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
