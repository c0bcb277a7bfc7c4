"""Recordings survive a crash at any byte, and are never written over."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from android_env.actions import Action
from android_env.devices import StepReport
from android_env.errors import TaskError
from android_env.recording import END, STEPS, Recorder, read_recording, read_recordings
from android_env.tasks.task import Task

TASK = Task("t/1", "do 'it'", "toy", 1, "train", {"a": "b"}, 5)


def write(root, steps=3, end=True):
    recorder = Recorder(
        root, episode_id="t/1#0", task=TASK, seed=7, device="toy", policy="p", screen_hw=(4, 4)
    )
    for number in range(steps):
        recorder.seen(seen(number))
        recorder.acted(
            Action.type_text("a\nb €"), executed=True, reward=float(number == steps - 1),
            verdict="success" if number == steps - 1 else "", log_prob=-1.5,
            report=StepReport("executed", 0.5, notes=("black",)),
        )  # fmt: skip
    recorder.seen(seen(steps))
    if end:
        recorder.end("success")
    return recorder.folder


def seen(number):
    return {
        "screenshot": np.full((4, 4, 3), number, np.uint8),
        "activity": f"a/{number}",
        "ui_elements": "[]",
    }


def test_what_was_recorded_is_read_again(tmp_path):
    found = read_recording(write(tmp_path))
    assert (found.episode_id, found.seed, found.outcome, found.screen_hw) == ("t/1#0", 7, "success", (4, 4))
    assert found.task == TASK and len(found.moments) == 4
    assert [m.activity for m in found.moments] == ["a/0", "a/1", "a/2", "a/3"]
    assert found.moments[2].action == Action.type_text("a\nb €") and found.moments[2].verdict == "success"
    assert found.moments[0].report["notes"] == ["black"] and found.moments[0].log_prob == -1.5
    assert found.moments[3].action is None


def test_each_try_has_a_folder_of_its_own(tmp_path):
    one, two = write(tmp_path, end=False), write(tmp_path)
    assert one != two and one.parent == two.parent
    assert [r.outcome for r in read_recordings(tmp_path)] == ["", "success"]
    for _ in range(9):
        last = write(tmp_path, end=False)
    assert [r.folder for r in read_recordings(tmp_path)][-1] == last, "the eleventh comes after the second"


def test_a_crash_at_any_byte_leaves_what_was_there_before(tmp_path):
    whole = read_recording(write(tmp_path / "whole", end=False))
    folder = write(tmp_path / "torn", end=False)
    data = (folder / STEPS).read_bytes()
    for cut in range(0, len(data), 7):
        (folder / STEPS).write_bytes(data[:cut])
        found = read_recording(folder)
        assert found.outcome == ""
        lines = data[:cut].count(b"\n")
        assert len(found.moments) == (lines + 1) // 2
        for mine, theirs in zip(found.moments[:-1], whole.moments, strict=False):
            assert dataclasses.replace(mine, image=theirs.image) == theirs
    (folder / STEPS).write_bytes(b"nonsense\n" + data)
    with pytest.raises(TaskError, match="damaged"):
        read_recording(folder)
    assert not (folder / END).exists()


@pytest.mark.parametrize("named", ["gone.png", "../outside.png", "/etc/hostname"])
def test_a_screenshot_that_is_not_beside_its_line_is_refused(tmp_path, named):
    folder = write(tmp_path)
    first = next(folder.glob("*.png")).name
    (folder.parent / "outside.png").write_bytes((folder / first).read_bytes())
    steps = folder / STEPS
    steps.write_text(steps.read_text().replace(f'"{first}"', f'"{named}"'))
    with pytest.raises(TaskError, match="which is not a file beside it"):
        read_recording(folder)
