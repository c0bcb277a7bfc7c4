import shutil

import numpy as np
import pytest
import torch

from android_env.actions import Action
from digiq.vlm.backbone import BackboneError, load_backbone, prepare, render_prompt, truncate
from digiq.vlm.prompts import build_prompt

pytestmark = pytest.mark.usefixtures("one_torch_thread")

GOALS = ("Go to fernhub.com", 'Visit zephyr.io and look up "oat lantern 42", and select the first entry')


def test_a_directory_without_a_processor_is_refused_by_name(vlm, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(vlm / name, tmp_path / name)
    with pytest.raises(BackboneError, match=r"no processor \(preprocessor_config.json"):
        load_backbone(tmp_path)


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(BackboneError, match=r"no config\.json"):
        load_backbone(tmp_path)


def test_a_model_of_another_kind_is_refused(vlm, tmp_path):
    for file in vlm.iterdir():
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BackboneError, match="models of type 'bert' are not supported"):
        load_backbone(tmp_path)


def test_more_layers_than_there_are_is_refused(vlm):
    with pytest.raises(BackboneError, match="num_layers is 9, but the model has layers 1 to 3"):
        load_backbone(vlm, num_layers=9)


def test_a_cut_model_returns_the_whole_models_hidden_state_of_that_layer(vlm):
    whole, cut = load_backbone(vlm, dtype="float32"), load_backbone(vlm, dtype="float32", num_layers=1)
    assert (whole.num_layers, cut.num_layers) == (3, 1)
    screen = np.random.default_rng(0).integers(0, 255, (320, 192, 3), np.uint8)
    batch = prepare(whole, [screen], [build_prompt(GOALS[0], Action.back())])
    with torch.inference_mode():
        expected = whole.model(**batch.inputs, output_hidden_states=True).hidden_states[1]
        got = cut.model(**batch.inputs, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(got, expected)
    assert truncate(whole, 1).num_layers == 1


def test_spans_select_the_tokens_of_their_text_in_a_padded_batch(vlm):
    backbone = load_backbone(vlm)
    actions = (Action.tap(0.5, 0.5), Action.type_text("oat lantern 42"))
    prompts = [build_prompt(goal, action) for goal, action in zip(GOALS, actions, strict=True)]
    screens = [np.zeros((320, 192, 3), np.uint8)] * 2
    batch = prepare(backbone, screens, prompts)
    tokenizer = backbone.processor.tokenizer
    for row, prompt in enumerate(prompts):
        ids = batch.inputs["input_ids"][row]
        for name in ("action", "part", "changes"):
            start, end = prompt.spans[name]
            said = "".join(tokenizer.convert_ids_to_tokens(ids[batch.spans[name][row]]))
            assert said.strip() == prompt.text[start:end].lower()
        assert batch.spans["answer"][row].sum() == 1
        last = batch.spans["answer"][row].nonzero().item()
        assert batch.spans["changes"][row].nonzero().max().item() == last


def test_without_a_chat_template_the_prompt_follows_the_image_token(vlm):
    backbone = load_backbone(vlm)
    prompt = build_prompt(GOALS[0], None)
    whole, start = render_prompt(backbone, prompt)
    assert whole[start:] == prompt.text
