"""Importing Android in the Wild: synthetic TFRecords with each fault, and the real sample where it is."""

import gzip
import io
import math
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from android_env.actions import ActionType
from digiq.data.import_episodes import ImportConfig, run
from digiq.data.importers import ahead
from digiq.data.importers.aitw import AitW
from digiq.data.label import LabelConfig
from digiq.data.label import run as label
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.data.store import EpisodeStore
from digiq.data.tfrecord import TFRecordError, parse_example, read_records
from digiq.errors import DigiQError

SAMPLE = Path(__file__).parents[4] / "shared" / "data" / "aitw_sample"


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict) -> bytes:
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            feature = field(1, b"".join(field(1, v) for v in values))
        elif isinstance(values[0], float):
            feature = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = field(3, field(1, b"".join(varint(v) for v in values)))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def step(episode: str, number: int, length: int, kind: int, **changes) -> dict:
    pixels = np.full((4, 2, 3), 10 * number, np.uint8).tobytes()
    features = {
        "episode_id": [episode.encode()],
        "goal_info": [f"open {episode}".encode()],
        "current_activity": [b"app/.Main"],
        "device_type": [b"pixel"],
        "results/type_action": [b"hello, world"],
        "image/encoded": [pixels],
        "step_id": [number],
        "episode_length": [length],
        "image/height": [4],
        "image/width": [2],
        "image/channels": [3],
        "results/action_type": [kind],
        "results/yx_touch": [0.5, 0.25],
        "results/yx_lift": [0.5, 0.25],
        "image/ui_annotations_text": [b"OK"],
        "image/ui_annotations_ui_types": [b"TEXT"],
        "image/ui_annotations_positions": [0.1, 0.2, 0.3, 0.4],
    }
    return features | changes


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def write_shard(path: Path, steps: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(framed(example(s)) for s in steps)))
    return path


def shown(episodes) -> list[str]:
    """Episodes to compare: unknown log-probabilities are NaN, which equals nothing."""
    return [repr(episode) for episode in episodes]


GOOD = [step("a", 0, 2, ActionType.DUAL_POINT), step("a", 1, 2, ActionType.STATUS_TASK_COMPLETE)]
TYPED = [step("b", 0, 2, ActionType.TYPE), step("b", 1, 2, ActionType.PRESS_BACK)]


@pytest.fixture
def source(tmp_path):
    write_shard(tmp_path / "aitw/general/general-00000-of-00002", GOOD + TYPED)
    write_shard(
        tmp_path / "aitw/general/general-00001-of-00002", [step("c", 0, 1, ActionType.STATUS_TASK_IMPOSSIBLE)]
    )
    return tmp_path / "aitw"


def test_endings_splits_and_actions(source, tmp_path):
    artifact = run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "out")
    a, b, c = EpisodeStore(tmp_path / "out")
    assert (a.outcome, a.num_actions, a.total_reward, a.is_terminated) == ("success", 2, 1.0, True)
    assert (b.outcome, b.num_actions, b.is_terminated) == (
        "truncated",
        1,
        False,
    )  # its last outcome was never seen
    assert b.steps[0].action.text == "hello, world"
    assert (c.outcome, c.total_reward, c.is_terminated, c.split) == ("failure", 0.0, True, "test")
    assert all(math.isnan(step.behavior_log_prob) for step in a.steps)
    assert (a.split, a.goal, a.task_id) == ("train", "open a", "general-00000-of-00002")
    assert decode_png(a.steps[1].screenshot)[0, 0].tolist() == [10, 10, 10]
    assert artifact.manifest.counts["truncated"] == 1


def bad(tmp_path, steps) -> Path:
    write_shard(tmp_path / "bad/general/general-00000-of-00002", steps + GOOD)
    write_shard(
        tmp_path / "bad/general/general-00001-of-00002", [step("z", 0, 1, ActionType.STATUS_TASK_COMPLETE)]
    )
    return tmp_path / "bad"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("x", 0, 1, 10, **{"image/encoded": [b"123"]})], r"image/encoded has 3 bytes.*4 x 2 x 3"),
        ([step("x", 0, 3, 4), step("x", 2, 3, 10)], r"episode x: step 1 is missing"),
        ([step("x", 0, 3, 4), step("x", 1, 3, 4)], r"episode x: step 2 is missing"),
        ([step("x", 1, 2, 10)], r"episode x: step 0 is missing"),
        ([step("x", 0, 2, 4), step("x", 0, 2, 4), step("x", 1, 2, 10)], r"step ids are \[0, 0, 1\]"),
        ([step("x", 0, 1, 4)], r"episode x: its only step \(DUAL_POINT\) has no known outcome"),
        ([step("x", 0, 1, 10, **{"image/encoded": [b""], "image/height": [0]})], r"image/height .* 0 x 2"),
        ([step("x", 0, 1, 10, **{"image/ui_annotations_positions": [float("nan")] * 4})], r"positions holds"),
        ([step("x", 0, 1, 99)], r"action_type 99"),
        ([step("x", 0, 1, 4, **{"results/yx_touch": [0.5, 7.0]})], r"touch_yx .* in \[0, 1\]"),
        ([step("x", 0, 1, 10, goal_info=[b"a", b"b"])], r"goal_info must hold one"),
    ],
)
def test_a_bad_episode_is_named_or_skipped(tmp_path, steps, message):
    folder = bad(tmp_path, steps)
    with pytest.raises(DigiQError, match=message) as error:
        run(ImportConfig(aitw=AitW(source=folder)), out=tmp_path / "out")
    assert "general-00000-of-00002" in str(error.value)
    assert "on_bad: skip" in str(error.value)
    artifact = run(ImportConfig(aitw=AitW(source=folder), on_bad="skip"), out=tmp_path / "skipped")
    assert artifact.manifest.counts["bad"] == 1
    assert artifact.manifest.extra["problems"] == [str(error.value)]
    assert EpisodeStore(tmp_path / "skipped").episode_ids == ["a", "z"]


def test_an_episode_that_comes_twice_is_named_or_counted_once(source, tmp_path):
    write_shard(source / "other/other-00000-of-00001", GOOD)
    with pytest.raises(
        DigiQError, match=r"other-00000-of-00001: episode a is in .*general-00000-of-00002 too"
    ):
        run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "out")
    artifact = run(ImportConfig(aitw=AitW(source=source), on_bad="skip"), out=tmp_path / "skipped")
    assert (artifact.manifest.counts["episodes"], artifact.manifest.counts["bad"]) == (3, 1)
    assert EpisodeStore(tmp_path / "skipped").episode_ids == ["a", "b", "c"]


def test_an_interrupted_import_goes_on(source, tmp_path):
    good = (source / "general/general-00001-of-00002").read_bytes()
    (source / "general/general-00001-of-00002").write_bytes(good[:-20])
    with pytest.raises(DigiQError, match="truncated"):
        run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "out")
    (source / "general/general-00001-of-00002").write_bytes(good)
    resumed = run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "out")
    whole = run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "whole")
    assert shown(EpisodeStore(tmp_path / "out")) == shown(EpisodeStore(tmp_path / "whole"))
    assert resumed.manifest.counts == whole.manifest.counts
    assert resumed.manifest.counts["episodes"] == 3


def test_a_truncated_file_is_named(source, tmp_path):
    shard = source / "general/general-00000-of-00002"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(DigiQError, match=r"general-00000-of-00002: record \d is truncated"):
        run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "out")


def test_whole_episodes_before_the_damage_are_kept(source, tmp_path):
    shard = source / "general/general-00000-of-00002"
    # Not zipped, so that the cut falls into a known record: the second step of episode b.
    records = b"".join(framed(example(s)) for s in GOOD + TYPED)
    shard.write_bytes(records[:-10])
    artifact = run(ImportConfig(aitw=AitW(source=source), on_bad="skip"), out=tmp_path / "cut_b")
    assert EpisodeStore(tmp_path / "cut_b").episode_ids == ["a", "c"]
    assert "record 3 is truncated" in artifact.manifest.extra["problems"][0]
    shard.write_bytes(b"".join(framed(example(s)) for s in GOOD) + b"\0\0\0")
    run(ImportConfig(aitw=AitW(source=source), on_bad="skip"), out=tmp_path / "cut_end")
    assert EpisodeStore(tmp_path / "cut_end").episode_ids == ["a", "c"]


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a\x05abc",
        field(1, field(1, field(1, b"f") + field(2, field(2, field(1, b"abc"))))),
        field(1, field(1, field(1, b"\xff\xfe") + field(2, field(1, field(1, b"x"))))),
        example({"goal_info": [b"no episode_id"]}),
    ],
)
def test_a_record_that_is_no_step_is_named(source, tmp_path, payload):
    shard = source / "general/general-00000-of-00002"
    shard.write_bytes(gzip.compress(framed(example(GOOD[0])) + framed(payload)))
    with pytest.raises(
        DigiQError, match=r"general-00000-of-00002: record 1 is not a tf\.train\.Example step"
    ):
        run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "out")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 255))
def test_no_bytes_break_the_parser_otherwise_than_by_value_error(junk, position, byte):
    good = bytearray(example(step("a", 0, 1, ActionType.DUAL_POINT)))
    good[position % len(good)] = byte
    for payload in (junk, bytes(good)):
        try:
            parse_example(payload)
        except ValueError:
            continue


def test_a_flipped_byte_is_named(tmp_path):
    data = bytearray(framed(b"payload"))
    data[14] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(TFRecordError, match="record 0: the checksum differs"):
        list(read_records(tmp_path / "x"))


def test_missing_sources_and_shards(source, tmp_path):
    with pytest.raises(DigiQError, match="no such directory"):
        run(ImportConfig(aitw=AitW(source=tmp_path / "nowhere")), out=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DigiQError, match="holds no TFRecord shards"):
        run(ImportConfig(aitw=AitW(source=tmp_path / "empty")), out=tmp_path / "out")


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_shard_is_named_or_counted(source, tmp_path, number):
    (source / f"general/general-0000{number}-of-00002").unlink()
    with pytest.raises(DigiQError, match=f"general-0000{number}-of-00002: the file is missing"):
        run(ImportConfig(aitw=AitW(source=source, held_out_apps=0)), out=tmp_path / "out")
    left = run(
        ImportConfig(aitw=AitW(source=source, held_out_apps=0), on_bad="skip"), out=tmp_path / "skipped"
    )
    assert left.manifest.counts["missing"] == 1
    assert left.manifest.counts["episodes"] == 1 + (number == 1)
    assert not (tmp_path / "out").exists()


def test_one_file_may_be_imported_alone(source, tmp_path):
    shard = source / "general/general-00000-of-00002"
    run(ImportConfig(aitw=AitW(source=shard, held_out_apps=0)), out=tmp_path / "out")
    assert EpisodeStore(tmp_path / "out").episode_ids == ["a", "b"]


def test_example_parsing_keeps_negative_numbers():
    assert parse_example(example({"n": [-1, 5], "f": [-1.0], "s": [b"x", b""]})) == {
        "n": [-1, 5],
        "f": [-1.0],
        "s": [b"x", b""],
    }


def test_other_goals_adds_failures_within_a_split(tmp_path):
    write_shard(tmp_path / "aitw/general/general-00000-of-00001", GOOD + TYPED)
    run(ImportConfig(aitw=AitW(source=tmp_path / "aitw", held_out_apps=0)), out=tmp_path / "episodes")
    label(LabelConfig(source="other_goals"), episodes=tmp_path / "episodes", out=tmp_path / "rewards")
    labelled = list(LabelledEpisodes(tmp_path / "episodes", tmp_path / "rewards"))
    assert [(e.episode_id, e.goal, e.total_reward) for e in labelled] == [
        ("a", "open a", 1.0),
        ("b", "open b", 0.0),
        ("a~g1", "open b", 0.0),
        ("b~g1", "open a", 0.0),
    ]
    assert labelled[2].steps[0].action == labelled[0].steps[0].action


def test_recorded_labels_change_nothing(source, tmp_path):
    run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "episodes")
    label(LabelConfig(), episodes=tmp_path / "episodes", out=tmp_path / "rewards")
    labelled = list(LabelledEpisodes(tmp_path / "episodes", tmp_path / "rewards"))
    assert shown(labelled) == shown(EpisodeStore(tmp_path / "episodes"))
    assert [e.outcome for e in labelled] == ["success", "truncated", "failure"]


def test_one_goal_cannot_give_negatives(source, tmp_path):
    run(ImportConfig(aitw=AitW(source=source)), out=tmp_path / "episodes")
    with pytest.raises(DigiQError, match="share one goal"):
        label(LabelConfig(source="other_goals"), episodes=tmp_path / "episodes", out=tmp_path / "rewards")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"the AitW sample is not at {SAMPLE}")
def test_the_real_sample(tmp_path):
    artifact = run(ImportConfig(aitw=AitW(source=SAMPLE, max_side=128)), out=tmp_path / "out")
    assert artifact.manifest.counts == {
        "episodes": 47,
        "steps": 361,
        "bad": 0,
        "missing": 0,
        "truncated": 0,
        "test_episodes": 12,
    }
    genuine = next(e for e in EpisodeStore(tmp_path / "out") if e.task_id.startswith("google_apps"))
    kinds = [step.action.type for step in genuine.steps[:-1]]
    assert kinds == [
        ActionType.PRESS_HOME,
        ActionType.DUAL_POINT,
        ActionType.DUAL_POINT,
        ActionType.STATUS_TASK_COMPLETE,
    ]
    assert genuine.steps[1].action.swipe_direction == "up"
    assert genuine.steps[2].action.is_tap
    # The episode's end repeats the screen on which the task was declared complete.
    assert genuine.steps[-1].screenshot == genuine.steps[-2].screenshot
    assert genuine.screen_hw == decode_png(genuine.steps[0].screenshot).shape[:2] == (128, 58)
    assert [e.split for e in EpisodeStore(tmp_path / "out") if e.task_id == "general-00002-of-00003"] == [
        "test"
    ] * 12


def test_several_processes_store_the_same_in_the_same_order(tmp_path, monkeypatch):
    """With a bad episode, and one that comes twice, in the middle."""
    for number in range(5):
        steps = []
        for name in (f"e{number}", f"f{number}", "twice" if number in (1, 3) else f"g{number}"):
            kind = 99 if name == "f2" else ActionType.DUAL_POINT
            steps += [step(name, 0, 2, kind), step(name, 1, 2, ActionType.STATUS_TASK_COMPLETE)]
        write_shard(tmp_path / f"source/app/app-{number:05d}-of-00005", steps)
    config = ImportConfig(
        format="aitw", on_bad="skip", aitw=AitW(source=tmp_path / "source", held_out_apps=0)
    )
    one = run(config, out=tmp_path / "one")
    monkeypatch.setattr(ahead, "LARGE", 0)
    monkeypatch.setattr(ahead, "usable_cores", lambda: [0, 1])
    left = tmp_path / "several/import-left.tmp"  # of a run that was killed
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"")
    several = run(config, out=tmp_path / "several")
    assert several.manifest.counts == one.manifest.counts and one.manifest.counts["bad"] == 2
    assert several.manifest.extra == one.manifest.extra
    assert list(map(repr, EpisodeStore(tmp_path / "several"))) == list(
        map(repr, EpisodeStore(tmp_path / "one"))
    )
    assert not list((tmp_path / "several").glob("*.tmp"))


def test_an_import_in_processes_goes_on_where_it_stopped(tmp_path, monkeypatch):
    for number in range(3):
        steps = [step(f"e{number}", 0, 2, 4), step(f"e{number}", 1, 2, 10)]
        write_shard(tmp_path / f"source/app/app-{number:05d}-of-00003", steps)
    bad = tmp_path / "source/app/app-00002-of-00003"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-20])
    monkeypatch.setattr(ahead, "LARGE", 0)
    monkeypatch.setattr(ahead, "usable_cores", lambda: [0, 1])
    config = ImportConfig(format="aitw", aitw=AitW(source=tmp_path / "source", held_out_apps=0))
    with pytest.raises(DigiQError, match="00002-of-00003"):
        run(config, out=tmp_path / "out")
    bad.write_bytes(whole)
    assert run(config, out=tmp_path / "out").manifest.counts["episodes"] == 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_screens_that_are_image_files_already_stay_as_they_are(tmp_path, kind):
    def image(number: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.full((64, 32, 3), 10 * number, np.uint8)).save(buffer, kind)
        return buffer.getvalue()

    size = {"image/height": [64], "image/width": [32]}
    steps = [
        step("e", t, 2, kind_, **size, **{"image/encoded": [image(t)]}) for t, kind_ in ((0, 4), (1, 10))
    ]
    write_shard(tmp_path / "source/app/app-00000-of-00001", steps)
    aitw = AitW(source=tmp_path / "source", held_out_apps=0)
    run(ImportConfig(format="aitw", aitw=aitw), out=tmp_path / "out")
    (episode,) = EpisodeStore(tmp_path / "out")
    assert [s.screenshot for s in episode.steps] == [image(0), image(1), image(1)]
    assert episode.screen_hw == (64, 32)
    small = AitW(source=tmp_path / "source", held_out_apps=0, max_side=32)
    run(ImportConfig(format="aitw", aitw=small), out=tmp_path / "small")
    assert EpisodeStore(tmp_path / "small")[0].screen_hw == (32, 16)
    steps[0]["image/encoded"] = [image(0)[:20]]
    write_shard(tmp_path / "source/app/app-00000-of-00001", steps)
    with pytest.raises(DigiQError, match="episode e: image/encoded is not a readable image"):
        run(ImportConfig(format="aitw", aitw=aitw), out=tmp_path / "broken")
