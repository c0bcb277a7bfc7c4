"""The plain engine against one-at-a-time Hugging Face forwards, and its refusals."""

import numpy as np
import pytest
import torch

from android_env.actions import Action
from digiq.errors import DigiQError
from digiq.features.engine import Request, extract, extract_features, open_truncated, pool_span, wanted_layers
from digiq.vlm.backbone import TINY_VLM_PATH, load_backbone, prepare

GOALS = ("go to a.com", "search for a very long query indeed", "x")
ACTIONS = (Action.tap(0.3, 0.6), Action.type_text("hello there"), Action.swipe("up"), Action.enter())


def requests(count: int = 9) -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        Request.build(
            rng.integers(0, 255, (64, 40, 3), np.uint8), GOALS[i % 3], ACTIONS[i % 4], grounding="cursor"
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(TINY_VLM_PATH, dtype="float32")


def collect(backbone, items, **options):
    out = None
    for positions, features in extract(backbone, items, **options):
        out = np.empty((len(items), *features.shape[1:]), np.float32) if out is None else out
        out[positions] = features
    return out


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_batches_of_mixed_lengths_equal_single_forwards(backbone, pooling):
    items = requests()
    options = {"layers": (2, backbone.num_layers), "spans": ("kind", "answer"), "pooling": pooling}
    together = collect(backbone, items, batch_size=4, **options)
    alone = collect(backbone, items, batch_size=1, **options)
    np.testing.assert_allclose(together, alone, atol=2e-4, rtol=1e-4)
    # Independent of the engine: Hugging Face's own forward, the answer's position being the last one.
    batch = prepare(backbone, [items[0].screenshot], [items[0].prompt])
    with torch.inference_mode():
        states = backbone.model(**batch.inputs, output_hidden_states=True).hidden_states
    hidden = backbone.hidden_size
    np.testing.assert_allclose(alone[0, 0, hidden:], states[2][0, -1].numpy(), atol=1e-5)
    np.testing.assert_allclose(alone[0, 1, hidden:], states[-1][0, -1].numpy(), atol=1e-5)


def test_cutting_the_model_off_changes_nothing_below(backbone):
    items = requests(3)
    whole = collect(backbone, items, layers=(2,), spans=("fits",))
    cut, full = open_truncated(load_backbone(TINY_VLM_PATH, dtype="float32"), (2,))
    assert (cut.num_layers, full) == (2, backbone.num_layers)
    np.testing.assert_allclose(collect(cut, items, layers=(2,), spans=("fits",)), whole, atol=1e-6)


def test_layers_from_the_end_and_refusals(backbone):
    assert wanted_layers((-1, 2, 2), 4) == (4, 2)
    with pytest.raises(DigiQError, match="7 is no layer of a model with layers 1 to 4"):
        wanted_layers((7,), 4)
    with pytest.raises(DigiQError, match="no span 'kinds'"):
        collect(backbone, requests(1), layers=(1,), spans=("kinds",))
    with pytest.raises(DigiQError, match="no token"):
        pool_span(torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool), "last")


def test_plain_arrays_in():
    rng = np.random.default_rng(0)
    items = [(rng.integers(0, 255, (64, 40, 3), np.uint8), "go to a.com", a) for a in ACTIONS]
    features = extract_features(items, model=TINY_VLM_PATH, layers=(-1,), spans=("fits", "answer"))
    (layer,) = features
    assert features[layer].shape == (4, 2 * 192)
    assert len(np.unique(features[layer].round(3), axis=0)) == 4  # each action is another prompt or picture
    with pytest.raises(DigiQError, match="no items"):
        extract_features([], model=TINY_VLM_PATH)


def test_grounding_by_text_draws_nothing():
    screen = np.zeros((64, 40, 3), np.uint8)
    by_text = Request.build(screen, "g", Action.tap(0.3, 0.6), "text")
    by_cursor = Request.build(screen, "g", Action.tap(0.3, 0.6), "cursor")
    assert by_text.screenshot is screen
    assert (by_cursor.screenshot != screen).any()
    assert "(30, 60)" in by_text.prompt.text or "(30, 59)" in by_text.prompt.text
