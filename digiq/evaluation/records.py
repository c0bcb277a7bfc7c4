"""Recorded episodes on disk: one directory each, with a PNG per observation and ``record.json``."""

import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

from android_env.actions import Action, format_action, parse_action
from digiq import artifacts
from digiq.agents.agent import Decision
from digiq.agents.rollout import EpisodeRun
from digiq.data.schema import Step
from digiq.drawing.strips import Strip, describe, plain_strip
from digiq.evaluation.summary import split_title

RECORDS = "records"
_NAME_LENGTH = 120


def write_record(folder: Path, run: EpisodeRun) -> None:
    """Writes the recording of an episode into a directory of its own in ``folder``.

    ``record.json`` holds the agent, the task and the outcome, and for each decision what was seen and chosen. On
    devices that report it (:class:`android_env.devices.StepReport`), it also holds how sending the action went and how
    long the screen took to settle.
    """
    episode = run.episode
    assert episode is not None
    with artifacts.atomic_path(folder / record_name(episode.episode_id)) as path:
        path.mkdir(parents=True)
        for number, step in enumerate(episode.steps):
            (path / f"{number:02d}.png").write_bytes(step.screenshot)
        reports = [*run.reports, *[None] * len(run.decisions)]  # actions that were not executed have none
        record = {
            "episode_id": episode.episode_id,
            "goal": episode.steps[0].goal,
            "split": episode.split,
            "outcome": episode.outcome,
            "error": run.error,
            "device": episode.device,
            "seed": episode.seed,
            "screen_hw": list(episode.screen_hw),
            "steps": [
                {
                    **_decision(decision, step),
                    "activity": step.activity,
                    "report": None if report is None else dataclasses.asdict(report),
                }
                for decision, step, report in zip(run.decisions, episode.steps, reports, strict=False)
            ],
        }
        (path / "record.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def record_name(episode_id: str) -> str:
    """An episode id as a safe file name, distinct for each id."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in episode_id)
    return f"{kept[:_NAME_LENGTH]}-{hashlib.sha256(episode_id.encode()).hexdigest()[:8]}"


def remove_torn(folder: Path) -> None:
    """Removes what an interrupted :func:`write_record` has left in ``folder``."""
    for torn in folder.glob("*.tmp"):
        shutil.rmtree(torn)


def recorded_strips(evaluation: Path) -> list[Strip]:
    """The recorded episodes of an evaluation, as strips."""
    return list(recorded_by_id(evaluation).values())


def recorded_by_id(evaluation: Path) -> dict[str, Strip]:
    """The same by episode id; arms that ran the same episodes share the ids."""
    strips = {}
    for file in sorted((evaluation / RECORDS).glob("*/record.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        # An unparsable answer ends an episode without an action.
        actions = [parse_action(step["action"]) for step in record["steps"]]
        strips[record["episode_id"]] = plain_strip(
            [png.read_bytes() for png in sorted(file.parent.glob("*.png"))],
            [action if isinstance(action, Action) else None for action in actions],
            captions=[step["caption"] for step in record["steps"]],
            goal=record["goal"],
            outcome=record["outcome"],
            title=f"{split_title(record['split'])} · {record['episode_id']}",
        )
    return strips


def _decision(decision: Decision, step: Step) -> dict[str, Any]:
    action = decision.action
    parsed = isinstance(action, Action)
    return {
        "action": format_action(action) if parsed else getattr(action, "string", str(action)),
        "caption": describe(action, step.ui_elements) if parsed else "unparsable answer",
        "candidates": [format_action(c) for c in decision.candidates],
        "q": list(decision.q),
        "v": None if math.isnan(decision.v) else decision.v,
    }
