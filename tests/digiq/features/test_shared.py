"""The shared-prefix engine gives the plain engine's rows, over every family that can share; and what it runs only once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from android_env.actions import Action
from digiq.errors import DigiQError
from digiq.features import extract as stage
from digiq.features import load_features
from digiq.features.engines import shared
from digiq.features.engines.base import Request
from digiq.features.engines.plain import extract
from digiq.features.engines.shared import extract_shared
from digiq.vlm.backbone import load_backbone
from digiq.vlm.prompts import load_template
from tests.digiq.features.test_extract import CANDIDATES, CONFIG, episode, write_inputs
from tests.digiq.vlm import tiny_models

pytestmark = pytest.mark.usefixtures("one_torch_thread")
GENERAL = load_template("general")
ACTIONS = (
    Action.tap(0.3, 0.4),
    Action.type_text("hello <|im_end|> there"),
    Action.back(),
    Action.swipe("up"),
    Action.tap(0.9, 0.1),
)
SPANS = ("goal", "action", "changes", "answer", "all")
SHARING = [name for name in tiny_models.MODELS if name != "paligemma"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("shared")
    return {name: tiny_models.write(name, root / name) for name in tiny_models.MODELS}


@pytest.fixture(params=SHARING)
def backbone(request, models):
    return load_backbone(models[request.param], dtype="float32")


CROPPING = [name for name in SHARING if name != "llava_onevision"]


def requests(counts=(5, 4, 1, 3), kind="pair", grounding="text", before=False) -> list[Request]:
    """States with so many candidates, out of order, goals of several lengths; ``before``: all but the first show a screen more."""
    rng, found = np.random.default_rng(0), []
    for number, count in enumerate(counts):
        image = rng.integers(0, 255, (128, 80, 3), np.uint8)
        earlier = 255 - image if before and number else None
        for action in ACTIONS[:count] if kind == "pair" else (None, None):
            goal = "find a lamp" + " and more" * number
            known = {"template": GENERAL, "where": f"state {number}"}
            found.append(Request.build(image, goal, action, grounding, before=earlier, **known))
    return [found[i] for i in rng.permutation(len(found))]


def collect(rows, count: int) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    for positions, block in rows:
        assert not found.keys() & set(positions.tolist())
        found |= dict(zip(positions.tolist(), block, strict=True))
    return np.stack([found[i] for i in range(count)])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest, in units of each layer's root mean square."""
    scale = np.sqrt((one**2).mean(axis=(0, 2), keepdims=True))
    return float((np.abs(one - other) / scale).max())


@pytest.mark.parametrize(("pooling", "batch_size"), [("mean", 32), ("last", 6)])
def test_rows_are_the_plain_engines(backbone, pooling, batch_size):
    items = requests()
    options = {"layers": (1, 3, 4), "spans": SPANS, "pooling": pooling, "batch_size": batch_size}
    expected = collect(extract(backbone, items, **options), len(items))
    found = collect(extract_shared(backbone, items, **options), len(items))
    assert difference(expected, found) < 1e-4  # measured: 4e-6
    assert difference(expected, np.roll(expected, 1, axis=0)) > 0.1  # constants would be equal as well


@pytest.mark.parametrize(
    ("name", "grounding", "before"),
    [(name, "text", True) for name in SHARING] + [(name, "crop", True) for name in CROPPING],
)
def test_rows_with_several_pictures_are_the_plain_engines(models, name, grounding, before, monkeypatch):
    backbone = load_backbone(models[name], dtype="float32")
    items = requests(grounding=grounding, before=before)
    options = {"layers": (1, 4), "spans": SPANS, "pooling": "mean"}
    expected = collect(extract(backbone, items, **options), len(items))
    alone = []
    load = shared._load
    monkeypatch.setattr(shared, "_load", lambda *given: alone.append(load(*given)) or alone[-1])
    found = collect(extract_shared(backbone, items, **options), len(items))
    assert difference(expected, found) < 1e-4  # measured: 4e-6
    assert sum(len(batch.alone) for batch in alone) == 1  # the state with one candidate; others did share
    plain = collect(extract(backbone, requests(), **options), len(items))
    assert difference(expected, plain) > 1e-2  # the pictures are read


def test_taps_that_a_prompts_words_do_not_tell_apart_differ_by_their_crops(models):
    backbone = load_backbone(models["qwen2_5_vl"], dtype="float32")
    image = np.random.default_rng(0).integers(0, 255, (1280, 800, 3), np.uint8)
    taps = [Action.tap(0.301, 0.301), Action.tap(0.309, 0.309), Action.back()]
    items = [Request.build(image, "go", tap, "crop", template=GENERAL) for tap in taps]
    assert items[0].prompt.text == items[1].prompt.text and items[0].seen != items[1].seen
    assert items[0].state == items[1].state == items[2].state
    options = {"layers": (4,), "spans": ("answer",), "pooling": "mean"}
    expected = collect(extract(backbone, items, **options), 3)
    found = collect(extract_shared(backbone, items, **options), 3)
    assert difference(expected, found) < 1e-4 < difference(expected[:1], expected[1:2])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "smolvlm"])
def test_copying_the_cache_gives_the_same_rows(models, name):
    backbone, items = load_backbone(models[name], dtype="float32"), requests()
    options = {"layers": (4,), "spans": SPANS, "pooling": "mean"}
    expected = collect(extract(backbone, items, **options), len(items))
    found = collect(extract_shared(backbone, items, attention="cache", **options), len(items))
    assert difference(expected, found) < 1e-4


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3"])
def test_at_bfloat16_rows_differ_by_its_rounding_at_most(models, name):
    items, options = requests(), {"layers": (4,), "spans": ("action", "answer"), "pooling": "mean"}
    exact = load_backbone(models[name], dtype="float32")
    rounded = load_backbone(models[name], dtype="bfloat16")
    expected = collect(extract(exact, items, **options), len(items))
    plain = np.abs(collect(extract(rounded, items, **options), len(items)) - expected)
    found = np.abs(collect(extract_shared(rounded, items, **options), len(items)) - expected)
    assert 0 < np.sqrt((found**2).mean()) < 2 * np.sqrt((plain**2).mean())


def test_observations_of_a_state_that_comes_twice_run_once(models):
    backbone, items = load_backbone(models["llava"], dtype="float32"), requests(kind="observation")
    options = {"layers": (4,), "spans": ("goal", "answer"), "pooling": "mean"}
    expected = collect(extract(backbone, items, **options), len(items))
    assert difference(expected, collect(extract_shared(backbone, items, **options), len(items))) < 1e-4


@pytest.mark.parametrize("name", SHARING)
def test_the_vision_tower_sees_each_state_once(models, name, monkeypatch):
    backbone, items = load_backbone(models[name], dtype="float32"), requests(counts=(5, 4, 3))
    seen = []
    for number in range(2):
        encode = type(backbone.model.base_model).get_image_features
        calls: list[int] = []

        def count(self, pixel_values, *args, encode=encode, calls=calls, **kwargs):
            calls.append(pixel_values.numel())
            return encode(self, pixel_values, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(type(backbone.model.base_model), "get_image_features", count)
            engine = (extract, extract_shared)[number]
            list(engine(backbone, items, layers=(1,), spans=("answer",)))
        seen.append(sum(calls))
    assert seen[0] == 4 * seen[1] > 0  # 12 prompts, 3 states


def test_a_model_whose_prompts_see_all_of_themselves_is_refused_by_name(models):
    config = stage.FeaturizeConfig(engine="shared", dtype="float32")
    with pytest.raises(DigiQError, match=r"'paligemma' cannot share prefixes: every token.*use engine plain"):
        config.chosen.open(config, models["paligemma"])
    crops = dataclasses.replace(config, grounding="crop", shared=shared.Shared(attention="cache"))
    with pytest.raises(DigiQError, match="takes no crop after a prefix; use two_part, or engine"):
        crops.chosen.open(crops, models["llava"])
    other = dataclasses.replace(config, shared=shared.Shared(attention="cache"))
    with pytest.raises(DigiQError, match="sliding-window attention; use two_part"):
        other.chosen.open(other, models["gemma3"])


def test_an_attention_that_cannot_be_replaced_is_noticed(models, monkeypatch):
    backbone = load_backbone(models["llava"], dtype="float32")
    monkeypatch.setattr(shared, "_NAME", "sdpa")
    monkeypatch.setattr("transformers.AttentionInterface.register", lambda name, function: None)
    with pytest.raises(DigiQError, match=r"cannot be replaced; use .* cache"):
        list(extract_shared(backbone, requests(), layers=(1,), spans=("answer",)))


def test_memory_that_runs_out_halves_the_batch(models, monkeypatch):
    backbone, items = load_backbone(models["llava"], dtype="float32"), requests()
    options = {"layers": (4,), "spans": ("answer",), "batch_size": 32}
    expected = collect(extract_shared(backbone, items, **options), len(items))
    attend, widest = shared._attention, []

    def small(module, query, *args, **kwargs):
        widest.append(len(query))
        if len(query) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return attend(module, query, *args, **kwargs)

    monkeypatch.setattr(shared, "_attention", small)
    found = collect(extract_shared(backbone, items, **options), len(items))
    assert widest[0] > 4 and difference(expected, found) < 1e-4
    assert backbone.model.config.get_text_config()._attn_implementation != shared._NAME


def test_candidates_of_a_state_lie_together_and_states_are_not_torn(vlm, tmp_path, monkeypatch):
    defaults = {**stage.RowStore.__init__.__kwdefaults__, "rows_per_shard": 5}
    monkeypatch.setattr(stage.RowStore.__init__, "__kwdefaults__", defaults)
    episodes = [
        episode("a", "buy tea", [0, 1, 2], [c[0] for c in CANDIDATES[:2]], True),
        episode("b", "buy tea", [0, 3], [CANDIDATES[2][0]], False),
    ]
    inputs = write_inputs(tmp_path, episodes, CANDIDATES[:4])
    shards = []
    append = stage.RowStore.append
    config = dataclasses.replace(CONFIG, engine="shared", grounding="text")
    rows = config.chosen.open(config, vlm)
    calls = type(rows).rows

    def watch(self, items):
        shards.append([request.state for request in items])
        return calls(self, items)

    monkeypatch.setattr(type(rows), "rows", watch)
    stage.run(config, **inputs, vlm=vlm, out=tmp_path / "features")
    assert append and len(shards) > 2
    for kind in (0, 1):
        of_kind = [s for s in shards if len(s) and (len(set(s)) == len(s)) == (kind == 0)]
        states = [state for shard in of_kind for state in dict.fromkeys(shard)]
        assert len(states) == len(set(states))  # none is in two shards
    plain = dataclasses.replace(config, engine="plain")
    stage.run(plain, **inputs, vlm=vlm, out=tmp_path / "plain")
    one, other = (load_features(tmp_path / name) for name in ("features", "plain"))
    np.testing.assert_array_equal(one.candidate_row, other.candidate_row)
    for layer in one.pair:
        a, b = (np.asarray(f.pair[layer], np.float32) for f in (one, other))
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)
