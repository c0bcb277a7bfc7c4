"""Episodes that an evaluation recorded while playing them (:mod:`android_env.recording`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from android_env.errors import TaskError
from android_env.recording import END, Recording, read_recording, recorded_tries
from digiq.config import configclass
from digiq.data.importers.base import BadEpisode, Entry, Sources
from digiq.data.schema import Episode, Step
from digiq.errors import DigiQError


@configclass
class Recordings:
    """The last completed try of each episode; tries cut off by a fault or a kill are ignored. An episode without a
    completed try is bad."""

    folder: str = ""
    """Folder of the recordings, for example ``runs/night/recordings``."""

    def find(self) -> Sources:
        episodes = recorded_tries(self.folder) if self.folder else []
        if not episodes:
            raise DigiQError(
                f"recordings.folder: {self.folder!r} holds no recordings; name the folder that contains them."
            )
        ended = [[folder for folder in tries if (folder / END).is_file()] for tries in episodes]
        last = [(folders or tries)[-1] for folders, tries in zip(ended, episodes, strict=True)]
        return Sources(last, ignored=sum(map(len, episodes)) - len(last))

    def read(self, part: Any) -> Iterator[Entry | BadEpisode]:
        try:
            recording = read_recording(part)
        except TaskError as error:
            yield BadEpisode(f"{error} Delete it, or set on_bad: skip.")
            return
        if not recording.outcome:
            yield BadEpisode(
                f"{part}: it was cut off before its end; resume the evaluation, or set on_bad: skip."
            )
            return
        if recording.outcome not in ("success", "failure", "truncated") or not recording.moments:
            yield BadEpisode(
                f"{part}: it ended as {recording.outcome!r}, which says nothing about the agent; set on_bad: skip."
            )
            return
        yield Entry(recording.episode_id, lambda: episode_of(recording))


def episode_of(recording: Recording) -> Episode:
    """The recording as an offline episode: an observation before each executed action, and the final one."""
    acted = [m for m in recording.moments if m.action is not None and m.executed]
    last = next((m for m in reversed(recording.moments) if not (m.action is not None and m.executed)), None)
    if last is None:
        raise BadEpisode(f"{recording.folder}: it has no observation after its last action.")
    terminal = recording.outcome != "truncated"
    steps = [
        Step(
            screenshot=moment.image.read_bytes(),
            goal=recording.task.goal,
            activity=moment.activity,
            ui_elements=moment.ui_elements,
            action=moment.action,
            behavior_log_prob=moment.log_prob,
            reward=moment.reward,
            discount=0.0 if terminal and number + 1 == len(acted) else 1.0,
            is_first=number == 0,
        )
        for number, moment in enumerate(acted)
    ]
    steps.append(
        Step(
            screenshot=last.image.read_bytes(),
            goal=recording.task.goal,
            activity=last.activity,
            ui_elements=last.ui_elements,
            reward=0.0,
            discount=0.0,
            is_first=not acted,
            is_last=True,
            is_terminal=terminal,
        )
    )
    return Episode(
        episode_id=recording.episode_id,
        task_id=recording.task.task_id,
        split=recording.task.split,
        outcome=recording.outcome,
        policy=recording.policy,
        device=recording.device,
        screen_hw=recording.screen_hw,
        seed=recording.seed,
        steps=tuple(steps),
    )
