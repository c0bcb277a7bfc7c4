"""What every source of rewards does; the laboratory's control and the guide's example as well. And the guide as it stands."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from digiq.config import load, to_dict
from digiq.data import label as stage
from digiq.data.label import LabelConfig
from digiq.data.labels import LABELS
from digiq.data.rewards import LabelledEpisodes, read_labels
from digiq.data.store import EpisodeStore, EpisodeWriter
from digiq.errors import DigiQError
from tests.digiq import guides
from tests.digiq.data.test_store import ACTIONS, make_episode

guides.import_example("guides_labels", "class Shorter")
TOY, SHUFFLED = "guides_labels:Shorter", "digiq.laboratory.controls:ShuffledOutcomes"
every = pytest.mark.parametrize("name", [*LABELS, SHUFFLED, TOY])


def config(name: str, **settings) -> LabelConfig:
    return load(LabelConfig, {"source": name, name if name in LABELS else "own": settings})


def write(path, outcomes, splits):
    with EpisodeWriter(path) as writer:
        for n, (reward, split) in enumerate(zip(outcomes, splits, strict=True)):
            made = make_episode(f"shop~general/{n}", ACTIONS[: 1 + n % 4], reward=reward, terminal=n % 5 > 0)
            steps = [dataclasses.replace(step, goal=f"goal {n % 3}") for step in made.steps]
            writer.write(dataclasses.replace(made, split=split, steps=tuple(steps)))
    return path


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "episodes"
    return write(path, [1.0] * 10 + [0.0] * 30 + [1.0] * 5 + [0.0], ["train"] * 40 + ["test"] * 6)


@every
def test_every_recorded_episode_is_labelled_once_and_copies_come_after(name, episodes, tmp_path):
    artifact = stage.run(config(name), episodes=episodes, out=tmp_path / "rewards")
    labels, store = read_labels(tmp_path / "rewards"), EpisodeStore(episodes)
    recorded = [label for label in labels if not label.is_copy]
    assert [label.episode_id for label in labels[: len(recorded)]] == store.episode_ids
    assert len({label.episode_id for label in labels}) == len(labels)
    counts = artifact.manifest.counts
    assert (counts["episodes"], counts["recorded"]) == (len(labels), len(store))
    labelled = LabelledEpisodes(episodes, tmp_path / "rewards")
    assert counts["successes"] == sum(e.total_reward > 0 for e in labelled.outlines if not e.copy_of)
    # Whoever reads them finds rewards that fit, finite, and copies that say whose they are, whatever they are called.
    splits = {outline.episode_id: outline.split for outline in store.outlines}
    for episode, label in zip(labelled, labels, strict=True):
        assert tuple(step.reward for step in episode.steps[:-1]) == pytest.approx(label.rewards)
        assert np.isfinite(label.rewards).all() and label.provenance
        assert bool(episode.copy_of) is label.is_copy and episode.split == splits[episode.source_id]
        assert not label.is_copy or episode.goal != store[store.episode_ids.index(label.source_id)].goal


@every
def test_the_same_seed_pays_the_same(name, episodes):
    store = EpisodeStore(episodes)
    once, again = (list(config(name).chosen.rewards(store)) for _ in range(2))
    assert once == again == list(config(name).chosen.rewards(list(store)))
    if any(field.name == "seed" for field in dataclasses.fields(config(name).chosen)):
        assert once != list(config(name, seed=4).chosen.rewards(store))


def test_outcomes_are_the_recorded_rewards(episodes):
    labels = list(config("outcome").chosen.rewards(EpisodeStore(episodes)))
    expected = [tuple(step.reward for step in e.steps[:-1]) for e in EpisodeStore(episodes)]
    assert [label.rewards for label in labels] == expected
    assert {label.provenance for label in labels} == {"recorded"}


def test_other_goals_adds_as_many_failures_as_asked_for(episodes):
    labels = list(config("other_goals", copies=2).chosen.rewards(EpisodeStore(episodes)))
    copies = [label for label in labels if label.is_copy]
    assert len(copies) == 2 * 46 and all(sum(label.rewards) == 0 for label in copies)
    assert all(one.goal != other.goal for one, other in zip(copies[::2], copies[1::2], strict=True))


def test_one_goal_cannot_be_another(tmp_path):
    path = write(tmp_path / "episodes", [1.0], ["train"])
    with pytest.raises(DigiQError, match="split 'train' share one goal, so source: other_goals"):
        list(config("other_goals").chosen.rewards(EpisodeStore(path)))


def test_shuffled_outcomes_are_dealt_out_within_each_split(episodes):
    before = list(config("outcome").chosen.rewards(EpisodeStore(episodes)))
    after = list(config(SHUFFLED, seed=3).chosen.rewards(EpisodeStore(episodes)))
    assert [len(a.rewards) for a in after] == [len(b.rewards) for b in before]
    won = [sum(label.rewards) for label in after]
    assert sum(won[:40]) == 10 and sum(won[40:]) == 5
    assert won[:10] != [1.0] * 10
    assert all(set(label.rewards[:-1]) <= {0.0} and label.provenance == "shuffled" for label in after)


FOLLOWED = """
    import sys
    from pathlib import Path
    from digiq.data import label
    from digiq.data.rewards import read_labels
    from tests.digiq import guides
    episodes, out = map(Path, sys.argv[1:])
    label.run(label.LabelConfig(source="shorter"), episodes=episodes, out=out)
    print([sum(found.rewards) for found in read_labels(out)][:3])
    print(guides.identity(label.LabelConfig()))
"""


def test_the_contributors_guide_to_rewards_works_as_it_stands(episodes, tmp_path):
    paths = (episodes, tmp_path / "out")
    printed = guides.follow("digiq.data.labels", "LABELS", "class Shorter", FOLLOWED, tmp_path, *paths)
    rewards, identity = printed.splitlines()
    assert json.loads(rewards) == pytest.approx([1.0, 0.9, 0.81])
    # What does not use the new member is what it was.
    assert identity == guides.identity(LabelConfig())
    assert set(to_dict(LabelConfig())) == {"source", "outcome"}


def test_another_goal_is_never_an_episodes_own(episodes):
    own = {outline.episode_id: outline.goal for outline in EpisodeStore(episodes).outlines}
    for seed in range(5):
        labels = config("other_goals", copies=2, seed=seed).chosen.rewards(EpisodeStore(episodes))
        copies = [label for label in labels if label.is_copy]
        assert len(copies) == 92 and all(label.goal != own[label.source_id] for label in copies)
