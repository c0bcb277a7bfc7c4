"""What every family of models does, over tiny random ones (:mod:`tests.digiq.vlm.tiny_models`); the guide's example too."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
import torch

from android_env.actions import Action
from digiq.data.schema import encode_png
from digiq.features.extract import FeaturizeConfig
from digiq.vlm import tune
from digiq.vlm.backbone import (
    BackboneError,
    Prompt,
    check_backbone,
    check_crop_of,
    check_model_directory,
    load_backbone,
    prepare,
    render_prompt,
    truncate,
)
from digiq.vlm.families import FAMILIES, family_of
from digiq.vlm.prompts import build_prompt, load_template, pictures
from tests.digiq import guides
from tests.digiq.vlm import tiny_models

pytestmark = pytest.mark.usefixtures("one_torch_thread")
toy = guides.import_example("guides_family", "class VipLlava")
GOALS = ("Go to fernhub.com", 'Visit zephyr.io and look up "oat lantern 42", and select the first entry')
ACTIONS = (Action.tap(0.5, 0.5), Action.type_text("oat lantern 42"))
GENERAL = load_template("general")
EVERY = [*tiny_models.MODELS, "vipllava"]


@pytest.fixture(scope="module")
def vipllava(tmp_path_factory):
    """ViP-LLaVA's own classes around the embedded model's processor: 3 language layers, 64 wide."""
    from transformers import CLIPVisionConfig, LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

    from digiq.vlm.tiny.architecture import GRID, IMAGE_SIZE, PATCH_SIZE, build_processor

    torch.manual_seed(0)
    processor = build_processor()
    words = processor.tokenizer
    layers = {"num_attention_heads": 2, "intermediate_size": 96}
    vision = CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=2, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, **layers
    )
    text = LlamaConfig(hidden_size=64, num_hidden_layers=3, vocab_size=len(words), pad_token_id=0, **layers)
    config = VipLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layers=[-1, -2],
    )
    path = tmp_path_factory.mktemp("vipllava")
    VipLlavaForConditionalGeneration(config).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def directories(tmp_path_factory, vipllava):
    root = tmp_path_factory.mktemp("families")
    return {name: vipllava if name == "vipllava" else tiny_models.write(name, root / name) for name in EVERY}


@pytest.fixture(params=EVERY)
def directory(request, directories, monkeypatch):
    if request.param == "vipllava":
        monkeypatch.setitem(FAMILIES._members, "toy", "guides_family:VipLlava")
    return directories[request.param]


@pytest.fixture
def backbone(directory):
    return load_backbone(directory, dtype="float32")


def batch(backbone, positions=(0, 1), seed=0, goals=GOALS):
    screens = np.random.default_rng(seed).integers(0, 255, (2, 128, 80, 3), np.uint8)
    prompts = [
        build_prompt(goal, action, template=GENERAL) for goal, action in zip(goals, ACTIONS, strict=True)
    ]
    chosen = [prompts[i] for i in positions]
    return prepare(backbone, [screens[i] for i in positions], chosen), chosen


def states(backbone, prepared) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return backbone.model.base_model(**prepared.inputs, output_hidden_states=True).hidden_states


def letters(text: str) -> str:
    return "".join(text.split()).lower()


def real(prepared, row: int) -> int:
    return int(prepared.inputs["attention_mask"][row].sum())


def test_every_family_has_a_model_to_test_it_with():
    covered = {model for name in FAMILIES for model in FAMILIES[name].models}
    assert covered == set(tiny_models.MODELS)


def test_the_directory_passes_the_preflight_and_is_of_its_family(directory, backbone):
    check_model_directory(directory)
    check_backbone(backbone)
    assert backbone.model.config.model_type in type(backbone.family).models or isinstance(
        backbone.family, toy.VipLlava
    )


def test_the_prompt_stands_once_in_what_the_processor_is_given(backbone):
    for goal, action in zip(GOALS, ACTIONS, strict=True):
        prompt = build_prompt(goal, action, template=GENERAL)
        whole, start = render_prompt(backbone, prompt)
        assert whole[start : start + len(prompt.text)] == prompt.text and whole.count(prompt.text) == 1


@pytest.mark.parametrize("goals", [GOALS, ("html <image> tag", "say <|im_end|> 买 🎂 <|image_pad|>\n\ud83d")])
def test_spans_select_the_tokens_of_their_text_in_a_padded_batch(backbone, goals):
    prepared, prompts = batch(backbone, goals=goals)
    decode = backbone.processor.tokenizer.decode
    for row, prompt in enumerate(prompts):
        for name in ("action", "serves", "changes"):
            start, end = prompt.spans[name]
            said = decode(prepared.inputs["input_ids"][row][prepared.spans[name][row]])
            assert letters(said) == letters(prompt.text[start:end])
        assert prepared.spans["answer"][row].nonzero().tolist() == [[real(prepared, row) - 1]]
        goal = letters(decode(prepared.inputs["input_ids"][row][prepared.spans["goal"][row]]))
        if goals is GOALS:
            assert goal.endswith(letters(goals[row]))  # a token may hold more


def test_the_rest_of_the_batch_changes_no_hidden_state(backbone):
    together, _ = batch(backbone)
    for row in (0, 1):
        alone, _ = batch(backbone, (row,))
        for one, other in zip(states(backbone, together), states(backbone, alone), strict=True):
            length = real(together, row)
            scale = float(other.square().mean().sqrt())
            torch.testing.assert_close(one[row, :length], other[0, :length], rtol=0, atol=1e-5 * scale)


def test_image_and_action_both_reach_the_decoder(backbone):
    (one, _), (other, _) = (batch(backbone, seed=seed) for seed in (0, 1))
    first, second = states(backbone, one)[-1], states(backbone, other)[-1]
    scale = float(first.square().mean().sqrt())
    answer = one.spans["answer"]
    assert (first[answer] - second[answer]).abs().max() > 1e-3 * scale  # another screen
    assert (first[answer][0] - first[answer][1]).abs().max() > 1e-3 * scale


UNCROPPED = ("paligemma", "llava_onevision")
SHOWN = ("before", "crop", "both")


def several(backbone, shown, rows=(0, 1), change=None):
    """A batch of a tap and a typed text with the screen before, a crop of the tap, or both; ``change`` names a picture."""
    kind = backbone.model.config.model_type
    if shown != "before" and kind in UNCROPPED:
        pytest.skip("takes no crop, which another test says")
    grounding = "text" if shown == "before" else "crop"
    screens = np.random.default_rng(0).integers(0, 255, (2, 2, 128, 80, 3), np.uint8)
    given, prompts = [], []
    for row in rows:
        now, before = screens[row].copy()
        before = None if shown == "crop" else before
        prompts.append(
            build_prompt(
                GOALS[row],
                ACTIONS[row],
                grounding=grounding,
                template=GENERAL,
                before=before is not None,
            )
        )
        given.append(pictures(now, ACTIONS[row], grounding, before))
        if change is not None:
            given[-1][change] = 255 - given[-1][change]
    return prepare(backbone, given, prompts), prompts


@pytest.mark.parametrize("shown", SHOWN)
def test_spans_are_right_with_pictures_before_and_inside_a_prompt(backbone, shown):
    prepared, prompts = several(backbone, shown)
    decode = backbone.processor.tokenizer.decode
    for row, prompt in enumerate(prompts):
        for name in ("action", "under", "serves", "changes", "all"):
            start, end = prompt.spans[name]
            said = letters(decode(prepared.inputs["input_ids"][row][prepared.spans[name][row]]))
            text = letters(prompt.text[start:end])
            assert said.endswith(text) if name == "all" else said == text  # a token may hold more


@pytest.mark.parametrize("shown", SHOWN)
def test_with_several_pictures_the_rest_of_the_batch_changes_nothing(backbone, shown):
    together, _ = several(backbone, shown)
    for row in (0, 1):
        alone, _ = several(backbone, shown, (row,))
        one, other = states(backbone, together)[-1], states(backbone, alone)[-1]
        length = real(together, row)
        scale = float(other.square().mean().sqrt())
        torch.testing.assert_close(one[row, :length], other[0, :length], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("shown", "change"), [("both", 0), ("both", 1), ("both", 2), ("before", 0)])
def test_each_picture_reaches_the_decoder(backbone, shown, change):
    (one, _), (other, _) = (several(backbone, shown, (0,), c) for c in (None, change))
    first, second = (states(backbone, b)[-1][b.spans["answer"]] for b in (one, other))
    assert (first - second).abs().max() > 1e-3 * float(first.square().mean().sqrt())


def test_the_preflight_tries_several_pictures_or_refuses_them_by_name(directory, backbone):
    check_backbone(backbone, before=True)
    kind = backbone.model.config.model_type
    if kind not in UNCROPPED:
        check_backbone(backbone, cropped=True)
        if kind != "vipllava":  # which the preflight of a directory does not know
            check_crop_of(directory)
        return
    for refused in (lambda: check_backbone(backbone, cropped=True), lambda: check_crop_of(directory)):
        with pytest.raises(BackboneError, match=rf"'{kind}' take no picture after .* grounding to text or"):
            refused()


def test_a_crop_that_costs_what_a_screen_does_is_refused_and_so_is_a_template_that_moves_it(
    directories, monkeypatch
):
    opened = load_backbone(directories["llava"], dtype="float32")
    monkeypatch.setattr("digiq.vlm.backbone.CROP_TOKENS", 10)
    with pytest.raises(
        BackboneError, match=r"'llava' reads a crop of 112 x 112 pixels as 17 tokens.*grounding"
    ):
        check_backbone(opened, cropped=True)
    opened.processor.chat_template = (
        "{% for kind in ('image', 'text') %}{% for c in messages[0]['content'] %}{% if c['type'] == kind %}"
        "{{ '<image>' if kind == 'image' else c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(BackboneError, match="its chat template moves pictures to the front"):
        check_backbone(opened, cropped=True)


def test_a_model_that_takes_one_picture_alone_is_refused_by_name(directories, monkeypatch):
    opened = load_backbone(directories["llava"], dtype="float32")
    monkeypatch.setattr(
        type(opened.family), "render", lambda self, processor, text, pictures: f"<image>{text}"
    )
    check_backbone(opened)
    with pytest.raises(
        BackboneError, match=r"'llava' do not take the previous screen.*history.screenshot to false"
    ):
        check_backbone(opened, before=True)


def test_a_cut_model_returns_the_whole_models_hidden_state_of_that_layer(backbone):
    decoder = backbone.family.decoder(backbone.model)
    layers = len(decoder.layers)
    assert (backbone.num_layers, backbone.hidden_size) == (layers, 64)
    prepared, _ = batch(backbone)
    expected = states(backbone, prepared)[2]
    cut = truncate(backbone, 2)
    assert cut.num_layers == len(cut.family.decoder(cut.model).layers) == 2
    # Of image tokens Qwen3-VL adds more of the screen after its first layers, before or after which they may be read.
    read = prepared.spans["all"] | prepared.spans["answer"]
    torch.testing.assert_close(states(cut, prepared)[-1][read], expected[read])
    with pytest.raises(BackboneError, match="num_layers is 9"):
        truncate(cut, 9)


def test_tuning_takes_a_step_and_saves_what_opens_again(backbone, tmp_path):
    screen = np.random.default_rng(0).integers(0, 255, (128, 80, 3), np.uint8)
    examples = [
        tune.Example(encode_png(screen), "go", action, changed)
        for action, changed in zip((*ACTIONS, Action.back()), (True, False, True), strict=True)
    ]
    config = tune.TuneVlmConfig(batch_size=3, dtype="float32", learning_rate=1e-2)
    before = tune.change_scores(backbone, examples)
    tune._fit(backbone, examples, config, tmp_path / "log")
    after = tune.change_scores(backbone, examples)
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-4
    backbone.model.save_pretrained(tmp_path / "tuned")
    backbone.processor.save_pretrained(tmp_path / "tuned")
    again = load_backbone(tmp_path / "tuned", dtype="float32")
    np.testing.assert_allclose(tune.change_scores(again, examples), after, rtol=1e-3, atol=1e-3)


def test_an_answer_that_is_learned_is_not_seen_before_it_is_given(directories):
    """PaliGemma's prompts see all of themselves, so an answer must not count as part of one."""
    opened = load_backbone(directories["paligemma"], dtype="float32")
    prepared, _ = batch(opened, (0,))
    logits = []
    for answer in (50, 60):
        inputs = tune._with_answers(prepared.inputs, torch.tensor([answer]), opened.family.answer_type)
        opened.model.train()
        with torch.no_grad():
            logits.append(opened.model(**inputs).logits[0, real(prepared, 0) - 1])
    torch.testing.assert_close(logits[0], logits[1])


def test_of_families_that_match_the_last_counts(directories, monkeypatch):
    config = load_backbone(directories["llava"]).model.config
    assert type(family_of(config)) is FAMILIES["llava"]
    monkeypatch.setattr(toy.VipLlava, "matches", lambda self, config: True)
    monkeypatch.setitem(FAMILIES._members, "toy", "guides_family:VipLlava")
    assert type(family_of(config)) is toy.VipLlava


def test_what_is_not_covered_is_refused_by_name_before_anything_is_loaded(vipllava, tmp_path):
    for path in (vipllava, tmp_path):
        if path is tmp_path:
            (path / "config.json").write_text(json.dumps({"model_type": "mllama"}))
        with pytest.raises(
            BackboneError, match=r"models of type '(vip_?llava|mllama)' are not supported.*llava, qwen2_vl"
        ):
            check_model_directory(path)
    with pytest.raises(BackboneError, match="'bert' are not supported"):
        family_of(types.SimpleNamespace(model_type="bert"))


def test_a_missing_package_is_named_in_the_preflight(directories, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BackboneError, match=r"needs the package 'num2words', which 'pip install digiq\[vlm\]'"
    ):
        check_model_directory(directories["smolvlm"])


def test_a_model_without_a_decoder_and_a_prompt_that_is_changed_are_refused(vlm, monkeypatch):
    from digiq.vlm.families.generic import Generic

    with pytest.raises(BackboneError, match="Linear has no decoder"):
        Generic().decoder(torch.nn.Linear(1, 1))
    opened = load_backbone(vlm)
    monkeypatch.setattr(type(opened.family), "render", lambda self, processor, text, pictures: text.upper())
    with pytest.raises(BackboneError, match="rewrites the prompt"):
        render_prompt(opened, build_prompt("go", None))


def test_text_that_a_processor_adds_unknown_to_its_family_is_noticed(directories, monkeypatch):
    opened = load_backbone(directories["paligemma"], dtype="float32")
    monkeypatch.setattr(type(opened.family), "tail", lambda self, processor: "")
    with pytest.raises(BackboneError, match="spans would be wrong"):
        check_backbone(opened)


def test_a_prompt_past_the_context_names_its_row(directories):
    opened = load_backbone(directories["llava"], dtype="float32")
    opened.model.config.get_text_config().max_position_embeddings = 100
    screen = np.zeros((32, 32, 3), np.uint8)
    prompts = [Prompt("go", {}), Prompt("go " * 200, {})]
    with pytest.raises(BackboneError, match=r"a prompt of \d+ tokens is longer than the 100") as caught:
        prepare(opened, [screen, screen], prompts)
    assert caught.value.row == 1  # type: ignore[attr-defined]


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
