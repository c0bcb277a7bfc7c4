"""What every family of models does, over tiny random ones; the example of the guide as well. And the guide as it stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from android_env.actions import Action
from digiq.features.extract import FeaturizeConfig
from digiq.vlm.backbone import BackboneError, load_backbone, prepare, render_prompt, truncate
from digiq.vlm.families import FAMILIES, family_of
from digiq.vlm.prompts import build_prompt
from tests.digiq import guides

pytestmark = pytest.mark.usefixtures("one_torch_thread")
toy = guides.import_example("guides_family", "class VipLlava")
GOALS = ("Go to fernhub.com", 'Visit zephyr.io and look up "oat lantern 42", and select the first entry')
ACTIONS = (Action.tap(0.5, 0.5), Action.type_text("oat lantern 42"))
MODELS = {"llava": "vlm", "generic": "vipllava", "toy": "vipllava"}
"""By family, the fixture with a tiny random model of it, in a directory."""


@pytest.fixture(scope="module")
def vipllava(tmp_path_factory):
    """ViP-LLaVA's own classes around the embedded model's processor: 3 language layers, 64 wide."""
    from transformers import CLIPVisionConfig, LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

    from digiq.vlm.tiny.architecture import GRID, IMAGE_SIZE, PATCH_SIZE, build_processor

    torch.manual_seed(0)
    processor = build_processor()
    tokenizer = processor.tokenizer
    layers = {"num_attention_heads": 2, "intermediate_size": 96}
    vision = CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=2, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, **layers
    )
    text = LlamaConfig(
        hidden_size=64, num_hidden_layers=3, vocab_size=len(tokenizer), pad_token_id=0, **layers
    )
    config = VipLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layers=[-1, -2],
    )
    path = tmp_path_factory.mktemp("vipllava")
    VipLlavaForConditionalGeneration(config).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(params=MODELS)
def backbone(request, monkeypatch):
    if request.param == "toy":
        monkeypatch.setitem(FAMILIES._members, "toy", "guides_family:VipLlava")
    opened = load_backbone(request.getfixturevalue(MODELS[request.param]), dtype="float32")
    assert type(opened.family) is FAMILIES[request.param]
    return opened


def batch(backbone, positions=(0, 1), seed=0):
    screens = np.random.default_rng(seed).integers(0, 255, (2, 64, 40, 3), np.uint8)
    prompts = [build_prompt(goal, action) for goal, action in zip(GOALS, ACTIONS, strict=True)]
    chosen = [prompts[i] for i in positions]
    return prepare(backbone, [screens[i] for i in positions], chosen), chosen


def states(backbone, prepared) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return backbone.model.base_model(**prepared.inputs, output_hidden_states=True).hidden_states


def test_every_family_has_a_model_to_test_it_with():
    assert {*MODELS} == {*FAMILIES, "toy"}


def test_the_prompt_stands_once_after_one_image(backbone):
    for goal, action in zip(GOALS, ACTIONS, strict=True):
        prompt = build_prompt(goal, action)
        whole, start = render_prompt(backbone, prompt)
        assert whole[start : start + len(prompt.text)] == prompt.text and whole.count(prompt.text) == 1
        assert whole[:start].count(backbone.processor.image_token) == 1
        assert backbone.processor.image_token not in whole[start:]


def test_spans_select_the_tokens_of_their_text_in_a_padded_batch(backbone):
    prepared, prompts = batch(backbone)
    tokenizer = backbone.processor.tokenizer
    for row, prompt in enumerate(prompts):
        for name in ("action", "part", "changes"):
            start, end = prompt.spans[name]
            ids = prepared.inputs["input_ids"][row][prepared.spans[name][row]]
            said = "".join(tokenizer.convert_ids_to_tokens(ids))
            assert said.replace(" ", "") == prompt.text[start:end].lower().replace(" ", "")
        assert prepared.spans["answer"][row].nonzero().tolist() == [[real(prepared, row) - 1]]


def real(prepared, row: int) -> int:
    return int(prepared.inputs["attention_mask"][row].sum())


def test_the_rest_of_the_batch_changes_no_hidden_state(backbone):
    together, _ = batch(backbone)
    for row in (0, 1):
        alone, _ = batch(backbone, (row,))
        for one, other in zip(states(backbone, together), states(backbone, alone), strict=True):
            length = real(together, row)
            torch.testing.assert_close(one[row, :length], other[0, :length], rtol=1e-4, atol=1e-5)


def test_image_and_action_both_reach_the_decoder(backbone):
    one, other = (states(backbone, batch(backbone, seed=seed)[0])[-1] for seed in (0, 1))
    assert not torch.allclose(one, other, atol=1e-5)  # another screen
    assert not torch.allclose(one[0, -1], one[1, -1], atol=1e-5)


def test_a_cut_model_returns_the_whole_models_hidden_state_of_that_layer(backbone):
    decoder = backbone.family.decoder(backbone.model)
    assert (len(decoder.layers), backbone.num_layers, backbone.hidden_size) == (3, 3, 64)
    prepared, _ = batch(backbone)
    expected = states(backbone, prepared)[2]
    cut = truncate(backbone, 2)
    assert cut.num_layers == len(cut.family.decoder(cut.model).layers) == 2
    torch.testing.assert_close(states(cut, prepared)[-1], expected)
    with pytest.raises(BackboneError, match="num_layers is 9"):
        truncate(cut, 9)


def test_of_families_that_match_the_last_counts(vlm, monkeypatch):
    config = load_backbone(vlm).model.config
    assert type(family_of(config)) is FAMILIES["llava"]
    monkeypatch.setattr(toy.VipLlava, "matches", lambda self, config: True)
    monkeypatch.setitem(FAMILIES._members, "toy", "guides_family:VipLlava")
    assert type(family_of(config)) is toy.VipLlava


def test_a_model_without_a_decoder_and_a_prompt_that_is_changed_are_refused(vlm, monkeypatch):
    with pytest.raises(BackboneError, match="Linear has no decoder"):
        FAMILIES["generic"]().decoder(torch.nn.Linear(1, 1))
    opened = load_backbone(vlm)
    monkeypatch.setattr(type(opened.family), "render", lambda self, processor, text: text.upper())
    with pytest.raises(BackboneError, match="rewrites the prompt"):
        render_prompt(opened, build_prompt("go", None))


FOLLOWED = """
    import sys
    from digiq.features.extract import FeaturizeConfig
    from digiq.vlm.backbone import load_backbone, render_prompt
    from digiq.vlm.prompts import build_prompt
    from tests.digiq import guides
    opened = load_backbone(sys.argv[1])
    print(type(opened.family).__name__, render_prompt(opened, build_prompt("go", None))[0].count("###"))
    print(guides.identity(FeaturizeConfig()))
"""


def test_the_contributors_guide_to_families_works_as_it_stands(vipllava, tmp_path):
    printed = guides.follow(
        "digiq.vlm.families", "FAMILIES", "class VipLlava", FOLLOWED, tmp_path, vipllava
    ).splitlines()
    assert printed == ["VipLlava 2", guides.identity(FeaturizeConfig())]
