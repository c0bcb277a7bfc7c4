"""An answer that the model generates is what it would generate, and what is pooled are its states."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from digiq.errors import DigiQError
from digiq.features.engines import Request
from digiq.features.engines.generated import Generated, answered
from digiq.vlm.backbone import load_backbone, prepare
from digiq.vlm.prompts import load_template
from tests.digiq.features.test_extract import BACK, CONFIG, TAP, TYPE, screen
from tests.digiq.vlm import tiny_models

pytestmark = pytest.mark.usefixtures("one_torch_thread")
PAPER = load_template("paper")


def requests() -> list[Request]:
    return [
        Request.build(screen(i), "buy tea", action, "cursor", template=PAPER)
        for i, action in enumerate((TAP, TYPE, BACK))
    ]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_the_answer_is_what_the_model_generates_and_its_states_are_pooled(family, tmp_path):
    path = tiny_models.write(family, tmp_path / family)
    config = dataclasses.replace(
        CONFIG, prompt="paper", pair_spans=(), observation_spans=(), layers=(1, -1), pooling="mean"
    )
    engine = Generated(tokens=3).open(config, path)
    items = requests()
    found = {
        int(p): row
        for positions, block in engine.rows(items)
        for p, row in zip(positions, block, strict=True)
    }
    backbone = load_backbone(path, dtype="float32")
    for i, item in enumerate(items):
        batch = prepare(backbone, [item.screenshot], [item.prompt])
        inputs, answer = answered(backbone, batch, 3)
        length = int(answer.sum())
        said = backbone.model.generate(**batch.inputs, max_new_tokens=3, do_sample=False)
        own = inputs["input_ids"][0][answer[0]]
        assert 1 <= length <= 3 and said[0, -len(own) :].tolist() == own.tolist()
        with torch.inference_mode():
            states = backbone.model.base_model(**inputs, output_hidden_states=True).hidden_states
        for row, layer in enumerate((1, -1)):
            expected = states[layer][0][answer[0]].float().mean(dim=0).numpy()
            np.testing.assert_allclose(found[i][row], expected, rtol=1e-4, atol=1e-5)
    assert engine.layers == ("layer_01", f"layer_{backbone.num_layers:02d}")
    assert engine.dim("pair") == backbone.hidden_size


def test_a_model_whose_prompt_would_see_its_answer_is_refused(tmp_path):
    path = tiny_models.write("paligemma", tmp_path / "paligemma")
    config = dataclasses.replace(CONFIG, prompt="paper", pair_spans=(), observation_spans=())
    with pytest.raises(DigiQError, match="engine generated: models of type 'paligemma'"):
        Generated().open(config, path)
