"""Recorded evaluations: judged again, imported as offline episodes, and counted where a replay knew nothing."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shutil
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from android_env.actions import Action
from android_env.devices import Observation
from android_env.evaluators import Moment
from android_env.faults import JudgeError
from android_env.recording import END, read_recordings
from android_env.tasks import load_tasks, save_tasks
from android_env.testing.droidbot import write_exploration
from digiq import artifacts
from digiq.agents.build import AgentConfig, DeviceConfig
from digiq.agents.vlm_judge import VlmJudge
from digiq.cli import main
from digiq.config import load
from digiq.data.store import EpisodeStore
from digiq.errors import ConfigError
from digiq.evaluation import evaluate
from digiq.evaluation.evaluate import EvaluateConfig, read_results
from digiq.evaluation.rejudge import Rejudged, agreement, read_rows, rejudge_all
from tests.digiq.served import Served


@pytest.fixture(scope="module")
def exploration(tmp_path_factory):
    return write_exploration(tmp_path_factory.mktemp("droidbot") / "org.example")


@pytest.fixture(scope="module")
def night(exploration, tmp_path_factory):
    """Evaluations of the oracle and of chance, every episode recorded."""
    root = tmp_path_factory.mktemp("night")
    device = load(
        DeviceConfig, {"name": "replay", "replay": {"folder": str(exploration), "screen_hw": [64, 32]}}
    )
    for arm in ("oracle", "random"):
        config = EvaluateConfig(
            arm=arm, agent=AgentConfig(kind=arm), device=device, tasks=str(exploration), episodes=4,
            record_all=True, records=0,
        )  # fmt: skip
        evaluate.run(config, out=root / arm)
    return root


def test_every_try_is_recorded_and_imports_as_an_offline_episode(night, tmp_path):
    recordings = list(read_recordings(night / "oracle" / "recordings"))
    assert len(recordings) == 4 and {r.outcome for r in recordings} == {"success"}
    main(
        [
            "import", "--format", "recordings", "--recordings.folder", str(night / "oracle" / "recordings"),
            "--out", str(tmp_path / "episodes"),
        ]
    )  # fmt: skip
    episodes = {e.episode_id: e for e in EpisodeStore(tmp_path / "episodes")}
    assert len(episodes) == 4
    for recording in recordings:
        episode = episodes[recording.episode_id]
        acted = [m.action for m in recording.moments[:-1]]
        assert [s.action for s in episode.steps] == [*acted, None] and episode.num_actions in (2, 3)
        assert episode.total_reward == 1.0 and episode.is_terminated and episode.goal == recording.task.goal
        assert episode.steps[0].screenshot == recording.moments[0].image.read_bytes()


def test_what_a_kill_or_a_fault_cut_off_does_not_stand_in_the_way_of_the_import(night, tmp_path):
    """Resumed, an evaluation plays again what was under way, and what had ended after an episode that had not."""
    shutil.copytree(night / "oracle" / "recordings", tmp_path / "recordings")
    one, two, three, _ = sorted((tmp_path / "recordings").iterdir())
    shutil.copytree(one, one.with_suffix(".2"))
    shutil.copytree(two, two.with_suffix(".2"))
    (two / END).unlink()
    arguments = ["import", "--format", "recordings", "--recordings.folder", str(tmp_path / "recordings")]
    main([*arguments, "--out", str(tmp_path / "episodes")])
    manifest = artifacts.read_manifest(tmp_path / "episodes")
    assert (
        manifest.counts["episodes"] == 4 and manifest.counts["bad"] == 0 and manifest.counts["ignored"] == 2
    )
    (three / END).unlink()
    with pytest.raises(SystemExit):
        main([*arguments, "--out", str(tmp_path / "half")])
    main([*arguments, "--on-bad", "skip", "--out", str(tmp_path / "half"), "--overwrite"])
    manifest = artifacts.read_manifest(tmp_path / "half")
    assert manifest.counts["episodes"] == 3 and "cut off" in manifest.extra["problems"][0]


def test_a_judge_is_held_against_what_was_recorded(night, exploration, tmp_path, capsys):
    rules = {"sound": "Volume", "licence": "Free for all", "ringtone": "Bell"}
    ruled = [
        dataclasses.replace(t, params={**t.params, "success_text": rules[t.params["screen"]]})
        for t in load_tasks(exploration)
    ]
    save_tasks(ruled, tmp_path / "ruled.json")
    command = ["rejudge", str(night / "oracle" / "recordings"), "--tasks", str(tmp_path / "ruled.json")]
    main([*command, "--out", str(tmp_path / "rows.jsonl")])
    said = capsys.readouterr().out
    assert (
        "rules calls 4 of them successes" in said and "agrees with the recorded outcomes in 100.0 %" in said
    )
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {2, 3}
    with pytest.raises(ConfigError, match="judge that can judge recordings"):
        from digiq.cli import rejudge

        rejudge.main([*command[1:], "--judge.name", "state"])


def test_a_judge_that_errs_is_counted(night):
    def never(moment: Moment):
        return "failure" if moment.action.ends_episode else None

    def silent(moment: Moment):
        raise JudgeError("no answer")

    found = agreement(list(rejudge_all(night / "oracle" / "recordings", never)))
    assert (found.true_positives, found.positives, found.negatives, found.errors) == (0, 4, 0, 0)
    found = agreement(list(rejudge_all(night / "oracle" / "recordings", silent)))
    assert found.errors == 4 and found.positives == 0
    rows = [Rejudged("e", "t", *pair, 1) for pair in (("success", "success"), ("failure", "success"))]
    rows += [Rejudged("e", "t", "truncated", "truncated", 1), Rejudged("e", "t", "success", "failure", 1)]
    found = agreement(rows)
    assert (found.true_positives, found.positives, found.true_negatives, found.negatives) == (1, 2, 1, 2)
    assert found.share.value == 0.5


def test_where_nobody_recorded_what_was_done_no_success_is_claimed(night):
    oracle, chance = (
        json.loads((night / arm / "table.json").read_text())["pooled"] for arm in ("oracle", "random")
    )
    assert "notes" not in oracle and "no_claim" not in oracle and oracle["success"] == 1.0
    assert chance["notes"]["unrecorded"]["share"] > 0.3 and "nothing of success" in chance["no_claim"]
    results = read_results(night / "random" / "episodes.jsonl")
    assert sum(r.notes.get("unrecorded", 0) for r in results) == chance["notes"]["unrecorded"]["steps"]


def test_an_evaluation_is_corrected_for_its_judges_errors(night, exploration, tmp_path, capsys):
    """Chance never succeeds, so its recordings and the oracle's together are what the judge's errors are known by."""
    both = tmp_path / "both"
    for arm in ("oracle", "random"):
        for folder in (night / arm / "recordings").iterdir():
            shutil.copytree(folder, both / f"{arm}-{folder.name}")
            begin = both / f"{arm}-{folder.name}" / "begin.json"
            about = json.loads(begin.read_text())
            begin.write_text(json.dumps({**about, "episode_id": f"{arm}/{about['episode_id']}"}))
    outcomes = {r.outcome for r in read_recordings(both)}
    assert "success" in outcomes and len(outcomes) > 1
    ruled = [
        dataclasses.replace(t, params={**t.params, "success_text": "Volume|Free for all|Bell"})
        for t in load_tasks(exploration)
    ]
    save_tasks(ruled, tmp_path / "ruled.json")
    command = ["rejudge", str(both), "--tasks", str(tmp_path / "ruled.json")]
    main([*command, "--rate", str(night / "oracle")])
    said = capsys.readouterr().out
    assert "oracle: 100.0 % as judged; with the judge's errors" in said and "faults left out" in said


def pixels_of(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB").tobytes()


def shown(payload) -> bytes:
    """The screenshot of a question to an OpenAI-compatible server."""
    (part,) = [part for part in payload["messages"][-1]["content"] if part["type"] == "image_url"]
    return pixels_of(base64.b64decode(part["image_url"]["url"].split(",")[1]))


def test_a_vision_language_model_judges_recordings(night, tmp_path, capsys):
    """It is shown the screen at an episode's end, once an episode; what it does not answer is no failure."""
    ends = {
        pixels_of(r.moments[-1].image.read_bytes()) for r in read_recordings(night / "oracle" / "recordings")
    }
    says = [lambda payload: json.dumps({"verdict": "success" if shown(payload) in ends else "failure"})]
    judge = ["--judge.name", "vlm", "--judge.vlm.model.cache", "None", "--judge.vlm.model.url"]
    with Served(lambda payload: says[-1](payload)).running() as served:
        main(["rejudge", str(night / "oracle" / "recordings"), *judge, served.url])
        said = capsys.readouterr().out
        assert "4 episodes; vlm calls 4 of them successes" in said and "calls 4" in said
        says.append(lambda payload: '{"verdict": "failure"}')
        main(["rejudge", str(night / "oracle" / "recordings"), *judge, served.url])
        assert "of 4 recorded successes it sees 0" in capsys.readouterr().out
        says.append(lambda payload: "Hm.")
        rows = tmp_path / "rows.jsonl"
        main(["rejudge", str(night / "oracle" / "recordings"), *judge, served.url, "--out", str(rows)])
        assert "in 4 it gave no answer" in capsys.readouterr().out
        assert {row.outcome for row in read_rows(rows)} == {"judge_error"}


def test_a_vision_language_model_judges_while_an_agent_plays(tmp_path):
    """When the agent declares the end, and where the budget ends an episode that it never declares."""
    with Served(lambda payload: '{"verdict": "success"}').running() as served:
        device = {"judge": {"name": "vlm", "vlm": {"model": {"url": served.url, "cache": None}}}}
        for kind in ("quitter", "homesick"):  # one declares success at once, the other never
            asked = len(served.asked)
            config = load(
                EvaluateConfig,
                {
                    "agent": {"kind": kind},
                    "device": device,
                    "tasks": "general/test",
                    "episodes": 3,
                    "records": 0,
                },
            )
            evaluate.run(config, out=tmp_path / kind)
            results = read_results(tmp_path / kind / "episodes.jsonl")
            assert {str(result.outcome) for result in results} == {"success"}
            assert len(served.asked) - asked == 3
    with Served(lambda payload: '{"verdict": "success"}').running() as served:
        judge = load(VlmJudge, {"model": {"url": served.url, "cache": None}})
        task = load_tasks("general/test")[0]
        seen = Observation(np.zeros((8, 6, 3), np.uint8), task.goal, "", "[]")
        assert judge(Moment(task, Action.impossible(), seen, cast(Any, None))) == "failure"
        assert judge(Moment(task, Action.home(), seen, cast(Any, None))) is None and not served.asked
        often = dataclasses.replace(judge, when="reached")
        assert often(Moment(task, Action.home(), seen, cast(Any, None))) == "success"
