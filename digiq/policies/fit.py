"""The stage ``fit-policy``: a policy of any kind imitates every logged action."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode, decode_png
from digiq.errors import DigiQError
from digiq.events import LOGS, event_writer
from digiq.policies import POLICIES
from digiq.policies.base import Metrics, PolicyInput, Row
from digiq.policies.fitting import FitConfig
from digiq.tables import chosen_from

STAGE, VERSION = "fit-policy", 1
FITTING = "fitting.tmp"
"""The file that holds the state of an unfinished fit; it is not part of the artefact."""


@configclass
class FitPolicyConfig(chosen_from(POLICIES, default="grid")):
    """Config of the stage ``fit-policy``: a policy imitates every logged action."""

    fit: FitConfig = FitConfig()
    """How the policy is fitted."""
    split: str = "train"
    """Imitate only episodes of this split."""
    seed: int = 0
    """Seed of the initial parameters."""


def logged_rows(episodes: Iterable[tuple[int, Episode]]) -> Iterator[Row]:
    """Every executed action of numbered episodes, grouped by those numbers; screenshots are decoded one at a time."""
    for number, episode in episodes:
        for step in episode.steps:
            if step.action is not None:
                yield Row(PolicyInput(decode_png(step.screenshot), step.goal), step.action, group=number)


def metrics_writer(path: Path) -> Metrics:
    """Starts ``path`` anew and appends one JSON line per call; writes the same as TensorBoard events beside it."""
    path.write_text("", encoding="utf-8")
    events = event_writer(path.parent / LOGS, "update")

    def write(metrics: dict[str, float]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        events(metrics)

    return write


def run(config: FitPolicyConfig, *, episodes: Path, out: Path, overwrite: bool = False) -> Artifact:
    """The stage ``fit-policy``: imitates every logged action of ``episodes``; ``out`` opens with ``load_policy``.

    Raises:
      DigiQError: no episode belongs to the configured split.
    """
    inputs = {"episodes": episodes}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        store = LabelledEpisodes(episodes, None)
        kept = [(n, outline) for n, outline in enumerate(store.outlines) if outline.split == config.split]
        steps = sum(outline.num_actions for _, outline in kept)
        if not steps:
            raise DigiQError(f"{episodes}: no actions in split '{config.split}'; set fit-policy's 'split'.")
        start = config.chosen.create(config.seed)
        policy = start.fit(
            logged_rows((n, store[n]) for n, _ in kept),  # one episode at a time
            config.fit,
            metrics_writer(writer.path / "metrics.jsonl"),
            resume=writer.path / FITTING,
        )
        policy.save(writer.path)
        counted = sum(outline.num_actions > 0 for _, outline in kept)
        return writer.complete(counts={"steps": steps, "episodes": counted})
