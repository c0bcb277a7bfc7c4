"""What people feed in: screens of all kinds, odd texts, damaged models. It is converted, or one sentence names it."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from android_env.actions import Action
from digiq.agents.learned import LearnedScorer
from digiq.data.schema import encode_png
from digiq.errors import ArtifactError, ArtifactMismatch, ConfigError, DigiQError
from digiq.features import extract as stage
from digiq.features import extract_features, load_features
from digiq.features.engines import plain
from digiq.features.screens import to_screenshot
from digiq.proposals.propose import load_proposals
from digiq.vlm.backbone import BackboneError, check_model_directory, load_backbone
from tests.digiq.features.test_extract import CONFIG, episode, screen, write_inputs

pytestmark = pytest.mark.usefixtures("one_torch_thread")
RGB = np.random.default_rng(0).integers(0, 255, (64, 40, 3), np.uint8)
GREY = RGB[..., 0]


def as_bytes(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB, RGB),
        (GREY, np.stack([GREY] * 3, -1)),
        (GREY[..., None], np.stack([GREY] * 3, -1)),
        (RGB / 255, RGB),
        (RGB.astype(np.float32) / 255, RGB),
        (RGB.astype(np.int64), RGB),
        (GREY > 100, np.stack([(GREY > 100) * np.uint8(255)] * 3, -1)),
        (np.dstack([RGB, np.full_like(GREY, 255)]), RGB),
        (np.dstack([RGB, np.zeros_like(GREY)]), np.full_like(RGB, 255)),
        (torch.from_numpy(RGB), RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        (Image.fromarray(RGB).convert("RGBA"), RGB),
        (as_bytes(Image.fromarray(RGB), "PNG"), RGB),
    ],
)
def test_screens_of_every_kind_become_the_same(given, expected):
    shown = to_screenshot(given)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (RGB / 255 * 2, "values from .* floats from 0 to 1"),
        (RGB.astype(np.int64) * 300, "give bytes from 0 to 255"),
        (np.full((4, 4), np.nan), "nan"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
        (np.array([["a"]]), "type <U1"),
        (None, "type object"),
        (b"\x89PNG\r\n\x1a\n broken", "not a readable image"),
        ("/nowhere.png", "/nowhere.png.*not a readable image"),
    ],
)
def test_what_is_no_screen_is_refused_in_a_sentence(given, said):
    with pytest.raises(DigiQError, match=said):
        to_screenshot(given)


def test_items_in_every_form_are_the_same_rows(vlm, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    actions = [Action.tap(0.5, 0.5), Action.type_text("tea")]
    options = {"model": vlm, "dtype": "float32", "layers": ("middle",)}
    apart = extract_features([(RGB, "go", action) for action in actions], **options)
    (layer,) = apart
    assert layer == 2 and len(np.unique(apart[2], axis=0)) == 2
    for image in (tmp_path / "a.png", Image.fromarray(RGB), RGB / 255):
        together = extract_features(iter([(image, "go", actions)]), **options)
        np.testing.assert_allclose(together[2], apart[2], atol=1e-5)
    general = {**options, "prompt": "general"}
    plain_rows = extract_features([(RGB, "go", actions)], **general)[2]
    with_history = extract_features([(RGB, "go", actions, [Action.back()])], **general)[2]
    assert np.abs(with_history - plain_rows).max() > 1e-3


def test_the_documents_example_works_as_it_stands(vlm, tmp_path, monkeypatch, capsys):
    page = Path("docs/features.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace("/path/to/model", str(vlm))
    for name in ("screen.png", "next.png"):
        Image.fromarray(RGB).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == ["2 (4, 256)", "3 (4, 256)"]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "no items"),
        ([(RGB, "go")], r"item 0 is not \(image"),
        ([(RGB, 3, None)], "item 0 has a goal of type int"),
        ([(RGB, "go", None), (RGB, "go", [])], "item 1 has no candidates"),
        ([(RGB, "go", ["tap"])], "item 0 has a str among its actions"),
        ([(RGB, "go", None), (RGB, "go", Action.back())], "use two calls"),
        ([(RGB, "go", None), (b"x", "go", None)], "item 1: not a readable image"),
    ],
)
def test_items_that_make_no_sense_are_named(vlm, items, said):
    with pytest.raises(DigiQError, match=said):
        extract_features(items, model=vlm)


@pytest.mark.parametrize(
    "text",
    [
        "what does <image> mean",
        "say </s> <s> <pad> <unk>",
        "买 🎂\n\tلمبة café",
        "half \ud83d a pair",
        "",
        "x" * 90,
    ],
)
def test_odd_texts_are_only_texts(vlm, text):
    rows = extract_features(
        [(RGB, text, Action.type_text("<image> " + text.replace("\ud83d", ""))), (RGB, "go", Action.back())],
        model=vlm,
        dtype="float32",
    )
    (found,) = rows.values()
    alone = extract_features([(RGB, "go", Action.back())], model=vlm, dtype="float32")
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1], next(iter(alone.values()))[0], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [((0.5,), (2,)), (("middle",), (2,)), (("all",), (1, 2, 3)), ((-1, 0.01), (3, 1)), ((0.99, 3), (3,))],
)
def test_layers_by_number_share_and_word(vlm, layers, expected):
    assert plain.wanted_layers(layers, 3) == expected
    assert tuple(extract_features([(RGB, "go", None)], model=vlm, layers=layers)) == expected


@pytest.mark.parametrize("engine", ["plain", "shared"])
def test_layers_and_poolings_come_from_one_pass(vlm, engine):
    items = [(RGB, "go", [Action.back(), Action.tap(0.2, 0.3)])]
    options = {
        "model": vlm,
        "layers": ("all",),
        "dtype": "float32",
        "spans": ("goal", "changes"),
        "engine": engine,
    }
    both = extract_features(items, pooling="both", **options)
    assert list(both) == [f"layer_0{n}_{how}" for n in (1, 2, 3) for how in ("last", "mean")]
    for how in ("last", "mean"):
        for layer, rows in extract_features(items, pooling=how, **options).items():
            np.testing.assert_allclose(both[f"layer_0{layer}_{how}"], rows, atol=1e-5)
    assert np.abs(both["layer_02_last"] - both["layer_02_mean"]).max() > 1e-3


def test_layers_that_make_no_sense_are_refused(vlm):
    for bad in (("upper",), (1.5,), (0,), (0.0,), (-4,)):
        with pytest.raises((DigiQError, ConfigError), match="layers"):
            extract_features([(RGB, "go", None)], model=vlm, layers=bad)


@pytest.fixture
def model(vlm, tmp_path):
    shutil.copytree(vlm, tmp_path / "model")
    return tmp_path / "model"


def rewrite(file, change):
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named_in_the_preflight(model, name):
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(BackboneError, match=rf"{name}: a Git LFS pointer.*git lfs pull"):
        check_model_directory(model)


def test_a_half_downloaded_model_is_named_in_the_preflight(model):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match=r"1 of its weight files are missing \(model-00001-of-00002"):
        check_model_directory(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: [c.pop("patch_size"), c.pop("vision_feature_select_strategy")],
        lambda c: c.update(num_additional_image_tokens=3),
        lambda c: c["image_processor"].update(size={"height": 96, "width": 96}),
    ],
)
def test_a_processor_of_another_model_is_named_when_it_is_opened(model, change):
    rewrite(model / "processor_config.json", change)
    with pytest.raises(BackboneError, match="do the processor and the model belong together"):
        extract_features([(RGB, "go", None)], model=model)


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(model, vlm):
    rewrite(model / "tokenizer_config.json", lambda c: c.pop("pad_token"))
    items = [(RGB, goal, None) for goal in ("go", "a much longer goal")]
    found, expected = (extract_features(items, model=m, dtype="float32") for m in (model, vlm))
    np.testing.assert_allclose(found[3], expected[3], atol=1e-5)
    rewrite(model / "tokenizer_config.json", lambda c: c.pop("eos_token"))
    with pytest.raises(BackboneError, match="no pad token"):
        load_backbone(model)


def inputs_with(root, change=lambda number, png: png, goal="buy tea"):
    """One episode of three screens, one of them changed."""
    made = episode("odd", goal, [0, 1, 2], [Action.tap(0.5, 0.5), Action.back()], True)
    steps = [dataclasses.replace(s, screenshot=change(i, s.screenshot)) for i, s in enumerate(made.steps)]
    made = dataclasses.replace(made, steps=tuple(steps))
    candidates = [[Action.tap(0.5, 0.5), Action.type_text("<image>")], [Action.back(), Action.home()]]
    return write_inputs(root, [made], candidates)


def test_special_tokens_in_an_episode_do_not_stop_the_stage(vlm, tmp_path):
    inputs = inputs_with(tmp_path, goal="html <image> tag </s>")
    stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")
    assert len(load_features(tmp_path / "features").pair["layer_03"]) == 4


def test_a_broken_screenshot_names_episode_and_step_and_finished_shards_stay(vlm, tmp_path, monkeypatch):
    monkeypatch.setattr(
        stage.RowStore.__init__,
        "__kwdefaults__",
        {**stage.RowStore.__init__.__kwdefaults__, "rows_per_shard": 1},
    )
    inputs = inputs_with(tmp_path, lambda i, png: png[:60] if i == 1 else png)
    with pytest.raises(
        DigiQError, match=r"episode odd, step 1: its screenshot cannot be read.*Finished shards are kept"
    ):
        stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")
    assert list((tmp_path / "feature_rows").glob("observation-*/key/c/*"))


def test_a_disk_that_cannot_hold_the_rows_is_refused_before_work_starts(vlm, tmp_path, monkeypatch, capsys):
    inputs, asked = inputs_with(tmp_path), []
    monkeypatch.setattr(stage, "_LARGE", 1)
    monkeypatch.setattr(plain.PlainEngine, "rows", lambda self, requests: asked.append(requests))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(
        DigiQError, match=r"2 observation rows of 2 x \d+ numbers take 0.0 GB, but .* has 0.0 GB free"
    ):
        stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")
    assert not asked
    monkeypatch.undo()
    monkeypatch.setattr(stage, "_LARGE", 1)
    stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")
    assert "4 pair rows" in capsys.readouterr().err


def test_a_full_disk_ends_in_a_sentence_and_the_same_command_goes_on(vlm, tmp_path, monkeypatch):
    from digiq.cli.boundary import explain

    inputs, append = inputs_with(tmp_path), stage.RowStore.append
    full = [True]

    def fail(self, keys, features):
        if self.path.rpartition("/")[2].startswith("pair") and full:
            raise ValueError("RESOURCE_EXHAUSTED: writing: No space left on device")
        append(self, keys, features)

    monkeypatch.setattr(stage.RowStore, "append", fail)
    with pytest.raises(ValueError) as caught:
        stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")
    assert "No space left on device; free some and run the same command again" in explain(caught.value)
    kept = sorted((tmp_path / "feature_rows").glob("observation-*/**/c/*/0"))
    full.clear()
    stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")
    assert kept and sorted((tmp_path / "feature_rows").glob("observation-*/**/c/*/0")) == kept


def test_previous_actions_are_part_of_the_prompt_and_of_the_row(vlm, tmp_path):
    inputs = inputs_with(tmp_path, lambda i, png: encode_png(screen(0)))
    config = dataclasses.replace(CONFIG, prompt="general", pair_spans=(), observation_spans=(), layers=(1,))
    for history in (0, 1):
        chosen = dataclasses.replace(config, history=history)
        stage.run(chosen, **inputs, vlm=vlm, out=tmp_path / f"features-{history}")
    without, with_one = (load_features(tmp_path / f"features-{h}").observation["layer_01"] for h in (0, 1))
    np.testing.assert_array_equal(without[0], without[1])  # the same screen and goal
    assert (np.asarray(with_one[0], np.float32) != np.asarray(with_one[1], np.float32)).any()
    np.testing.assert_array_equal(with_one[0], without[0])  # nothing came before
    with pytest.raises(ConfigError, match=r"no line with \{history\}"):
        dataclasses.replace(CONFIG, history=1).resolved(vlm)


def test_a_prompt_of_ones_own_belongs_to_the_features(vlm, tmp_path, monkeypatch):
    monkeypatch.setattr("digiq.agents.learned.load_critic", lambda path: None)
    mine = tmp_path / "mine.txt"
    mine.write_text("# pair: asked\n[observation]\n{goal}\n[pair]\nNow {action}. {asked: Good?}\n")
    inputs, out = inputs_with(tmp_path), tmp_path / "features"
    config = dataclasses.replace(
        CONFIG, prompt=str(mine), pair_spans=(), observation_spans=(), pooling="auto"
    )
    stage.run(config, **inputs, vlm=vlm, out=out)
    scorer = LearnedScorer.open(critic=out, features=out, vlm=vlm)
    assert scorer.template is not None and scorer.template.pair == ("asked",)
    mine.write_text(mine.read_text().replace("Good?", "Bad?"))
    with pytest.raises(ArtifactMismatch, match="prompt"):
        stage.run(config, **inputs, vlm=vlm, out=out)
    with pytest.raises(ArtifactError, match=r"mine\.txt: not the prompt that"):
        LearnedScorer.open(critic=out, features=out, vlm=vlm)


def test_nan_features_name_episode_step_and_layer(vlm, tmp_path, monkeypatch):
    inputs = inputs_with(tmp_path)

    def rows(self, requests):
        for i in range(len(requests)):
            block = np.ones((1, len(self.layers), self.dim("observation")), np.float32)
            block[0, -1, 3] = np.nan if requests[i].where.endswith("step 1") else 0
            yield np.array([i]), block

    monkeypatch.setattr(plain.PlainEngine, "rows", rows)
    with pytest.raises(
        DigiQError, match=f"episode odd, step 1: layer_0{CONFIG.layers[-1]} of the model holds NaN"
    ):
        stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")


def test_a_prompt_past_the_context_names_episode_and_step(vlm, tmp_path):
    inputs = inputs_with(tmp_path, goal="z" * 600)
    with pytest.raises(
        DigiQError, match=r"episode odd, step \d: a prompt of \d+ tokens is longer than the 512"
    ):
        stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features")


def test_a_state_without_candidates_is_named(vlm, tmp_path):
    inputs = inputs_with(tmp_path)
    proposals = load_proposals(inputs["proposals"])
    proposals.valid[1] = False
    from digiq.data.rewards import LabelledEpisodes

    with pytest.raises(DigiQError, match="episode odd, step 1 has no candidates"):
        stage.Plan(LabelledEpisodes(inputs["episodes"], None), proposals, CONFIG.resolved(vlm), {})


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_runs_out_halves_the_batch(vlm, monkeypatch, capsys, error):
    backbone = load_backbone(vlm, dtype="float32")
    items = [
        stage.Request.build(encode_png(screen(i)), "go", Action.back(), "cursor", where=f"step {i}")
        for i in range(5)
    ]
    options = {"layers": (3,), "spans": ("changes",), "batch_size": 5}
    expected = dict(enumerate(next(iter(plain.extract(backbone, items, **options)))[1]))
    forward, sizes = type(backbone.model.base_model).forward, []

    def small(self, *args, **inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise error
        return forward(self, *args, **inputs)

    monkeypatch.setattr(type(backbone.model.base_model), "forward", small)
    found = {
        int(p): row
        for positions, block in plain.extract(backbone, items, **options)
        for p, row in zip(positions, block, strict=True)
    }
    assert sizes == [5, 3, 2, 1, 2] and sorted(found) == [0, 1, 2, 3, 4]
    said = capsys.readouterr().err
    assert "a batch of 5 prompts does not fit into memory; continuing with 3." in said
    assert said.count("does not fit") == 2
    for i, row in found.items():
        np.testing.assert_allclose(row, expected[i], atol=1e-5)

    def fail(self, *args, **inputs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(type(backbone.model.base_model), "forward", fail)
    with pytest.raises(DigiQError, match="a single prompt does not fit into memory"):
        list(plain.extract(backbone, items, **options))
