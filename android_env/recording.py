"""Episodes on disk as they happen: one append-only folder per episode.

    <name>/begin.json      task, device, policy, seed
    <name>/000.png ...     the screen before each action and at the end
    <name>/steps.jsonl     a line per observation: its image, activity and elements; and, once an action follows, a line
                           with the action, whether it was executed, how long it took, the faults and the verdict
    <name>/end.json        how the episode ended; a recording without it was cut off

An image is complete before the line that names it is written, and a last line cut short by a crash is skipped, so
whatever a crash leaves can be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from android_env.actions import Action, parse_action
from android_env.devices import StepReport
from android_env.errors import TaskError
from android_env.tasks.task import Task

BEGIN, STEPS, END = "begin.json", "steps.jsonl", "end.json"
_NAME_LENGTH = 100


@dataclasses.dataclass(frozen=True)
class Moment:
    """One observation, and the action that followed."""

    image: Path
    """PNG."""
    activity: str
    ui_elements: str
    action: Action | None = None
    """None at the end, and if the agent's answer was not an action (`error`)."""
    executed: bool = False
    reward: float = 0.0
    verdict: str = ""
    """The judge's verdict on the action's result; empty if the episode continued."""
    log_prob: float = float("nan")
    report: Mapping[str, Any] | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One episode as it was recorded."""

    folder: Path
    episode_id: str
    task: Task
    seed: int
    device: str
    policy: str
    screen_hw: tuple[int, int]
    moments: tuple[Moment, ...]
    outcome: str
    """Empty if the recording was cut off."""
    error: str = ""


class Recorder:
    """Writes one episode.

    Args:
        root: the folder of recordings; each try of the episode gets a new folder there.
        episode_id: id of the episode.
        task: the task.
        seed: the device's seed.
        device: the device's name.
        policy: the name of the acting policy.
        screen_hw: height and width of the screenshots, pixels.
    """

    def __init__(
        self,
        root: Path,
        *,
        episode_id: str,
        task: Task,
        seed: int,
        device: str,
        policy: str,
        screen_hw: tuple[int, int],
    ) -> None:
        self.folder = _new_folder(root, episode_id)
        self._images = 0
        about = {
            "episode_id": episode_id,
            "task": dataclasses.asdict(dataclasses.replace(task, params=dict(task.params))),
            "seed": seed,
            "device": device,
            "policy": policy,
            "screen_hw": list(screen_hw),
        }
        _write(self.folder / BEGIN, json.dumps(about, ensure_ascii=False, indent=1).encode())
        self._steps = (self.folder / STEPS).open("ab")

    def seen(self, observation: Mapping[str, Any]) -> None:
        """Adds an observation, as returned by `AndroidEnv`."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.asarray(observation["screenshot"])).save(buffer, "png", compress_level=3)
        name = f"{self._images:03d}.png"
        self._images += 1
        _write(self.folder / name, buffer.getvalue())
        self._line(
            {
                "image": name,
                "activity": observation["activity"],
                "ui_elements": observation["ui_elements"],
            }
        )

    def acted(
        self,
        action: Action | None,
        *,
        executed: bool,
        reward: float = 0.0,
        verdict: str = "",
        log_prob: float = float("nan"),
        report: StepReport | None = None,
        error: str = "",
    ) -> None:
        """Adds the action that followed the last observation, and its result."""
        self._line(
            {
                "action": None if action is None else str(action),
                "executed": executed,
                "reward": reward,
                "verdict": verdict,
                "log_prob": None if log_prob != log_prob else log_prob,
                "report": None if report is None else dataclasses.asdict(report),
                "error": error,
            }
        )

    def end(self, outcome: str, error: str = "") -> None:
        """Writes how the episode ended; nothing may be added afterwards."""
        self._steps.close()
        _write(self.folder / END, json.dumps({"outcome": outcome, "error": error}).encode())

    def _line(self, row: Mapping[str, Any]) -> None:
        self._steps.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._steps.flush()


def _new_folder(root: Path, episode_id: str) -> Path:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in episode_id)[
        :_NAME_LENGTH
    ]
    name = f"{kept}-{hashlib.sha256(episode_id.encode()).hexdigest()[:8]}"
    for number in range(1, 1 << 20):
        folder = root / f"{name}.{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise OSError(f"{root}: there are too many recordings of {episode_id!r}")


def _write(path: Path, data: bytes) -> None:
    """Writes the file completely or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    os.replace(new, path)


def read_recording(folder: str | Path) -> Recording:
    """Opens one recording, finished or cut off.

    Raises:
        TaskError: it is not a recording, a line other than the last cannot be read, or a screenshot is missing.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / BEGIN).read_text(encoding="utf-8"))
        rows = _rows(folder / STEPS)
        ended = json.loads((folder / END).read_text(encoding="utf-8")) if (folder / END).is_file() else {}
        moments: list[Moment] = []
        for row in rows:
            if "image" in row:
                image = folder / row["image"]
                if image.parent != folder or not image.is_file():
                    raise ValueError(f"{STEPS} names {row['image']!r}, which is not a file beside it")
                moments.append(Moment(image, row["activity"], row["ui_elements"]))
                continue
            action = parse_action(row["action"]) if row["action"] is not None else None
            log_prob = float("nan") if row["log_prob"] is None else float(row["log_prob"])
            moments[-1] = dataclasses.replace(
                moments[-1],
                action=action if isinstance(action, Action) else None,
                executed=bool(row["executed"]),
                reward=float(row["reward"]),
                verdict=str(row["verdict"]),
                log_prob=log_prob,
                report=row["report"],
                error=str(row["error"]),
            )
        height, width = about["screen_hw"]
        return Recording(
            folder,
            about["episode_id"],
            Task(**about["task"]),
            int(about["seed"]),
            about["device"],
            about["policy"],
            (int(height), int(width)),
            tuple(moments),
            str(ended.get("outcome", "")),
            str(ended.get("error", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TaskError(
            f"{folder}: not a recording, or a damaged one ({type(error).__name__}: {error})."
        ) from None


def recorded_tries(root: str | Path) -> list[list[Path]]:
    """Recordings in a folder: for each episode, by name, the folders of its tries in the order in which they began."""
    tries: dict[str, list[tuple[int, Path]]] = {}
    for begin in Path(root).glob(f"*/{BEGIN}"):
        name, _, number = begin.parent.name.rpartition(".")
        count = int(number) if number.isdecimal() else 0
        tries.setdefault(name, []).append((count, begin.parent))
    return [[folder for _, folder in sorted(tries[name])] for name in sorted(tries)]


def read_recordings(root: str | Path) -> Iterator[Recording]:
    """All recordings in a folder, by name; the tries of an episode in the order in which they began."""
    for folders in recorded_tries(root):
        yield from map(read_recording, folders)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
