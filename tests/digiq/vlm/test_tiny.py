"""The tiny LLaVA's making: words, screens, tokens, and the command."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from android_env.devices.simulated.themes import PRETRAIN_THEMES, THEMES
from digiq.vlm import TINY_VLM_PATH
from digiq.vlm.backbone import load_backbone
from digiq.vlm.tiny import make
from digiq.vlm.tiny.architecture import (
    GRID,
    OBSERVATION_QUESTIONS,
    PAIR_QUESTIONS,
    answer_token,
    build_model,
    build_processor,
)
from digiq.vlm.tiny.examples import (
    IGNORE,
    LETTERS_PER_PATCH,
    Asked,
    Encoder,
    make_example,
    make_page,
)
from digiq.vlm.tiny.make import MakeTinyVlmConfig
from digiq.vlm.tiny.screens import make_scene
from digiq.vlm.tiny.words import REAL_WORDS, Words, is_unseen, task_words

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def content(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", re.sub(r"\.[a-z]+\b", "", text.lower())))


def names(unseen: bool) -> list[str]:
    """Every name that 200 scenes' goals, addresses and queries are made of."""
    words = Words(np.random.default_rng(3), unseen=unseen)
    scenes = [make_scene(words) for _ in range(200)]
    return [name for s in scenes for name in (s.goal.place, s.goal.query, s.address, s.query) if name]


def test_no_word_of_a_task_is_shown_in_pretraining():
    assert {"shopnest", "kettle"} & task_words() == {"shopnest"}
    assert not task_words() & set(REAL_WORDS)
    for unseen in (False, True):
        assert not {word for name in names(unseen) for word in content(name)} & task_words()


def test_words_kept_out_of_training_are_never_drawn_for_it_and_the_others_never_for_the_test():
    for unseen in (False, True):
        words = {word for name in names(unseen) for word in content(name)}
        assert len(words) > 100
        assert {is_unseen(word) for word in words} == {unseen}


def test_no_theme_of_pretraining_is_worn_by_the_simulator():
    simulators = {(t.background, t.surface, t.primary) for t in THEMES.values() if t not in PRETRAIN_THEMES}
    assert not simulators & {(t.background, t.surface, t.primary) for t in PRETRAIN_THEMES}


@pytest.mark.parametrize("name", ["qu'ai-zx.net", "$12.50", "nyquist/yes no", "wren & co (3)"])
def test_a_name_is_spelled_and_comes_back(processor, name):
    ids = processor.tokenizer(name, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(name)
    assert processor.tokenizer.decode(ids) == name


def test_upper_case_reads_like_lower_case_and_answers_are_single_tokens(processor):
    tokenizer = processor.tokenizer
    for text in ("Go to FERN.io", "Nylon Yarn"):
        assert tokenizer(text)["input_ids"] == tokenizer(text.lower())["input_ids"]
    for answer in ("yes", "no"):
        ids = tokenizer(answer_token(answer), add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == [answer_token(answer)]


def test_an_image_becomes_one_token_a_patch(processor):
    inputs = processor(
        images=np.zeros((320, 192, 3), np.uint8), text="<image>goal: fern", return_tensors="pt"
    )
    assert int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum()) == GRID**2
    assert inputs["pixel_values"].shape == (1, 3, 192, 192)


def test_the_committed_size_stays_below_20_mb_in_bfloat16(processor):
    assert 2 * sum(p.numel() for p in build_model(processor.tokenizer).parameters()) < 20e6


def test_an_examples_labels_stand_at_the_questions_ends_and_its_name_follows(processor):
    tokenizer = processor.tokenizer
    encode = Encoder(tokenizer)
    rng = np.random.default_rng(5)
    for _ in range(20):
        example = make_example(rng, goals=2)
        encoded = encode(example)
        for segment, asked in enumerate(example.asked, 1):
            where = [i for i, s in enumerate(encoded.segments) if s == segment]
            tokens = tokenizer.convert_ids_to_tokens([encoded.ids[i] for i in where])
            readout, spelled = ([getattr(encoded, n)[i] for i in where] for n in ("readout", "spelled"))
            questions = PAIR_QUESTIONS if "kind" in asked.answers else OBSERVATION_QUESTIONS
            places = [i for i, label in enumerate(readout) if label != IGNORE]
            for place, question in zip(places, questions.values(), strict=True):
                assert "".join(tokens[: place + 1]).endswith(question.lower())
            said = tokenizer.convert_ids_to_tokens([readout[i] for i in places])
            assert said == [answer_token(answer) for answer in asked.answers.values()]
            name = tokenizer.convert_ids_to_tokens([label for label in spelled if label != IGNORE])
            assert "".join(name) == (asked.name + tokenizer.eos_token if asked.name else "")
        assert [bool(asked.name) for asked in example.asked] == [True, False]


def test_letters_of_a_name_are_labelled_by_whether_their_pair_stands_in_the_text(processor):
    text = 'Goal: Open fern\nAction: type "fernet"\nWhat kind of element?'
    blank = make_example(np.random.default_rng(0))

    def labels(*compared):
        encoded = Encoder(processor.tokenizer)(
            dataclasses.replace(blank, asked=(Asked(text, {}, compared=compared),))
        )
        there = [(i, a) for i, a in zip(encoded.ids, encoded.agrees, strict=True) if a != IGNORE]
        return "".join(processor.tokenizer.convert_ids_to_tokens([i for i, _ in there])), [
            a for _, a in there
        ]

    assert labels(("fernet", ("Ferret", "elm"))) == ("ernet", [1, 1, 0, 0, 1])  # fe, er, rn, ne, et
    assert labels(("fernet", ("elm", "a FERNET"))) == ("ernet", [1] * 5)
    assert labels(("moss", ("moss",))) == ("", [])  # not in the prompt


def test_other_goals_differ_from_the_first_in_names_alone():
    rng = np.random.default_rng(6)
    different, fits = 0, []
    for _ in range(100):
        example = make_example(rng, goals=3)
        first, *others = example.asked
        for other in others:
            different += other.text.split("\n")[0] != first.text.split("\n")[0]
            rest = other.text.partition("\n")[2]
            assert first.text.partition("\n")[2].startswith(rest) and rest
            assert other.answers.keys() == first.answers.keys()
            if "fits" in other.answers:
                fits.append((first.answers["fits"], other.answers["fits"]))
    assert different > 120
    assert {("yes", "no"), ("no", "yes")} <= set(fits)


def test_prompts_that_share_an_image_see_it_and_themselves_alone(vlm, processor):
    backbone = load_backbone(vlm, dtype="float32")
    trainer = make._Trainer(MakeTinyVlmConfig(), processor)
    trainer.model = backbone.model
    encode, rng = Encoder(processor.tokenizer), np.random.default_rng(9)
    example = make_example(rng, goals=3)

    def hidden(*asked):
        batch = make._collate([dataclasses.replace(example, asked=asked)], encode, 0)
        with torch.inference_mode():
            return trainer._hidden(trainer._image_features(batch), batch)[0]

    together = hidden(*example.asked)
    alone = [hidden(asked)[GRID**2 :] for asked in example.asked]
    torch.testing.assert_close(together[GRID**2 :], torch.cat(alone), atol=2e-5, rtol=1e-4)


def test_an_examples_patches_show_the_letters_that_were_drawn():
    example, page = make_example(np.random.default_rng(8)), make_page(np.random.default_rng(8))
    assert example.letters.shape == (GRID**2, LETTERS_PER_PATCH) and example.letters.any()
    assert example.roles.shape == example.pointed.shape == (GRID**2,)
    assert example.pixels.shape == page.pixels.shape == (192, 192, 3)
    assert (page.letters > 0).sum() > 200 and (page.roles == IGNORE).all() and not page.asked


def test_a_told_point_draws_no_cursor_and_its_last_token_is_labelled_with_the_widget_there(processor):
    encode, rows = Encoder(processor.tokenizer), 0
    for seed in range(60):
        shown = make_example(np.random.default_rng(seed), goals=2)
        told = make_example(np.random.default_rng(seed), goals=2, text=1.0)
        assert (told.pointed == IGNORE).all() and (shown.located == IGNORE).all()
        tokens = np.array(encode(told).told)
        assert not any(encode(shown).told)
        points = [asked.point for asked in told.asked]
        assert tokens.sum() == sum(bool(point) for point in points)
        if not points[0]:
            continue
        rows += 1
        words = processor.tokenizer.convert_ids_to_tokens(np.array(encode(told).ids)[tokens == 1])
        assert words == [points[0].split()[-1]] * 2
        assert "cursor" not in told.asked[0].text
        if (told.located != IGNORE).any():
            y, x = (int(part) for part in re.findall(r"\d+", points[0]))
            grid = told.located.reshape(GRID, GRID)
            near = grid[max(0, y * GRID // 100 - 1) : y * GRID // 100 + 2, max(0, x * GRID // 100 - 1) :]
            assert near.any()
    assert rows > 15


def test_a_killed_run_goes_on_where_it_was_and_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    config = MakeTinyVlmConfig(
        vision_steps=2, steps=2, batch_size=2, text=0.5, evaluation_examples=8, checkpoint_every=1, seed=5
    )
    whole = make.run(config, out=tmp_path / "whole")
    assert whole.manifest.counts["examples"] == 8
    updates = make._Trainer.updates

    def killed(trainer):
        for number, metrics in enumerate(updates(trainer)):
            if number == 3:
                raise KeyboardInterrupt
            yield metrics

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(make._Trainer, "updates", killed)
        make.run(config, out=tmp_path / "killed")
    make.run(config, out=tmp_path / "killed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


def test_training_goes_on_from_given_weights(tmp_path):
    short = MakeTinyVlmConfig(
        vision_steps=0, steps=1, batch_size=2, evaluation_examples=8, learning_rate=1e-12
    )
    make.run(short, start=TINY_VLM_PATH, out=tmp_path / "on")
    before, after = (load_file(path / "model.safetensors") for path in (TINY_VLM_PATH, tmp_path / "on"))
    weights = [name for name in before if before[name].is_floating_point() and "running" not in name]
    assert weights and all(torch.equal(before[name], after[name]) for name in weights)


def test_the_committed_weights_open_and_were_trained_on_todays_prompts(processor):
    backbone = load_backbone(TINY_VLM_PATH)
    assert backbone.processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert (TINY_VLM_PATH / "model.safetensors").stat().st_size < 20e6
    accuracies = json.loads((TINY_VLM_PATH / make.METRICS).read_text())
    questions = {*PAIR_QUESTIONS, *OBSERVATION_QUESTIONS}
    for side in ("seen", "unseen"):
        assert {f"answers_{question}_{side}" for question in questions} <= accuracies.keys()
        assert 0 <= accuracies[f"naming_{side}"] <= 1


def test_the_committed_weights_tell_screens_and_kinds_better_than_the_commonest_answer():
    backbone = load_backbone(TINY_VLM_PATH, dtype="float32")
    encode = Encoder(backbone.processor.tokenizer)
    rng = np.random.default_rng(11)
    examples = [make_example(rng) for _ in range(96)]
    batch = make._collate(examples, encode, 0)
    pixels = batch.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        logits = backbone.model(pixel_values=pixels, input_ids=batch.ids).logits
    for question in ("kind", "screen"):
        right, truths = [], []
        for row, example in enumerate(examples):
            if question in example.asked[0].answers:
                place = (batch.readout[row] != IGNORE).nonzero()[0, 0]  # both questions come first
                truths.append(int(batch.readout[row, place]))
                right.append(int(logits[row, place].argmax()) == truths[-1])
        assert np.mean(right) > np.bincount(truths).max() / len(truths) + 0.1
