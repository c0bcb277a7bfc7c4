"""The plain engine against Hugging Face's own forward, one at a time, and its refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

from android_env.actions import Action
from digiq.errors import DigiQError
from digiq.features.engines.base import Request
from digiq.features.engines.plain import extract, open_truncated, pool_span, wanted_layers
from digiq.features.library import extract_features
from digiq.vlm.backbone import load_backbone, prepare

pytestmark = pytest.mark.usefixtures("one_torch_thread")

GOALS = ("go to a.com", "search for a very long query indeed", "x")
ACTIONS = (Action.tap(0.3, 0.6), Action.type_text("hello there"), Action.swipe("up"), Action.enter())


def requests(count: int = 9) -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        Request.build(rng.integers(0, 255, (64, 40, 3), np.uint8), GOALS[i % 3], ACTIONS[i % 4], "cursor")
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def backbone(vlm):
    return load_backbone(vlm, dtype="float32")


def collect(backbone, items, **options):
    """What :func:`extract` yields, in the order of the requests."""
    found = {}
    for positions, features in extract(backbone, items, **options):
        assert not found.keys() & set(positions.tolist())
        found |= dict(zip(positions.tolist(), features, strict=True))
    return np.stack([found[i] for i in range(len(items))])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_batches_of_mixed_lengths_equal_single_forwards(backbone, pooling):
    items = requests()
    options = {"layers": (2, 3), "spans": ("goal", "kind", "answer"), "pooling": pooling}
    together = collect(backbone, items, batch_size=4, **options)
    assert together.shape == (9, 2, 3 * 64)
    # Here the reference is plain Hugging Face: no batch, no padding, spans found in the bare prompt.
    for item, features in zip(items, together, strict=True):
        text = backbone.processor.image_token + item.prompt.text
        inputs = backbone.processor(
            images=Image.fromarray(item.screenshot), text=text, return_tensors="pt", padding=False
        )
        with torch.inference_mode():
            states = backbone.model(**inputs, output_hidden_states=True).hidden_states
        for i, layer in enumerate((2, 3)):
            expected = [
                pooled(states[layer][0], *tokens_of(backbone, item, name), pooling)
                for name in ("goal", "kind", "answer")
            ]
            np.testing.assert_allclose(features[i], np.concatenate(expected), atol=2e-5)


def tokens_of(backbone, item, name):
    """First and past-the-last position of a span: the tokens that touch it, after the 144 of the image."""
    encoded = backbone.processor.tokenizer(item.prompt.text, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    if name == "answer":
        return 144 + len(offsets) - 1, 144 + len(offsets)
    start, end = item.prompt.spans[name]
    touching = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    return 144 + touching[0], 144 + touching[-1] + 1


def pooled(states, first, last, pooling):
    return (states[last - 1] if pooling == "last" else states[first:last].mean(0)).numpy()


def test_a_left_padding_tokenizer_changes_nothing(backbone, vlm):
    items = requests(4)
    left = load_backbone(vlm, dtype="float32")
    left.processor.tokenizer.padding_side = "left"
    options = {"layers": (3,), "spans": ("fits", "answer"), "batch_size": 4}
    np.testing.assert_array_equal(collect(left, items, **options), collect(backbone, items, **options))


def test_cutting_the_model_off_changes_nothing_below(backbone, vlm):
    items = requests(3)
    whole = collect(backbone, items, layers=(1, 2), spans=("fits",))
    cut, full = open_truncated(load_backbone(vlm, dtype="float32"), (1, 2))
    assert (cut.num_layers, full) == (2, 3)
    assert len([name for name, _ in cut.model.named_parameters() if "layers.2." in name]) == 0
    np.testing.assert_allclose(collect(cut, items, layers=(1, 2), spans=("fits",)), whole, atol=1e-6)


def test_bfloat16_stays_near_float32(backbone, vlm):
    items = requests(4)
    options = {"layers": (3,), "spans": ("kind", "answer"), "pooling": "mean"}
    exact = collect(backbone, items, **options)
    near = collect(load_backbone(vlm, dtype="bfloat16"), items, **options)
    assert np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_preprocessing_is_the_processors(backbone):
    items = requests(3)
    batch = prepare(backbone, [r.screenshot for r in items], [r.prompt for r in items])
    reference = backbone.processor.image_processor([r.screenshot for r in items], return_tensors="pt")
    torch.testing.assert_close(batch.inputs["pixel_values"], reference["pixel_values"], rtol=0, atol=0)


def test_screens_are_asked_for_when_their_batch_is_due(backbone):
    asked = []

    class Lazy(Request):
        def pictures(self, image, before):
            asked.append(self)
            return super().pictures(image, before)

    items = [Lazy(**vars(request)) for request in requests(8)]
    results = extract(backbone, items, layers=(1,), spans=("fits",), batch_size=2)
    next(results)
    assert len(asked) <= 6  # this batch and the two prepared ahead
    assert sum(len(positions) for positions, _ in results) == 6
    assert {id(request) for request in asked} == {id(request) for request in items} and len(asked) == 8


def test_layers_from_the_end_and_refusals(backbone):
    assert wanted_layers((-1, 2, 2), 4) == (4, 2)
    for layer in (7, 0, -5):
        with pytest.raises(DigiQError, match=f"featurize.layers: {layer} is not a layer.*layers 1 to 4"):
            wanted_layers((layer,), 4)
    with pytest.raises(
        DigiQError, match=r"featurize.spans: the prompt has no span 'kinds'; it has goal, action, kind"
    ):
        collect(backbone, requests(1), layers=(1,), spans=("kinds",))
    with pytest.raises(DigiQError, match="no token"):
        pool_span(torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool), "last")


def test_plain_arrays_in(vlm):
    rng = np.random.default_rng(0)
    screen = rng.integers(0, 255, (64, 40, 3), np.uint8)
    pairs = extract_features(
        [(screen, "go to a.com", action) for action in ACTIONS], model=vlm, layers=(-1, 1), spans=("fits",)
    )
    assert {layer: array.shape for layer, array in pairs.items()} == {3: (4, 64), 1: (4, 64)}
    assert len(np.unique(pairs[3], axis=0)) == 4  # each action is another prompt or picture
    observations = extract_features([(screen, goal, None) for goal in GOALS], model=vlm, spans=("screen",))
    assert observations[3].shape == (3, 64)
    with pytest.raises(DigiQError, match="no items"):
        extract_features([], model=vlm)


def test_grounding_by_text_draws_nothing():
    screen = np.zeros((64, 40, 3), np.uint8)
    by_text = Request.build(screen, "g", Action.tap(0.3, 0.6), "text")
    by_cursor = Request.build(screen, "g", Action.tap(0.3, 0.6), "cursor")
    assert by_text.screenshot is screen
    assert (by_cursor.screenshot != screen).any()
    assert "tap at (30, 60)" in by_text.prompt.text
    assert Request.build(screen, "g", Action.enter(), "cursor").screenshot is screen
