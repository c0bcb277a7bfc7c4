"""What each format's own files become, and what is wrong with broken ones. The fixtures' sources stand in formats.py."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from android_env.actions import Action, ActionType
from digiq.config import load
from digiq.data.import_episodes import ImportConfig, run
from digiq.data.importers.android_control import read_forest
from digiq.data.importers.files import format_of
from digiq.data.importers.jsonl import Jsonl
from digiq.data.schema import Episode, decode_png
from digiq.data.store import EpisodeStore
from digiq.data.transitions import build_transitions, returns
from digiq.errors import DigiQError
from tests.digiq.data import formats
from tests.digiq.data import test_aitw as aitw
from tests.digiq.data.test_aitw import field, varint


def imported(kind: str, out: Path, *, on_bad: str = "error", **settings: Any) -> tuple[list[Episode], Any]:
    config = load(ImportConfig, {"format": kind, kind: settings, "on_bad": on_bad})
    artifact = run(config, out=out)
    return list(EpisodeStore(out)), artifact.manifest


# --- Android in the Wild


def good(name: str) -> list[dict]:
    return [
        aitw.step(name, 0, 2, ActionType.DUAL_POINT),
        aitw.step(name, 1, 2, ActionType.STATUS_TASK_COMPLETE),
    ]


def test_folders_and_files_that_are_links_are_followed_once(tmp_path):
    aitw.write_shard(tmp_path / "disk/general/general-00000-of-00002", good("a"))
    aitw.write_shard(tmp_path / "disk/general/general-00001-of-00002", good("b"))
    aitw.write_shard(tmp_path / "file/google_apps-00000-of-00001", good("c"))
    root = tmp_path / "root"
    (root / "google_apps").mkdir(parents=True)
    (root / "general").symlink_to(tmp_path / "disk/general")
    (root / "google_apps/google_apps-00000-of-00001").symlink_to(tmp_path / "file/google_apps-00000-of-00001")
    (root / "loop").symlink_to(root)
    episodes, manifest = imported("aitw", tmp_path / "out", source=str(root))
    assert [e.episode_id for e in episodes] == ["a", "b", "c"] and manifest.counts["bad"] == 0
    (tmp_path / "link").symlink_to(root)
    assert len(imported("aitw", tmp_path / "again", source=str(tmp_path / "link"))[0]) == 3


STRAY = [
    "general-00001-of-00002_.gstmp",
    "._general-00000-of-00002",
    "general-00000-of-00002.md5",
    ".DS_Store",
    "_SUCCESS",
]


@pytest.mark.parametrize("stray", STRAY)
def test_what_downloads_leave_is_no_shard(tmp_path, stray):
    for n, name in enumerate("ab"):
        aitw.write_shard(tmp_path / f"aitw/general/general-{n:05d}-of-00002", good(name))
    (tmp_path / "aitw/general" / stray).write_bytes(b"junk0123456789")
    episodes, manifest = imported("aitw", tmp_path / "out", source=str(tmp_path / "aitw"))
    assert [e.episode_id for e in episodes] == ["a", "b"]
    assert manifest.counts.get("ignored", 0) == (stray.startswith("general"))


def test_a_source_without_general_shards_runs_as_it_is(tmp_path):
    aitw.write_shard(tmp_path / "aitw/install/install-00000-of-00001", good("a"))
    aitw.write_shard(tmp_path / "aitw/single/single-00000-of-00001", good("b"))
    episodes, _ = imported("aitw", tmp_path / "out", source=str(tmp_path / "aitw"))
    assert [(e.episode_id, e.split) for e in episodes] == [("a", "train"), ("b", "train")]


def test_a_coordinate_a_thousandth_off_the_screen_is_clamped_and_counted(tmp_path):
    off = {"results/yx_touch": [1.0009, 0.5], "results/yx_lift": [-0.001, 0.5]}
    steps = [aitw.step("a", 0, 2, ActionType.DUAL_POINT, **off), good("a")[1]]
    aitw.write_shard(tmp_path / "aitw/single/single-00000-of-00001", steps)
    (episode,), manifest = imported("aitw", tmp_path / "out", source=str(tmp_path / "aitw"))
    assert (episode.steps[0].action.touch_yx, episode.steps[0].action.lift_yx) == ((1.0, 0.5), (0.0, 0.5))
    assert manifest.counts["clamped"] == 2


def test_official_splits_say_who_is_where(tmp_path):
    aitw.write_shard(tmp_path / "aitw/general/general-00000-of-00001", [s for n in "abc" for s in good(n)])
    splits = tmp_path / "standard.json"
    splits.write_text(json.dumps({"train": ["a"], "test": ["c"], "validation": []}))
    settings = {"source": str(tmp_path / "aitw"), "split_file": str(splits)}
    episodes, _ = imported("aitw", tmp_path / "out", **settings)
    assert [(e.episode_id, e.split) for e in episodes] == [("a", "train"), ("c", "test")]
    splits.with_name("twice.json").write_text(json.dumps({"train": ["a"], "test": ["a"]}))
    with pytest.raises(DigiQError, match="episode a is in both 'train' and 'test'"):
        imported("aitw", tmp_path / "no", **settings | {"split_file": str(tmp_path / "twice.json")})


@pytest.mark.parametrize("kind", formats.MAKERS)
def test_another_formats_files_say_which_format_to_take(tmp_path, kind):
    formats.MAKERS[kind](tmp_path / "logs", ("a", "b"))
    mine = "aitw" if kind != "aitw" else "jsonl"
    with pytest.raises(DigiQError, match=f"use --format {kind} "):
        imported(mine, tmp_path / "out", source=str(tmp_path / "logs"))


def test_android_in_the_wild_is_told_from_android_control(tmp_path):
    aitw.write_shard(tmp_path / "aitw/general/general-00000-of-00001", good("a"))
    with pytest.raises(DigiQError, match="use --format aitw"):
        imported("android_control", tmp_path / "out", source=str(tmp_path / "aitw"))


# --- JSON lines


def lines(root: Path, *episodes: Any) -> Path:
    formats.make_jsonl(root, ("a", "b"))
    for name in "ab":
        (root / f"{name}.jsonl").unlink()
    texts = [e if isinstance(e, str) else json.dumps(e) for e in episodes]
    (root / "log.jsonl").write_text("\n".join(texts) + "\n")
    return root


def test_a_line_is_an_episode_with_all_that_it_says(tmp_path):
    steps = [
        {
            "screenshot": "screens/a0.png",
            "action": {"action_type": "click", "x": 10, "y": 20},
            "log_prob": -0.5,
            "candidates": [
                {"action": {"action_type": "navigate_back"}, "log_prob": -1.5},
                {"action": "Action: click(point='<point>500 500</point>')"},
            ],
            "ui_elements": [{"text": "OK", "role": "button", "yxhw": [0.1, 0.2, 0.3, 0.4]}],
            "activity": "shop/.Main",
            "thought": "tap it",
        },
        {"screenshot": "screens/a1.png"},
    ]
    line = formats.jsonl_line(
        "a", steps=steps, outcome="success", app="Shop", device="pixel", policy="ui-tars", run=7
    )
    root = lines(tmp_path / "logs", line)
    (episode,), _ = imported("jsonl", tmp_path / "out", source=str(root), say={"dialect": "ui_tars"})
    first = episode.steps[0]
    assert first.action == Action.tap(0.25, 0.25) and first.behavior_log_prob == -0.5
    assert json.loads(first.ui_elements)[0]["yxhw"] == [0.1, 0.2, 0.3, 0.4]
    assert (episode.device, episode.policy, first.activity) == ("pixel", "ui-tars", "shop/.Main")
    extras = json.loads(first.extras)
    assert extras["thought"] == "tap it" and json.loads(episode.extras) == {"app": "Shop", "run": 7}
    assert [c["action"] for c in extras["candidates"]] == [str(Action.back()), str(Action.tap(0.5, 0.5))]
    assert [c["log_prob"] for c in extras["candidates"]] == [-1.5, None]
    assert (episode.outcome, episode.total_reward, episode.is_terminated) == ("success", 1.0, True)
    # The screenshot's own bytes are kept: nothing is decoded and encoded again.
    assert first.screenshot == formats.png("a", 0)


@pytest.mark.parametrize(("kind", "same"), [("JPEG", True), ("WEBP", True), ("BMP", False)])
def test_screenshots_keep_their_bytes_where_they_can(tmp_path, kind, same):
    root = lines(tmp_path / "logs", formats.jsonl_line("a"))
    pixels = decode_png(formats.png("a", 0))
    for t in range(2):
        Image.fromarray(pixels).save(root / f"screens/a{t}.png", kind)
    (episode,), _ = imported("jsonl", tmp_path / "out", source=str(root))
    assert (episode.steps[0].screenshot == (root / "screens/a0.png").read_bytes()) is same
    assert decode_png(episode.steps[0].screenshot).shape == pixels.shape
    (small,), _ = imported("jsonl", tmp_path / "small", source=str(root), max_side=40)
    assert decode_png(small.steps[0].screenshot).shape[:2] == small.screen_hw == (40, 20)


def test_how_it_ended_follows_what_is_known(tmp_path):
    tap = {"screenshot": "screens/a0.png", "action": {"action_type": "click", "x": 10, "y": 20}}
    end = {"screenshot": "screens/a1.png"}
    root = lines(
        tmp_path / "logs",
        formats.jsonl_line("cut", steps=[tap, tap]),
        formats.jsonl_line("told", steps=[tap, tap], outcome="failure"),
        formats.jsonl_line("paid", steps=[tap | {"reward": 0.5}, tap, end]),
        formats.jsonl_line("open", steps=[tap, tap, end]),
        formats.jsonl_line("late", steps=[tap, tap, end], outcome="truncated"),
    )
    episodes = {e.episode_id: e for e in imported("jsonl", tmp_path / "out", source=str(root))[0]}
    assert {n: (e.num_actions, e.outcome, e.total_reward, e.is_terminated) for n, e in episodes.items()} == {
        "cut": (1, "truncated", 0.0, False),
        "told": (2, "failure", 0.0, True),
        "paid": (2, "success", 0.5, True),
        "open": (2, "truncated", 0.0, False),
        "late": (2, "truncated", 0.0, False),
    }


GOOD = formats.jsonl_line("b")


def with_step(**changes: Any) -> dict[str, Any]:
    line = formats.jsonl_line("a")
    line["steps"][0] |= changes
    return line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"episode_id": "a", "goal', "line 1: the line: Invalid JSON"),
        ("[1, 2]", "line 1: the line: Input should be an object"),
        (formats.jsonl_line("a", steps=[]), "line 1: steps: List should have at least 1 item"),
        (formats.jsonl_line("a", outcome="won"), "line 1: outcome: Input should be 'success'"),
        (with_step(screenshot="screens/none.png"), "step 0: screenshot 'screens/none.png' is missing"),
        (with_step(screenshot="../../etc/passwd"), "etc/passwd' is outside"),
        (with_step(screenshot="/etc/passwd"), "etc/passwd' is outside"),
        (with_step(action={"action_type": "click", "x": 999, "y": 20}), "is outside"),
        (with_step(action={"action_type": "fly"}), "no action 'fly'"),
        (with_step(action="whatever"), "no JSON object"),
        (with_step(action=None), "step 0 has no action"),
        (with_step(reward=math.inf), "steps.0.reward"),
        (with_step(candidates=[{"action": {"action_type": "fly"}}]), "no action 'fly'"),
        (with_step(ui_elements=[{"yxhw": [1, 2]}]), "steps.0.ui_elements.0.yxhw"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_or_left_out(tmp_path, line, message):
    root = lines(tmp_path / "logs", line, GOOD)
    with pytest.raises(DigiQError, match=r"log\.jsonl, line 1") as error:
        imported("jsonl", tmp_path / "out", source=str(root))
    assert message in str(error.value) and "on_bad: skip" in str(error.value)
    episodes, manifest = imported("jsonl", tmp_path / "skipped", source=str(root), on_bad="skip")
    assert [e.episode_id for e in episodes] == ["b"] and manifest.counts["bad"] == 1


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path):
    root = lines(tmp_path / "logs", with_step(screenshot="screens/out.png"))
    (tmp_path / "secret.png").write_bytes(formats.png("s", 0))
    (root / "screens/out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DigiQError, match=r"screenshot .* is outside"):
        imported("jsonl", tmp_path / "out", source=str(root))


def test_two_episodes_of_one_id_are_named(tmp_path):
    root = lines(tmp_path / "logs", formats.jsonl_line("a"), formats.jsonl_line("a", goal="other"))
    with pytest.raises(DigiQError, match="episode a is in"):
        imported("jsonl", tmp_path / "out", source=str(root))
    episodes, manifest = imported("jsonl", tmp_path / "skipped", source=str(root), on_bad="skip")
    assert [e.goal for e in episodes] == ["open a"] and manifest.counts["bad"] == 1


def test_the_schema_says_what_a_line_holds():
    schema = Jsonl.schema()
    assert set(schema["required"]) == {"episode_id", "goal", "steps"}
    assert {"screenshot", "action", "candidates", "reward", "ui_elements"} <= set(
        schema["$defs"]["JsonlStep"]["properties"]
    )


# --- AndroidControl


def test_android_controls_actions_and_what_is_known_of_each_screen(tmp_path):
    acts = [
        {"action_type": "open_app", "app_name": "Clock"},
        {"action_type": "click", "x": 20, "y": 40},
        {"action_type": "input_text", "text": "7:30"},
        {"action_type": "wait"},
        {"action_type": "scroll", "direction": "down"},
        {"action_type": "long_press", "x": 5, "y": 10},
        {"action_type": "type", "x": 5, "y": 10, "text": "tea"},
        {"action_type": "navigate_back"},
    ]
    tree = forest([(1, "OK", (10, 20, 30, 60), True, True), (2, "hidden", (0, 0, 9, 9), True, False)])
    n = len(acts)
    record = formats.android_control_record(
        "x",
        episode_id=[17],
        screenshots=[formats.png("a", t) for t in range(n + 1)],
        accessibility_trees=[tree] * (n + 1),
        screenshot_widths=[40] * (n + 1),
        screenshot_heights=[80] * (n + 1),
        actions=[json.dumps(a).encode() for a in acts],
        step_instructions=[b"do it"] * n,
    )
    aitw.write_shard(tmp_path / "ac/android_control-00000-of-00001", [record])
    (tmp_path / "packages.json").write_text('{"Clock": "com.google.android.deskclock"}')
    (tmp_path / "splits.json").write_text('{"train": [], "test": [17]}')
    settings = {"source": str(tmp_path / "ac"), "split_file": str(tmp_path / "splits.json")}
    (episode,), manifest = imported(
        "android_control", tmp_path / "out", **settings, packages=str(tmp_path / "packages.json")
    )
    found = [step.action for step in episode.steps[:-1]]
    assert found[:4] == [
        Action(ActionType.OPEN_APP, text="com.google.android.deskclock"),
        Action.tap(0.5, 0.5),
        Action.type_text("7:30"),
        Action(ActionType.WAIT),
    ]
    assert found[4].swipe_direction == "up" and found[5] == Action(ActionType.LONG_PRESS, (0.125, 0.125))
    assert found[6:] == [Action.type_text("tea"), Action.back(), Action.complete()]
    assert (episode.split, episode.policy, episode.total_reward, episode.is_terminated) == (
        "test",
        "human",
        1.0,
        True,
    )
    assert json.loads(episode.steps[0].ui_elements) == [
        {"text": "OK", "role": "Button", "yxhw": [0.25, 0.25, 0.5, 0.5], "clickable": True}
    ]
    assert json.loads(episode.steps[0].extras) == {"step_instruction": "do it"}
    assert json.loads(episode.extras) == {"app": "com.shop"}
    assert manifest.counts["merged"] == 1 and "apps_without_package" not in manifest.counts
    (plain,), counted = imported("android_control", tmp_path / "plain", **settings, declare=False)
    assert plain.num_actions == 8 and plain.total_reward == 1.0 and plain.steps[-2].action == Action.back()
    assert counted.counts["apps_without_package"] == 1


def forest(nodes: list[tuple[int, str, tuple[int, int, int, int], bool, bool]]) -> bytes:
    """As android_env's a11y messages lay it out; boxes are left, top, right, bottom."""

    def number(tag: int, value: int) -> bytes:
        return varint(tag << 3) + varint(value)

    tree = b""
    for name, text, box, clickable, visible in nodes:
        sides = b"".join(number(k, v) for k, v in enumerate(box, start=1))
        node = number(1, name) + field(2, sides) + field(3, b"android.widget.Button")
        node += field(6, b"com.shop") + field(7, text.encode()) + number(14, clickable) + number(23, visible)
        tree += field(1, node)
    return field(1, field(11, tree))


def test_bytes_that_are_no_tree_have_no_elements():
    assert read_forest(b"\xff\xff\xff", (80, 40)) == ([], "") == read_forest(b"", (80, 40))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": []}, "'actions' is missing"),
        ({"screenshots": [formats.png("a", 0)]}, "1 screenshots need one action fewer"),
        ({"actions": [b"{"]}, "names the action"),
        ({"screenshots": [b"no png", formats.png("a", 0)]}, "screenshot is not a readable image"),
        ({"screenshot_heights": [80]}, "1 heights"),
        ({"actions": [b'{"action_type": "click", "x": 4000, "y": 1}']}, "outside"),
    ],
)
def test_a_broken_record_of_android_control_is_named(tmp_path, changes, message):
    bad = {key: value for key, value in formats.android_control_record("bad", **changes).items() if value}
    records = [bad, formats.android_control_record("good")]
    aitw.write_shard(tmp_path / "ac/android_control-00000-of-00001", records)
    with pytest.raises(DigiQError, match=message) as error:
        imported("android_control", tmp_path / "out", source=str(tmp_path / "ac"))
    assert "record 0" in str(error.value)
    episodes, _ = imported(
        "android_control", tmp_path / "skipped", source=str(tmp_path / "ac"), on_bad="skip"
    )
    assert [e.episode_id for e in episodes] == ["good"]


# --- Android in the Zoo


def test_android_in_the_zoo_keeps_ids_points_elements_and_thoughts(tmp_path):
    folder = tmp_path / "aitz/test/google_apps/G-1"
    folder.mkdir(parents=True)
    for t in range(3):
        (folder / f"G-1_{t}.png").write_bytes(formats.png("g", t))
    swipe = {"result_touch_yx": "[0.54, 0.5]", "result_lift_yx": "[0.0011, 0.57]"}
    steps = [
        formats.aitz_step("G-1", 0, 3, 4, **swipe),
        formats.aitz_step("G-1", 1, 3, 3, result_action_text="shoes, red"),
        formats.aitz_step("G-1", 2, 3, 10),
    ]
    (folder / "G-1.json").write_text(json.dumps(steps))
    (episode,), _ = imported("aitz", tmp_path / "out", source=str(tmp_path / "aitz"))
    assert episode.steps[0].action.swipe_direction == "up" and episode.steps[1].action.text == "shoes, red"
    assert (episode.split, episode.task_id, episode.outcome, episode.num_actions) == (
        "test",
        "google_apps",
        "success",
        3,
    )
    assert json.loads(episode.steps[0].ui_elements) == [
        {"text": "Set", "role": "TEXT", "yxhw": [0.1, 0.1, 0.2, 0.5]}
    ]
    assert json.loads(episode.steps[0].extras) == {"action_desc": "tap it"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_id": 5}, "step 0 has step_id 5"),
        ({"result_touch_yx": "[9.0, 0.5]"}, "outside"),
        ({"ui_positions": "oops"}, "Expecting value"),
        ({"image_path": "general/a/none.png"}, "No such file"),
        ({"result_action_type": 77}, "77"),
        ({"episode_length": 9}, "episode_length is 9"),
    ],
)
def test_a_broken_episode_of_the_zoo_is_named(tmp_path, change, message):
    formats.make_aitz(tmp_path / "aitz", ("a", "b"))
    file = tmp_path / "aitz/train/general/a/a.json"
    steps = json.loads(file.read_text())
    steps[0] |= change
    file.write_text(json.dumps(steps))
    with pytest.raises(DigiQError, match=message) as error:
        imported("aitz", tmp_path / "out", source=str(tmp_path / "aitz"))
    assert "a.json: episode a" in str(error.value)


# --- DigiRL's and Digi-Q's .pt


def test_upstreams_trajectories_pay_as_upstream_counts(tmp_path):
    steps = [
        formats.digirl_step("a", t, reward=float(t == 3), done=t == 3, action_list=f"{formats.HOME}<split>no")
        for t in range(4)
    ]
    (tmp_path / "pt").mkdir()
    torch.save([steps], tmp_path / "pt/general.pt")
    for t in range(4):
        (tmp_path / f"a{t}.png").write_bytes(formats.png("a", t))
    (episode,), _ = imported("digirl", tmp_path / "out", source=str(tmp_path / "pt"), images=str(tmp_path))
    assert (episode.goal, episode.outcome, episode.num_actions) == ("open a", "success", 4)
    assert episode.steps[1].action == Action.home() and episode.is_terminated
    extras = json.loads(episode.steps[0].extras)
    assert [c["action"] for c in extras["candidates"]] == [str(Action.home())] and extras["unparsable"] == 1
    # add_mc_return of upstream's env_utils.py, in NumPy.
    gammas = np.cumprod(np.ones((1, 4)) * 0.95)
    matrix = np.triu(gammas.reshape(1, -1) / gammas.reshape(-1, 1))
    expected = (np.array([[0.0, 0.0, 0.0, 1.0]]) * matrix).sum(axis=1)
    np.testing.assert_allclose(returns(build_transitions([episode]), 0.95), expected, atol=1e-6)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("save", [torch.save, lambda x, f: f.write_bytes(pickle.dumps(x))])
def test_code_in_a_pt_file_does_not_run(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save([[{"observation": Bomb()}]], tmp_path / "bad.pt")
    with pytest.raises(
        DigiQError, match=r"bad\.pt: (holds more than arrays, texts and numbers|cannot be read)"
    ):
        imported("digirl", tmp_path / "out", source=str(tmp_path / "bad.pt"))
    assert not (tmp_path / "ran").exists()


def test_a_screenshot_that_is_gone_is_named_or_blank(tmp_path):
    formats.make_digirl(tmp_path / "pt", ("a",))
    (tmp_path / "pt/a1.png").unlink()
    with pytest.raises(
        DigiQError, match=r"trajectory 0: step 1: screenshot '/gone/images/a1.png' is missing"
    ):
        imported("digirl", tmp_path / "out", source=str(tmp_path / "pt"))
    (episode,), manifest = imported("digirl", tmp_path / "blank", source=str(tmp_path / "pt"), blank=True)
    assert episode.num_actions == 2 and manifest.counts["blank"] == 1


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_a_damaged_pt_file_is_named(tmp_path, data):
    (tmp_path / "bad.pt").write_bytes(data)
    with pytest.raises(DigiQError, match=r"bad\.pt"):
        imported("digirl", tmp_path / "out", source=str(tmp_path / "bad.pt"))


# --- RLDS


def test_any_rlds_directory_with_a_mapping(tmp_path):
    """Written by TFDS itself, with keys and a notation of its own."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    f = tfds.features
    features = f.FeaturesDict(
        {
            "name": f.Text(),
            "steps": f.Dataset({"observation": {"image": f.Text()}, "say": f.Text(), "instruction": f.Text(), "reward": np.float32, "is_terminal": np.bool_}),
        }
    )  # fmt: skip
    says = ['{"action_type": "click", "x": 10, "y": 20}', '{"action_type": "navigate_back"}', ""]
    steps = [
        {
            "observation": {"image": formats.png("r", t)},
            "say": say,
            "instruction": "go",
            "reward": float(t == 1),
            "is_terminal": t == 2,
        }
        for t, say in enumerate(says)
    ]
    (tmp_path / "rlds").mkdir()
    writer = ArrayRecordWriter(str(tmp_path / "rlds/mine-train.array_record-00000-of-00001"), "group_size:1")
    writer.write(features.serialize_example(features.encode_example({"name": "e1", "steps": steps})))
    writer.close()
    keys = {
        "screenshot": "steps/observation/image",
        "goal": "steps/instruction",
        "action": "steps/say",
        "episode_id": "name",
    }
    (episode,), _ = imported("rlds", tmp_path / "out", source=str(tmp_path / "rlds"), keys=keys)
    assert [s.action for s in episode.steps] == [Action.tap(0.25, 0.25), Action.back(), None]
    assert (episode.episode_id, episode.goal, episode.total_reward, episode.outcome) == (
        "e1",
        "go",
        1.0,
        "success",
    )
    with pytest.raises(DigiQError, match=r"set rlds\.keys"):
        imported("rlds", tmp_path / "no", source=str(tmp_path / "rlds"))
    with pytest.raises(DigiQError, match=r"rlds.keys: 'image' is not one of"):
        imported("rlds", tmp_path / "no", source=str(tmp_path / "rlds"), keys={"image": "x"})


def test_our_own_episodes_come_back_as_rlds(tmp_path):
    formats.make_jsonl(tmp_path / "logs", ("a", "b"))
    ours, _ = imported("jsonl", tmp_path / "ours", source=str(tmp_path / "logs"))
    again, _ = imported("rlds", tmp_path / "again", source=str(tmp_path / "ours"))
    for a, b in zip(ours, again, strict=True):
        assert [s.action for s in a.steps] == [s.action for s in b.steps]
        assert (a.episode_id, a.goal, a.outcome, a.total_reward) == (
            b.episode_id,
            b.goal,
            b.outcome,
            b.total_reward,
        )
        assert [s.screenshot for s in a.steps] == [s.screenshot for s in b.steps]


# --- extras


def test_what_a_device_of_ours_recorded_has_no_extras_on_disk(tmp_path):
    from digiq.data.store import EpisodeWriter
    from tests.digiq.data.test_store import ACTIONS, make_episode

    with EpisodeWriter(tmp_path / "e") as writer:
        writer.write(make_episode("a", ACTIONS))
    assert "extras" not in (tmp_path / "e/features.json").read_text()
    assert EpisodeStore(tmp_path / "e")[0].extras == EpisodeStore(tmp_path / "e")[0].steps[0].extras == "{}"


def test_an_image_that_is_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    big = io.BytesIO()
    Image.new("RGB", (50, 50)).save(big, "PNG")
    root = lines(tmp_path / "logs", formats.jsonl_line("a"))
    (root / "screens/a0.png").write_bytes(big.getvalue())
    with pytest.raises(DigiQError, match="cannot be read"):
        imported("jsonl", tmp_path / "out", source=str(root))


# --- the command and the guide


def test_the_command_prints_the_schema(capsys):
    from digiq import cli

    cli.main(["import", "--format", "jsonl", "--schema"])
    assert json.loads(capsys.readouterr().out) == Jsonl.schema()
    for arguments in (["import", "--schema"], ["label", "--schema"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        assert "--schema" in capsys.readouterr().err


def test_the_writer_of_the_guide_writes_what_is_imported(tmp_path):
    import re

    guide = (Path(__file__).parents[3] / "docs/data_formats.md").read_text()
    code = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0]
    space: dict[str, Any] = {}
    exec(code, space)
    for name in ("1", "2"):
        log = space["Log"](str(tmp_path / "logs"), name, "open it")
        log.step(formats.png("a", 0), {"action_type": "click", "x": 10, "y": 20}, log_prob=-0.5)
        log.step(formats.png("a", 1), {"action_type": "status", "goal_status": "complete"})
        log.end("success" if name == "1" else "failure")
    episodes, _ = imported("jsonl", tmp_path / "out", source=str(tmp_path / "logs"))
    assert [(e.episode_id, e.outcome, e.num_actions) for e in episodes] == [
        ("1", "success", 2),
        ("2", "failure", 2),
    ]
    example = re.findall(r"```json\n(.*?)```", guide, re.DOTALL)[0]
    from digiq.data.importers.jsonl import JsonlEpisode

    assert JsonlEpisode.model_validate(json.loads(example)).outcome == "success"


def test_a_format_is_told_however_many_screenshots_come_first(tmp_path):
    """As the writer in docs/data_formats.md lays files out: `0/0.png` sorts before `episodes.jsonl`."""
    for number in range(300):
        (tmp_path / f"{number}.PNG").touch()
    assert format_of(tmp_path) is None
    (tmp_path / "episodes.jsonl").write_text("{}")
    assert format_of(tmp_path) == "jsonl"
