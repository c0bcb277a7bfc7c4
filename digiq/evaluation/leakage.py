"""Checks whether an evaluation's tasks were in the training data of its policy."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from android_env.tasks import Task
from digiq import artifacts
from digiq.data.store import EpisodeStore
from digiq.errors import ArtifactError

logger = logging.getLogger("digiq.evaluation")
_EPISODES = ("collect", "import")
_ABOVE = 3
"""How many levels above the policy the folder of its run may be."""


def training_tasks(policy: Path) -> tuple[set[str], set[str]]:
    """Task ids and goals of the episodes that a policy was trained on, as far as they lie in its run.

    Manifests name the inputs of an artefact by content digest. These are looked up among the artefacts in the run's
    folders, step by step back to the episodes.
    """
    near = {artifact.digest: path for path, artifact in _artefacts(policy)}
    ids: set[str] = set()
    goals: set[str] = set()
    seen: set[Path] = set()
    todo = [policy]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            manifest = artifacts.read_manifest(path)
        except ArtifactError:
            continue
        if manifest.stage in _EPISODES:
            for outline in EpisodeStore(path).outlines:
                ids.add(outline.task_id)
                goals.add(outline.goal)
        todo += [near[digest] for digest in manifest.inputs.values() if digest in near]
    return ids - {""}, goals - {""}


def warn_of_leakage(policy: Path, tasks: Iterable[Task]) -> list[str]:
    """Logs a warning about evaluation tasks that the policy was trained on; returns their ids."""
    tasks = [task for task in tasks if task.split != "train"]
    if not tasks:
        return []
    ids, goals = training_tasks(policy)
    leaked = [task.task_id for task in tasks if task.task_id in ids or task.goal in goals]
    if leaked:
        logger.warning(
            "%d of %d tasks of this evaluation, such as %r, are among those that %s was trained on: "
            "success on them says little about unseen tasks.",
            len(leaked),
            len(tasks),
            leaked[0],
            policy,
        )
    return leaked


def _artefacts(policy: Path) -> Iterator[tuple[Path, artifacts.Manifest]]:
    """The finished artefacts of a policy's run: those at most two folders deep in a folder above the policy."""
    for root in list(policy.resolve().parents)[:_ABOVE]:
        for file in (*root.glob(f"*/{artifacts.MANIFEST}"), *root.glob(f"*/*/{artifacts.MANIFEST}")):
            try:
                yield file.parent, artifacts.read_manifest(file.parent)
            except ArtifactError:
                continue
