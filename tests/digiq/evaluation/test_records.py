"""Recordings: what they hold, that they lie where they should whatever tasks are called, and that pages escape them."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from android_env.actions import Action
from android_env.devices import StepReport
from android_env.tasks import load_tasks, save_tasks
from digiq.agents.agent import Decision
from digiq.agents.build import AgentConfig
from digiq.agents.rollout import EpisodeRun, EpisodeSpec
from digiq.data.schema import Episode, Step
from digiq.drawing.page import render
from digiq.evaluation import evaluate
from digiq.evaluation.arm_page import arm_page
from digiq.evaluation.evaluate import EvaluateConfig, make_table, result_of
from digiq.evaluation.records import record_name, recorded_strips, write_record

TASKS = load_tasks("webshop/test")
SCRIPT = "<script>alert('x')</script>"
ELEMENTS = json.dumps([{"text": SCRIPT, "role": SCRIPT, "id": SCRIPT, "bounds": [0.0, 0.0, 1.0, 1.0]}])
REPORT = StepReport("maybe_executed", 1.5, 4, True, 2, 0.25)


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 16, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def hostile_run():
    """An episode in which everything that a task, a page or an agent can word is a script."""
    actions = [Action.tap(0.5, 0.5), Action.type_text(SCRIPT), None]
    steps = tuple(
        Step(
            screenshot=png(), goal=SCRIPT, activity=SCRIPT, ui_elements=ELEMENTS, action=action,
            is_first=t == 0, is_last=action is None, is_terminal=action is None,
        )
        for t, action in enumerate(actions)
    )  # fmt: skip
    task = dataclasses.replace(TASKS[0], task_id=SCRIPT, goal=SCRIPT)
    spec = EpisodeSpec(task, 0, 5)
    episode = Episode(
        episode_id=spec.episode_id, task_id=SCRIPT, split=SCRIPT, outcome="failure", policy=SCRIPT, device=SCRIPT,
        screen_hw=(32, 16), seed=5, steps=steps,
    )  # fmt: skip
    decisions = tuple(Decision(action) for action in actions if action is not None)
    return EpisodeRun(spec, "failure", decisions, 2, episode, f"refused {SCRIPT}", (REPORT, None))


def test_pages_escape_goal_typed_text_activity_and_elements(tmp_path):
    run = hostile_run()
    write_record(tmp_path / "records", run)
    results = [result_of(run)]
    html = render(arm_page(make_table(SCRIPT, results), results, recorded_strips(tmp_path)))
    assert "<script" not in html
    shown = html.count("&lt;script&gt;")
    assert shown >= 6, "arm, task, split, goal, typed text, the element that was tapped, error"
    assert f"type “{SCRIPT}”".replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;") in html


def test_a_record_has_the_screens_the_outcome_and_how_each_action_went(tmp_path):
    write_record(tmp_path, hostile_run())
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["00.png", "01.png", "02.png", "record.json"]
    record = json.loads((folder / "record.json").read_text())
    assert (record["outcome"], record["seed"], record["goal"]) == ("failure", 5, SCRIPT)
    assert [step["activity"] for step in record["steps"]] == [SCRIPT] * 2
    assert [step["report"] for step in record["steps"]] == [
        {
            "sent": "maybe_executed",
            "settle_s": 1.5,
            "polls": 4,
            "timed_out": True,
            "faults": 2,
            "act_s": 0.25,
            "notes": [],
        },
        None,
    ]
    assert [step["v"] for step in record["steps"]] == [None] * 2 and math.isnan(Decision(Action.back()).v)


HOSTILE_IDS = ("../../x", "/etc/x", "a\0b", "..", ".", "~/x", "a/b", "a_b", "x" * 600, "C:\\x", "a\nb")


@pytest.mark.parametrize("task_id", HOSTILE_IDS)
def test_a_record_lies_in_its_folder_whatever_its_task_is_called(tmp_path, task_id):
    name = record_name(f"{task_id}#0")
    assert len(name.encode()) < 200 and not set(name) & set("/\\\0\n.~:")
    (tmp_path / name).mkdir()
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()


def test_a_task_file_cannot_write_outside_the_run(tmp_path):
    tasks = [
        dataclasses.replace(task, task_id=task_id, params={**task.params, "page": "../../../x"})
        for task, task_id in zip(TASKS, HOSTILE_IDS, strict=False)
    ]
    save_tasks(tasks, tmp_path / "tasks.json")
    out = tmp_path / "deep" / "er" / "run"
    config = EvaluateConfig(
        tasks=str(tmp_path / "tasks.json"), agent=AgentConfig(kind="quitter"), episodes=len(tasks), records=99
    )
    found = evaluate.run(config, out=out)
    assert found.manifest.counts["episodes"] == len(tasks) == len(list((out / "records").iterdir()))
    outside = {path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(out)}
    assert outside == {tmp_path / "tasks.json"}
    assert "<h2" in (out / "report.html").read_text()
