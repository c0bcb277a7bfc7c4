"""Labelled episodes: what labels change, whose copy an episode is, and what is known of it without its screens."""

import dataclasses

import numpy as np
import pytest

from digiq import artifacts
from digiq.data import store as stores
from digiq.data.rewards import Label, LabelledEpisodes, write_labels
from digiq.data.store import EpisodeStore, EpisodeWriter
from digiq.data.transitions import build_transitions, observation_index
from digiq.errors import ArtifactError
from tests.digiq.data.test_store import ACTIONS, make_episode

NAMES = ("shop~general/0", "shop~general/1", "shop~g1", "plain")


def label(name, source="", **changes):
    fields = {"goal": None, "rewards": (0.0, 0.0, 1.0), "provenance": "recorded"} | changes
    return Label(episode_id=name, source_id=source or name, **fields)


def write(path, episodes):
    with EpisodeWriter(path) as writer:
        for episode in episodes:
            writer.write(episode)
    return path


@pytest.fixture
def labelled(tmp_path):
    episodes = [make_episode(name, ACTIONS[:3], terminal=n != 3) for n, name in enumerate(NAMES)]
    copy = label("copy", NAMES[1], goal="another", rewards=(0.0,) * 3, provenance="other_goals")
    write(tmp_path / "episodes", episodes)
    with artifacts.write(tmp_path / "rewards", stage="label", version=1, config={}) as w:
        write_labels(w.path, [*map(label, NAMES), copy])
        w.complete()
    return LabelledEpisodes(tmp_path / "episodes", tmp_path / "rewards")


def test_outlines_say_what_the_episodes_say(labelled):
    assert list(labelled.outlines) == [episode.outline for episode in labelled]
    plain = EpisodeStore(labelled._store.path)
    assert list(plain.outlines) == [episode.outline for episode in plain]
    assert np.array_equal(observation_index(labelled), observation_index(list(labelled)))
    for timeout in ("terminal", "bootstrap"):
        one, other = (build_transitions(e, timeout=timeout) for e in (labelled, list(labelled)))
        assert all(
            np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
        )


def test_only_labels_make_copies_whatever_an_episode_is_called(labelled):
    assert [e.copy_of for e in labelled] == ["", "", "", "", NAMES[1]]
    assert [e.source_id for e in labelled.outlines] == [*NAMES, NAMES[1]]
    assert (labelled[4].goal, labelled[4].outcome) == ("another", "failure")


def test_ids_lengths_and_rewards_unpack_no_screen_and_are_read_once(labelled, monkeypatch):
    again, reads = LabelledEpisodes(labelled._store.path), []
    stores._outlines.cache_clear()
    monkeypatch.setattr(stores, "_from_example", lambda example: pytest.fail("a screen was unpacked"))
    record = EpisodeStore._record
    monkeypatch.setattr(
        EpisodeStore, "_record", lambda self, index: reads.append(index) or record(self, index)
    )
    for episodes in (labelled, again, LabelledEpisodes(labelled._store.path)):
        assert len(observation_index(episodes)) == len(build_transitions(episodes)) + 1
        assert [outline.split for outline in episodes.outlines] == ["train"] * len(episodes)
    assert reads == [0, 1, 2, 3]


def test_a_store_that_was_written_again_is_read_again(tmp_path):
    path = write(tmp_path / "a", [make_episode("first", ACTIONS[:2])])
    assert EpisodeStore(path).episode_ids == ["first"]
    write(path, [make_episode("second", ACTIONS[:1])])  # appends
    assert EpisodeStore(path).episode_ids == ["first", "second"]


def test_labels_that_do_not_fit_are_refused(labelled, tmp_path):
    for wrong, message in (
        (label("plain", rewards=(1.0,)), "1 rewards for 3"),
        (label("x"), "labels episode x"),
    ):
        with artifacts.write(tmp_path / "r", stage="label", version=1, config={}, overwrite=True) as w:
            write_labels(w.path, [wrong])
            w.complete()
        with pytest.raises(ArtifactError, match=message):
            _ = LabelledEpisodes(labelled._store.path, tmp_path / "r").outlines
