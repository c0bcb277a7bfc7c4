"""The episode store: what goes in comes out, TFDS reads it, a killed writer goes on, damage is named."""

import dataclasses
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from android_env.actions import Action
from digiq.data.schema import Episode, Step, decode_png, encode_png
from digiq.data.store import EpisodeStore, EpisodeWriter
from digiq.errors import ArtifactError

ACTIONS = [
    Action.tap(0.25, 0.75),
    Action.swipe("up"),
    Action.type_text('commas, "quotes" and ünïcode'),
    Action.back(),
    Action.home(),
    Action.enter(),
    Action.complete(),
    Action.impossible(),
]


def make_episode(name: str, actions, *, terminal: bool = True, reward: float = 1.0) -> Episode:
    rng = np.random.default_rng(len(name))
    png = encode_png(rng.integers(0, 255, (8, 6, 3), np.uint8))
    steps = [
        Step(
            screenshot=png,
            goal="buy tea",
            activity="shop/.Main",
            action=action,
            behavior_log_prob=-0.5 * t,
            reward=reward if t == len(actions) - 1 else 0.0,
            is_first=t == 0,
        )
        for t, action in enumerate(actions)
    ]
    last = Step(
        screenshot=png,
        goal="buy tea",
        behavior_log_prob=0.0,
        is_first=not actions,
        is_last=True,
        is_terminal=terminal,
    )
    return Episode(
        episode_id=name, task_id="t", outcome="success", screen_hw=(8, 6), seed=3, steps=(*steps, last)
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.sampled_from(ACTIONS), max_size=5), min_size=1, max_size=4), st.booleans())
def test_round_trip(tmp_path_factory, plans, terminal):
    path = tmp_path_factory.mktemp("store")
    episodes = [make_episode(f"e{i}", plan, terminal=terminal) for i, plan in enumerate(plans)]
    with EpisodeWriter(path, episodes_per_shard=2) as writer:
        for episode in episodes:
            writer.write(episode)
    store = EpisodeStore(path)
    assert [store[i] for i in range(len(store))] == episodes
    assert store.episode_ids == [e.episode_id for e in episodes]


def test_tfds_reads_it_and_tensorflow_stays_out(tmp_path):
    import tensorflow_datasets as tfds

    with EpisodeWriter(tmp_path) as writer:
        writer.write(make_episode("a", ACTIONS))
    source = tfds.builder_from_directory(str(tmp_path)).as_data_source(split="train")
    steps = list(source[0]["steps"])
    assert source[0]["episode_id"] == b"a"
    assert [int(s["action"]["type"]) for s in steps] == [4, 4, 3, 5, 6, 7, 10, 11, -1]
    assert decode_png(steps[0]["observation"]["screenshot"]).shape == (8, 6, 3)
    assert "tensorflow" not in sys.modules


def test_an_interrupted_writer_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt), EpisodeWriter(tmp_path, episodes_per_shard=2) as writer:
        for name in ("a", "b", "c"):
            writer.write(make_episode(name, ACTIONS[:2]))
        raise KeyboardInterrupt
    with pytest.raises(ArtifactError, match="no finished episodes"):
        EpisodeStore(tmp_path)
    with EpisodeWriter(tmp_path, episodes_per_shard=2) as writer:
        assert set(writer.written) == {"a", "b", "c"}
        writer.write(make_episode("d", ACTIONS[:1]))
    assert EpisodeStore(tmp_path).episode_ids == ["a", "b", "c", "d"]


def test_a_killed_process_loses_only_the_open_shard(tmp_path):
    program = """
import os, signal, sys
from digiq.data.store import EpisodeWriter
from tests.digiq.data.test_store import ACTIONS, make_episode
writer = EpisodeWriter(sys.argv[1], episodes_per_shard=2)
for name in ("a", "b", "c"):
    writer.write(make_episode(name, ACTIONS))
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    (tmp_path / "episodes-00001.unfinished.99.tmp").write_bytes(b"half a shard")
    with EpisodeWriter(tmp_path, episodes_per_shard=2) as writer:
        assert set(writer.written) == {"a", "b"}
        writer.write(make_episode("c", ACTIONS))
    assert list(EpisodeStore(tmp_path)) == [make_episode(name, ACTIONS) for name in "abc"]
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize("renamed", [0, 1, 2, 3])
def test_a_kill_while_finishing_loses_nothing(tmp_path, monkeypatch, renamed):
    writer = EpisodeWriter(tmp_path, episodes_per_shard=1)
    for name in ("a", "b", "c"):
        writer.write(make_episode(name, ACTIONS[:1]))
    rename, calls = Path.rename, []

    def killed(path, target):
        calls.append(target)
        if len(calls) > renamed:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        try:
            writer.finish()
        except KeyboardInterrupt:
            assert renamed < 3
    with EpisodeWriter(tmp_path, episodes_per_shard=1) as writer:
        assert set(writer.written) == {"a", "b", "c"}
        writer.write(make_episode("d", ACTIONS[:1]))
    assert EpisodeStore(tmp_path).episode_ids == ["a", "b", "c", "d"]
    assert len(list(tmp_path.glob("*array_record*"))) == 4


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    with EpisodeWriter(tmp_path, episodes_per_shard=1) as writer:
        for name in ("a", "b"):
            writer.write(make_episode(name, ACTIONS))
    shard = next(tmp_path.glob("*array_record-00001-*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=r"array_record-00001-of-00002: damaged shard"):
        list(EpisodeStore(tmp_path))


def test_what_is_no_text_beside_the_shards_is_left_to_who_verifies(tmp_path):
    with EpisodeWriter(tmp_path) as writer:
        writer.write(make_episode("a", ACTIONS[:1]))
    about = tmp_path / "features.json"
    about.write_bytes(b"\xe9" + about.read_bytes()[1:])
    assert len(EpisodeStore(tmp_path)) == 1


def test_a_missing_shard_is_named(tmp_path):
    with EpisodeWriter(tmp_path, episodes_per_shard=1) as writer:
        for name in ("a", "b", "c"):
            writer.write(make_episode(name, ACTIONS[:1]))
    next(tmp_path.glob("*array_record-00001-*")).unlink()
    with pytest.raises(ArtifactError, match="shard 1 of 3 is missing"):
        EpisodeStore(tmp_path)


def test_duplicate_ids_and_empty_datasets_are_refused(tmp_path):
    writer = EpisodeWriter(tmp_path)
    with pytest.raises(ArtifactError, match="no episode"):
        writer.finish()
    writer.write(make_episode("a", ACTIONS[:1]))
    with pytest.raises(ValueError, match="already there"):
        writer.write(make_episode("a", ACTIONS[:1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": math.nan}, "reward is nan"),
        ({"discount": 1.5}, "discount 1.5"),
        ({"is_terminal": True}, "terminal but not last"),
        ({"action": None}, "every step but the last"),
    ],
)
def test_bad_steps_are_refused(change, message):
    good = make_episode("a", ACTIONS[:3])
    steps = (good.steps[0], dataclasses.replace(good.steps[1], **change), *good.steps[2:])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, steps=steps)
