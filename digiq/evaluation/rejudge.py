"""Judges recorded episodes again, and measures how a judge agrees with the outcomes that were recorded."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from android_env.devices import Observation, Verdict
from android_env.evaluators import Moment
from android_env.faults import JudgeError
from android_env.recording import Recording, read_recordings
from android_env.tasks import Task
from digiq.errors import ArtifactError
from digiq.statistics import Estimate, judge_corrected, judge_corrected_difference, wilson

ENDED = ("success", "failure", "truncated")


class Recorded:
    """A device that can no longer be queried; judges that need its state refuse it."""

    def __init__(self, recording: Recording) -> None:
        self.name, self.screen_hw = recording.device, recording.screen_hw


@dataclasses.dataclass(frozen=True)
class Rejudged:
    """One episode, judged again."""

    episode_id: str
    task_id: str
    recorded: str
    """Its outcome when it was played."""
    outcome: str
    """The judge's outcome now: `success`, `failure`, `truncated` or `judge_error`."""
    step: int
    """Number of actions after which it was decided."""


def rejudge(
    recording: Recording,
    judge: Callable[[Moment], Verdict | None],
    tasks: Mapping[str, Task] | None = None,
    *,
    asks: int = 3,
) -> Rejudged:
    """Shows the judge every moment of a recording, in order, until it decides.

    Args:
      recording: the episode.
      judge: the judge.
      tasks: tasks by id whose parameters replace the recorded ones, for example with other rules.
      asks: how often a judge that does not answer is asked.
    """
    task = (tasks or {}).get(recording.task.task_id, recording.task)
    device, outcome, steps = Recorded(recording), "", 0
    acted = list(
        itertools.takewhile(
            lambda pair: pair[0].action is not None and pair[0].executed,
            itertools.pairwise(recording.moments),
        )
    )
    for moment, after in acted:
        assert moment.action is not None
        steps += 1
        seen = Observation(_pixels(after.image), task.goal, after.activity, after.ui_elements)
        shown = Moment(task, moment.action, seen, device, last=steps == len(acted))  # type: ignore[arg-type]
        verdict = _asked(judge, shown, asks)
        if verdict is not None:
            outcome = verdict
            break
    last = recording.moments[-1] if recording.moments else None
    if not outcome:
        refused = last is not None and bool(last.error)
        outcome = "failure" if refused else "truncated"
    return Rejudged(recording.episode_id, task.task_id, recording.outcome, outcome, steps)


def _asked(judge: Callable[[Moment], Verdict | None], moment: Moment, asks: int) -> str | None:
    for _ in range(asks):
        try:
            return judge(moment)
        except JudgeError:
            continue
    return "judge_error"


def rejudge_all(
    folder: Path,
    judge: Callable[[Moment], Verdict | None],
    tasks: Mapping[str, Task] | None = None,
) -> Iterator[Rejudged]:
    """Judges the last finished recording of every episode in a folder."""
    last: dict[str, Recording] = {}
    for recording in read_recordings(folder):
        if recording.outcome in ENDED:
            last[recording.episode_id] = recording
    for recording in last.values():
        yield rejudge(recording, judge, tasks)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Agreement of a judge with the recorded outcomes, which are taken as true."""

    episodes: int
    true_positives: int
    positives: int
    true_negatives: int
    negatives: int
    errors: int
    """Episodes in which it gave no answer; not included in the other counts."""

    @property
    def share(self) -> Estimate:
        """Share of episodes on which both agree, Wilson 95 %."""
        return wilson(self.true_positives + self.true_negatives, self.positives + self.negatives)

    def corrected(self, successes: int, trials: int) -> Estimate:
        """A rate that this judge gave elsewhere, with the judge's errors propagated into the interval."""
        return judge_corrected(
            successes,
            trials,
            true_positives=self.true_positives,
            positives=self.positives,
            true_negatives=self.true_negatives,
            negatives=self.negatives,
        )

    def corrected_difference(self, gaps: Sequence[float], tasks: Sequence[str]) -> Estimate:
        """A paired difference of rates that this judge gave, with the judge's errors propagated into the interval."""
        return judge_corrected_difference(
            gaps,
            tasks,
            true_positives=self.true_positives,
            positives=self.positives,
            true_negatives=self.true_negatives,
            negatives=self.negatives,
        )


def agreement(rows: list[Rejudged]) -> Agreement:
    """Counts a judge's hits and misses."""
    judged = [row for row in rows if row.outcome != "judge_error"]
    positives = [row for row in judged if row.recorded == "success"]
    negatives = [row for row in judged if row.recorded != "success"]
    return Agreement(
        len(rows),
        sum(row.outcome == "success" for row in positives),
        len(positives),
        sum(row.outcome != "success" for row in negatives),
        len(negatives),
        len(rows) - len(judged),
    )


def read_rows(path: Path) -> list[Rejudged]:
    """Reads a file of :func:`write_rows`.

    Raises:
      ArtifactError: the file cannot be read, or a line is no judged episode.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Rejudged(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: cannot be read as a file of 'digiq rejudge --out' ({error}).") from None


def write_rows(rows: list[Rejudged], path: Path) -> None:
    """Writes one JSON line per episode."""
    path.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows), encoding="utf-8")


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
