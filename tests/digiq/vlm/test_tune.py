import dataclasses

import numpy as np
import pytest
import torch

from android_env.actions import Action
from digiq.data.schema import Episode, Step, encode_png
from digiq.data.store import EpisodeWriter
from digiq.errors import DigiQError
from digiq.vlm import tune
from digiq.vlm.backbone import load_backbone
from digiq.vlm.tune import TuneVlmConfig, actionability_examples, screen_changed

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def shade(value: int) -> np.ndarray:
    return np.full((80, 48, 3), value, np.uint8)


def episode(number: int, shades: tuple[int, ...], action: Action, split: str = "train") -> Episode:
    last = len(shades) - 1
    steps = tuple(
        Step(
            screenshot=encode_png(shade(value)),
            goal="Go to fernhub.com",
            action=None if t == last else action,
            is_first=t == 0,
            is_last=t == last,
            is_terminal=t == last,
        )
        for t, value in enumerate(shades)
    )
    return Episode(episode_id=f"e{number}", split=split, screen_hw=(80, 48), steps=steps)


@pytest.mark.parametrize(("difference", "changed"), [(0, False), (5, False), (6, True), (-6, True)])
def test_a_screen_has_changed_when_the_mean_squared_difference_exceeds_30(difference, changed):
    assert screen_changed(shade(100), shade(100 + difference)) is changed


def test_screens_of_other_sizes_have_changed():
    assert screen_changed(shade(9), np.full((40, 48, 3), 9, np.uint8))


def test_every_executed_action_is_an_example_but_a_declaration_is_not():
    examples = actionability_examples(
        [episode(0, (10, 10, 90), Action.tap(0.5, 0.5)), episode(1, (10, 10), Action.complete())]
    )
    assert [e.changed for e in examples] == [False, True]


def test_the_sample_is_balanced_and_repeats_the_rarer_answer():
    examples = actionability_examples([episode(0, (10,) * 9 + (90,), Action.back())])
    sample = tune._balanced(examples, TuneVlmConfig(max_examples=12))
    assert len(sample) == 12 and sum(e.changed for e in sample) == 6
    unchanged = [e for e in examples if not e.changed]
    assert sum(e in unchanged for e in sample) == 6


def test_one_answer_only_teaches_nothing_and_is_refused():
    examples = actionability_examples([episode(0, (10, 10, 10), Action.back())])
    with pytest.raises(DigiQError, match="no action of the training episodes changes the screen"):
        tune._balanced(examples, TuneVlmConfig())


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "episodes"
    with EpisodeWriter(path) as writer:
        for number in range(6):
            action = Action.tap(0.5, 0.5) if number % 2 else Action.enter()
            shades = (10, 90, 10) if number % 2 else (10, 10, 10)
            writer.write(episode(number, shades, action))
    return path


def test_a_run_changes_the_language_model_only_and_writes_a_model_that_opens(vlm, episodes, tmp_path):
    config = TuneVlmConfig(max_examples=32, batch_size=4, heldout=0.34, learning_rate=3e-3, lora_rank=2)
    artifact = tune.run(config, episodes=episodes, vlm=vlm, out=tmp_path / "vlm")
    before, after = (load_backbone(path).model.state_dict() for path in (vlm, tmp_path / "vlm"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("language_model" in name and name.endswith("proj.weight") for name in moved)
    assert artifact.manifest.counts["heldout"] == 4
    assert (tmp_path / "vlm" / "metrics.jsonl").read_text()
    again = tune.run(config, episodes=episodes, vlm=vlm, out=tmp_path / "vlm")
    assert again.manifest.digest == artifact.manifest.digest


def test_a_split_without_episodes_is_refused(vlm, episodes, tmp_path):
    with pytest.raises(DigiQError, match="no episode of split 'elsewhere'"):
        tune.run(TuneVlmConfig(split="elsewhere"), episodes=episodes, vlm=vlm, out=tmp_path / "vlm")


def test_scores_do_not_depend_on_the_batch(vlm):
    examples = actionability_examples([episode(0, (10, 60, 90, 20), Action.type_text("oat"))])
    examples.append(dataclasses.replace(examples[0], goal="Visit zephyr.io and look up amber kettles"))
    backbone = load_backbone(vlm, dtype="float32")
    alone = tune.change_scores(backbone, examples, batch_size=1)
    together = tune.change_scores(backbone, examples, batch_size=4)
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_examples_of_a_store_hold_no_screens(tmp_path):
    from digiq.data.store import EpisodeStore, EpisodeWriter

    made = [episode(i, (10, 60 + i, 90, 20), Action.type_text("oat")) for i in range(3)]
    with EpisodeWriter(tmp_path) as writer:
        for one in made:
            writer.write(one)
    found, _ = tune._split(EpisodeStore(tmp_path), TuneVlmConfig(heldout=0.0))
    assert found and not any(isinstance(example.screenshot, bytes) for example in found)
    order = np.random.default_rng(0).permutation(3)
    expected = actionability_examples([made[i] for i in order])
    assert [(e.png, e.goal, e.action, e.changed) for e in found] == [
        (e.png, e.goal, e.action, e.changed) for e in expected
    ]
