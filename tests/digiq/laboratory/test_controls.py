"""Controls: what they deal out, and that it tells nothing. On a chain whose success ends episodes, one of them leaks."""

import dataclasses

import numpy as np
import pytest

from digiq import artifacts
from digiq.critics.training_data import prepare
from digiq.data.labels import Unlabelled
from digiq.data.rewards import LabelledEpisodes, _relabel_outline, write_labels
from digiq.data.schema import Outline
from digiq.data.store import EpisodeWriter
from digiq.data.transitions import build_transitions, observation_index
from digiq.errors import ArtifactError
from digiq.laboratory.controls import ShuffledEnds, ShuffledOutcomes
from digiq.statistics import auc
from tests.digiq.data.test_store import ACTIONS, make_episode

LONGEST, GOAL = 20, 6
GAMMA = 0.95


class Outlines(list):
    """Outlines that pass for episodes, as those of a store do."""

    @property
    def outlines(self):
        return self


def walks(seed, episodes=60):
    """Episodes on a chain, and the places of their screens: steps forth and back, and reaching the goal ends one."""
    rng = np.random.default_rng(seed)
    made, places = Outlines(), []
    for number in range(episodes):
        at = [0]
        while at[-1] < GOAL and len(at) <= LONGEST:
            at.append(max(0, at[-1] + (1 if rng.random() < 0.65 else -1)))
        won, actions = at[-1] == GOAL, len(at) - 1
        rewards = (*(0.0,) * (actions - 1), float(won))
        discounts = (*(1.0,) * (actions - 1), 1.0 - won)
        made.append(
            Outline(episode_id=str(number), goal="", rewards=rewards, discounts=discounts, is_terminated=won)
        )
        places.append(at)
    return made, places


def value(made, places, source, timeout):
    """V of each place before the goal by tabular TD, float64[GOAL]; all are visited."""
    labels = source.rewards(made)
    labelled = Outlines(_relabel_outline(one, label) for one, label in zip(made, labels, strict=True))
    t = build_transitions(labelled, timeout=timeout)
    place = np.array([places[e][s] for e, s in observation_index(labelled)])
    here, after = place[t.obs], place[t.next_obs]
    step = np.zeros((GOAL, GOAL + 1))
    np.add.at(step, (here, after), GAMMA * t.discount)
    visits = np.bincount(here, minlength=GOAL)[:, None]
    rewards = np.bincount(here, weights=t.reward, minlength=GOAL)
    return np.linalg.solve(np.eye(GOAL) - (step / visits)[:, :GOAL], rewards / visits[:, 0])


def signal(source, timeout="terminal", seeds=200):
    """By seed, how well V tells the places near the goal from the others, float64[seeds]."""
    near = np.arange(GOAL) >= GOAL // 2
    return np.array([auc(value(*walks(s), source(seed=s), timeout), near) for s in range(seeds)])


def test_outcomes_dealt_out_alone_tell_where_success_is():
    assert signal(ShuffledOutcomes, seeds=20).mean() > 0.95


def test_ends_dealt_out_with_them_tell_nothing():
    found = signal(ShuffledEnds, "bootstrap")
    assert abs(found.mean() - 0.5) < 3 * found.std() / np.sqrt(len(found)) < 0.1
    # A cut-off that counts as an end without reward would tell where recorded ends are.
    assert signal(ShuffledEnds, "terminal", seeds=20).mean() < 0.1


@pytest.fixture
def episodes():
    return [
        make_episode(f"e{n}", ACTIONS[: 1 + n % 4], reward=float(n % 3 == 0), terminal=n % 5 > 0)
        for n in range(40)
    ]


def test_as_many_ends_are_paid_as_recorded_and_no_recorded_end_is_left(episodes):
    found = list(ShuffledEnds(seed=3).rewards(episodes))
    assert len(found) == len(episodes) and found == list(ShuffledEnds(seed=3).rewards(episodes))
    assert found != list(ShuffledEnds(seed=4).rewards(episodes))
    ends, paid = 0, 0.0
    for episode, label in zip(episodes, found, strict=True):
        steps = episode.num_actions - episode.is_terminated
        if not steps:
            assert isinstance(label, Unlabelled) and label.episode_id == episode.episode_id
            continue
        assert len(label.rewards) == len(label.discounts) == steps and label.provenance == "shuffled"
        assert all(d == 0 or not r for r, d in zip(label.rewards, label.discounts, strict=True))
        ends, paid = ends + label.discounts.count(0.0), paid + sum(label.rewards)
    assert (ends, paid) == (40, sum(e.total_reward for e in episodes))


def test_a_critic_reads_them_and_sees_every_screen_that_was_acted_on(episodes, tmp_path):
    with EpisodeWriter(tmp_path / "episodes") as writer:
        for episode in episodes:
            writer.write(episode)
    labels = [x for x in ShuffledEnds().rewards(episodes) if not isinstance(x, Unlabelled)]
    with artifacts.write(tmp_path / "rewards", stage="label", version=1, config={}) as w:
        write_labels(w.path, labels)
        w.complete()
    labelled = LabelledEpisodes(tmp_path / "episodes", tmp_path / "rewards")
    assert list(labelled.outlines) == [episode.outline for episode in labelled]
    assert not any(episode.is_terminated for episode in labelled)
    acted = [e for e in episodes if e.num_actions - e.is_terminated]
    index = observation_index(labelled)
    assert len(index) == len(observation_index(acted))
    features = {
        "observation": np.eye(len(index), dtype=np.float32),
        "pair": np.eye(len(index), dtype=np.float32),
        "candidate_row": np.arange(len(index), dtype=np.int64)[:, None],
    }
    data = prepare(
        build_transitions(labelled, timeout="bootstrap"), features, gamma=GAMMA, timeout="bootstrap"
    )
    assert (data.table.discount == 0).sum() == sum(label.discounts.count(0.0) for label in labels)


def test_discounts_that_do_not_fit_are_refused(episodes):
    label = next(iter(ShuffledEnds().rewards(episodes[3:4])))
    assert not isinstance(label, Unlabelled) and label.discounts
    short = dataclasses.replace(label, discounts=label.discounts[1:])
    with pytest.raises(ArtifactError, match="2 discounts for 3 actions"):
        _relabel_outline(episodes[3].outline, short)
