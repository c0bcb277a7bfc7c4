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
from digiq.data.rewards import Label, LabelledEpisodes, read_labels
from digiq.data.store import EpisodeStore, EpisodeWriter
from digiq.errors import DigiQError
from tests.digiq import guides
from tests.digiq.data.test_store import ACTIONS, make_episode
from tests.digiq.served import Served

guides.import_example("guides_labels", "class Shorter")
TOY, SHUFFLED = "guides_labels:Shorter", "digiq.laboratory.controls:ShuffledOutcomes"
every = pytest.mark.parametrize("name", [*LABELS, SHUFFLED, TOY])
SETTINGS: dict[str, dict] = {}
"""What a source of rewards must be told, by name; made with the episodes."""


def config(name: str, **settings) -> LabelConfig:
    own = SETTINGS.get(name, {}) | settings
    return load(LabelConfig, {"source": name, name if name in LABELS else "own": own})


def verdict(payload) -> str:
    return json.dumps(
        {"why": "because", "verdict": "success" if "goal 1" in json.dumps(payload) else "failure"}
    )


def write(path, outcomes, splits):
    with EpisodeWriter(path) as writer:
        for n, (reward, split) in enumerate(zip(outcomes, splits, strict=True)):
            made = make_episode(f"shop~general/{n}", ACTIONS[: 1 + n % 4], reward=reward, terminal=n % 5 > 0)
            steps = [dataclasses.replace(step, goal=f"goal {n % 3}") for step in made.steps]
            writer.write(dataclasses.replace(made, split=split, steps=tuple(steps)))
    return path


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels")
    path = write(
        root / "episodes", [1.0] * 10 + [0.0] * 30 + [1.0] * 5 + [0.0], ["train"] * 40 + ["test"] * 6
    )
    lines = [
        {"episode_id": o.episode_id, "step_scores": [0.5] * o.num_actions, "source": "prm"}
        if n % 2
        else {"episode_id": o.episode_id, "first_error": 0}
        for n, o in enumerate(EpisodeStore(path).outlines)
    ]
    (root / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (root / "rules.json").write_text(
        '{"goal 1": {"success_activity": "shop/*"}, "*": {"success_text": "done"}}'
    )
    with Served(verdict).running() as served:
        SETTINGS["file"] = {"path": str(root / "labels.jsonl")}
        SETTINGS["rule"] = {"path": str(root / "rules.json")}
        SETTINGS["judge"] = {"model": {"url": served.url, "temperature": 0.0, "cache": None}}
        yield path


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
    # Calls are counted beside, and take turns.
    once, again = ([item for item in found if isinstance(item, Label)] for found in (once, again))
    listed = list(config(name).chosen.rewards(list(store)))
    assert once == again == [item for item in listed if isinstance(item, Label)]
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


# --- a file, rules, a judge


def labelled(episodes, out, name, **settings):
    manifest = stage.run(config(name, **settings), episodes=episodes, out=out).manifest
    return list(LabelledEpisodes(episodes, out)), manifest


def test_an_episode_ends_after_its_first_error(episodes, tmp_path):
    store = EpisodeStore(episodes)
    long = next(e for e in store if e.num_actions == 4 and e.is_terminated)
    lines = [{"episode_id": long.episode_id, "first_error": 1, "source": "someone"}]
    (tmp_path / "first.jsonl").write_text(json.dumps(lines[0]))
    found, _ = labelled(
        episodes, tmp_path / "r", "file", path=str(tmp_path / "first.jsonl"), missing="outcome"
    )
    cut = next(e for e in found if e.episode_id == long.episode_id)
    assert (cut.num_actions, cut.outcome, cut.is_terminated, cut.total_reward) == (2, "failure", True, 0.0)
    assert [s.action for s in cut.steps] == [*(s.action for s in long.steps[:2]), None]
    outline = next(
        o for o in LabelledEpisodes(episodes, tmp_path / "r").outlines if o.episode_id == long.episode_id
    )
    assert outline == cut.outline and outline.discounts == (1.0, 0.0)
    labels = {label.episode_id: label for label in read_labels(tmp_path / "r")}
    assert labels[long.episode_id].provenance == "file someone"
    # Others are as recorded, and their lines say nothing of a cut.
    others = [e for e in found if e.episode_id != long.episode_id]
    assert [e.total_reward for e in others] == [
        e.total_reward for e in store if e.episode_id != long.episode_id
    ]
    assert (tmp_path / "r/rewards.jsonl").read_text().count("length") == 1


def test_step_scores_pay_each_action(episodes, tmp_path):
    found, manifest = labelled(episodes, tmp_path / "r", "file", scale=0.2)
    assert [s.reward for s in found[3].steps[:-1]] == pytest.approx([0.1] * found[3].num_actions)
    assert {label.provenance for label in read_labels(tmp_path / "r")} == {"file", "file prm"}
    assert manifest.extra["agreement"]["episodes"] == len(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: the line: Invalid JSON"),
        ('{"episode_id": "x"}', "give one of outcome, rewards, step_scores and first_error"),
        ('{"episode_id": "x", "outcome": "won"}', "line 1: outcome"),
        ('{"episode_id": "x", "rewards": [NaN]}', "line 1: rewards.0"),
        (
            '{"episode_id": "x", "first_error": 0}\n{"episode_id": "x", "first_error": 0}',
            "line 2: episode x appears twice",
        ),
        ('{"episode_id": "x", "first_error": 0}', "has no line about episode"),
        ('{"episode_id": "shop~general/0", "first_error": 9}', "first_error is 9, but it has 1 actions"),
        ('{"episode_id": "shop~general/0", "rewards": [1, 2]}', "2 numbers for 1 actions"),
    ],
)
def test_a_bad_file_of_labels_is_named(episodes, tmp_path, text, message):
    (tmp_path / "l.jsonl").write_text(text)
    with pytest.raises(DigiQError) as error:
        list(config("file", path=str(tmp_path / "l.jsonl")).chosen.rewards(EpisodeStore(episodes)))
    assert message in str(error.value) and "l.jsonl" in str(error.value)


def test_what_a_file_lacks_can_be_left_out_and_is_counted(episodes, tmp_path):
    first = EpisodeStore(episodes).episode_ids[0]
    (tmp_path / "l.jsonl").write_text(json.dumps({"episode_id": first, "outcome": "success"}))
    found, manifest = labelled(
        episodes, tmp_path / "r", "file", path=str(tmp_path / "l.jsonl"), missing="leave_out"
    )
    assert [e.episode_id for e in found] == [first] and manifest.counts["judge_error"] == 45


def test_rules_pay_the_action_that_solved_it(episodes, tmp_path):
    found, manifest = labelled(episodes, tmp_path / "r", "rule")
    for episode in found:
        # Every screen but the last is in the shop, so a goal of two actions or more is reached by its first.
        whole = next(e for e in EpisodeStore(episodes) if e.episode_id == episode.episode_id)
        solved = episode.goal == "goal 1" and whole.num_actions > 1
        assert (episode.total_reward, episode.outcome) == (
            float(solved),
            "success" if solved else episode.outcome,
        )
        assert not solved or (episode.num_actions == 1 and episode.is_terminated)
    assert manifest.counts["successes"] == sum(e.total_reward for e in found) > 0


@pytest.mark.parametrize(
    "text", ["[]", '{"*": {}}', '{"*": {"done": "x"}}', "{", '{"*": {"success_text": "("}}']
)
def test_bad_rules_are_named(episodes, tmp_path, text):
    (tmp_path / "rules.json").write_text(text)
    with pytest.raises(DigiQError, match=r"rules\.json"):
        list(config("rule", path=str(tmp_path / "rules.json")).chosen.rewards(EpisodeStore(episodes)))


def test_a_judge_is_asked_about_screens_and_agrees_or_not(episodes, tmp_path):
    with Served(verdict).running() as served:
        model = {"url": served.url, "temperature": 0.0, "model": "m", "cache": str(tmp_path / "cache")}
        found, manifest = labelled(episodes, tmp_path / "r", "judge", model=model, screens=1)
        asked = len(served.asked)
        labelled(episodes, tmp_path / "again", "judge", model=model, screens=1)
        assert len(served.asked) == asked
    assert all(e.total_reward == float(e.goal == "goal 1") for e in found)
    assert {label.provenance for label in read_labels(tmp_path / "r")} == {"judge m v1 outcome"}
    counts, told = manifest.counts, manifest.extra["agreement"]
    assert counts["calls"] == asked and counts["prompt_tokens"] == 100 * asked and "judge_error" not in counts
    recorded = {o.episode_id: o.outcome for o in EpisodeStore(episodes).outlines}
    agree = [(e.total_reward > 0) == (recorded[e.episode_id] == "success") for e in found]
    assert told["agree"] == pytest.approx(np.mean(agree)) and 0 < told["agree"] < 1
    images = [
        part
        for m in served.asked[0][2]["messages"]
        if isinstance(m["content"], list)
        for part in m["content"]
        if part["type"] == "image_url"
    ]
    assert len(images) == 1


@pytest.mark.parametrize("said", ["I cannot see.", '{"verdict": "maybe"}', (503, b"busy"), (400, b"no")])
def test_what_a_judge_does_not_answer_is_an_error_and_no_failure(episodes, tmp_path, said):
    def answer(payload):
        return said if "goal 2" in json.dumps(payload) else verdict(payload)

    with Served(answer).running() as served:
        model = {"url": served.url, "cache": None, "retries": 0}
        found, manifest = labelled(episodes, tmp_path / "r", "judge", model=model)
    store = EpisodeStore(episodes)
    assert {e.goal for e in found} == {"goal 0", "goal 1"}
    assert manifest.counts["judge_error"] == sum(o.goal == "goal 2" for o in store.outlines)
    assert len(manifest.extra["judge_errors"]) == manifest.counts["judge_error"]
    with (
        Served(lambda payload: said).running() as served,
        pytest.raises(DigiQError, match="no episode could be labelled"),
    ):
        labelled(episodes, tmp_path / "none", "judge", model={"url": served.url, "cache": None, "retries": 0})


def test_a_judge_of_steps_scores_each_action(episodes, tmp_path):
    def scores(payload):
        return '{"why": "", "score": 0.5}' if "PRESS_BACK" in json.dumps(payload) else '{"score": 0}'

    with Served(scores).running() as served:
        found, _ = labelled(
            episodes, tmp_path / "r", "judge", of="step", scale=2.0, model={"url": served.url, "cache": None}
        )
    assert {s.reward for e in found for s in e.steps[:-1]} == {0.0, 1.0}
    with (
        Served(lambda payload: '{"score": 7}').running() as served,
        pytest.raises(DigiQError, match="no score from 0 to 1"),
    ):
        labelled(episodes, tmp_path / "no", "judge", of="step", model={"url": served.url, "cache": None})


def test_examples_are_shown_before_the_question(episodes, tmp_path):
    (tmp_path / "a.png").write_bytes(EpisodeStore(episodes)[0].steps[0].screenshot)
    shot = {"goal": "an example", "screens": ["a.png"], "verdict": "success", "why": "it is there"}
    (tmp_path / "shots.json").write_text(json.dumps([shot]))
    with Served(verdict).running() as served:
        labelled(
            episodes,
            tmp_path / "r",
            "judge",
            shots=str(tmp_path / "shots.json"),
            model={"url": served.url, "cache": None},
        )
    roles = [message["role"] for message in served.asked[0][2]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    (tmp_path / "bad.json").write_text(json.dumps([shot | {"screens": ["none.png"]}]))
    with pytest.raises(DigiQError, match=r"bad\.json"):
        labelled(
            episodes,
            tmp_path / "no",
            "judge",
            shots=str(tmp_path / "bad.json"),
            model={"url": "http://127.0.0.1:9"},
        )


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


def test_copies_are_numbered_from_one_and_one_is_the_least(episodes):
    labels = list(config("other_goals").chosen.rewards(EpisodeStore(episodes)))
    copies = [label for label in labels if label.is_copy]
    assert len(copies) == 46 and all(c.episode_id == f"{c.source_id}~g1" for c in copies)
    two = config("other_goals", copies=2).chosen.rewards(EpisodeStore(episodes))
    assert {c.episode_id[-3:] for c in two if c.is_copy} == {"~g1", "~g2"}
    with pytest.raises(DigiQError, match="copies"):
        config("other_goals", copies=0)
