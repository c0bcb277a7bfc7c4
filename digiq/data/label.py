"""The ``label`` stage: gives every executed action its reward."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.labels import LABELS, Spent, Unlabelled
from digiq.data.rewards import Label, write_labels
from digiq.data.store import EpisodeStore
from digiq.errors import DigiQError
from digiq.tables import chosen_from

STAGE, VERSION = "label", 1


@configclass
class LabelConfig(chosen_from(LABELS, default="outcome")):
    """Where rewards and negatives come from."""


def run(config: LabelConfig, *, episodes: Path, out: Path, overwrite: bool = False) -> Artifact:
    """Writes the chosen source's labels of the episodes.

    Raises:
      DigiQError: the source cannot label them.

    An episode for which the source has no answer gets no label. It is counted as ``judge_error``, and later stages do
    not see it.
    """
    inputs = {"episodes": episodes}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        store = EpisodeStore(episodes)
        found = list(config.chosen.rewards(store))
        labels = [item for item in found if isinstance(item, Label)]
        failed = [item for item in found if isinstance(item, Unlabelled)]
        if not labels:
            why = failed[0].reason if failed else "there are none"
            raise DigiQError(f"{episodes}: no episode could be labelled: {why}.")
        write_labels(w.path, labels)
        recorded = [label for label in labels if not label.is_copy]
        successes = sum(sum(label.rewards) > 0 for label in recorded)
        counts = {"episodes": len(labels), "recorded": len(store), "successes": successes}
        extra: dict[str, Any] = {}
        if failed:
            counts["judge_error"] = len(failed)
            extra["judge_errors"] = [f"{item.episode_id}: {item.reason}" for item in failed[:100]]
        for item in found:
            if isinstance(item, Spent):
                counts |= item.counts
        if told := agreement(recorded, {o.episode_id: o.outcome for o in store.outlines}):
            extra["agreement"] = told
        return w.complete(counts=counts, extra=extra)


def agreement(labels: Sequence[Label], outcomes: Mapping[str, str]) -> dict[str, float]:
    """How well labels from another source agree with the recorded outcomes, where there are any.

    Args:
      labels: labels of recorded episodes.
      outcomes: ``success``, ``failure`` or anything else by episode; only the first two are compared.

    Returns:
      ``episodes`` (number compared), ``agree`` (share), ``precision`` and ``recall`` of success; empty if there is
      nothing to compare.
    """
    pairs = [
        (sum(label.rewards) > 0, outcomes[label.source_id] == "success")
        for label in labels
        if label.provenance.split()[0] in ("file", "rule", "judge")
        and outcomes[label.source_id] in ("success", "failure")
    ]
    if not pairs:
        return {}
    both = sum(said and was for said, was in pairs)
    said, was = sum(said for said, _ in pairs), sum(was for _, was in pairs)
    told = {"episodes": len(pairs), "agree": sum(a == b for a, b in pairs) / len(pairs)}
    return told | {"precision": both / max(said, 1), "recall": both / max(was, 1)}
