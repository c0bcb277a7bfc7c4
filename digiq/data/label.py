"""The ``label`` stage: which reward every executed action gets."""

from pathlib import Path

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.labels import LABELS
from digiq.data.rewards import write_labels
from digiq.data.store import EpisodeStore
from digiq.tables import chosen_from

STAGE, VERSION = "label", 1


@configclass
class LabelConfig(chosen_from(LABELS, default="outcome")):
    """Where rewards and negatives come from."""


def run(config: LabelConfig, *, episodes: Path, out: Path, overwrite: bool = False) -> Artifact:
    """Writes what the chosen source says of the episodes.

    Raises:
      DigiQError: the source cannot label them.
    """
    inputs = {"episodes": episodes}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        store = EpisodeStore(episodes)
        labels = list(config.chosen.rewards(store))
        write_labels(w.path, labels)
        recorded = [label for label in labels if not label.is_copy]
        successes = sum(sum(label.rewards) > 0 for label in recorded)
        counts = {"episodes": len(labels), "recorded": len(store), "successes": successes}
        return w.complete(counts=counts)
