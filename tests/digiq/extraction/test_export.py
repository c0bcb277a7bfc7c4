"""Training data for other trainers: what is in it, and that TRL takes a step on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from android_env.actions import Action
from digiq import artifacts
from digiq.config import load
from digiq.data.store import EpisodeWriter
from digiq.dialects.ui_tars import UiTars
from digiq.errors import DigiQError
from digiq.extraction import export
from digiq.policies.base import Candidate
from digiq.proposals import propose
from tests.digiq.data.test_store import make_episode

TAP, OTHER, BACK, HOME = Action.tap(0.25, 0.5), Action.tap(0.75, 0.5), Action.back(), Action.home()
Q = np.array([[0.5, 0.9, 0.2, 0.85], [0.5, 0.45, 0.4, np.nan], [0.1, 0.2, 0.3, 0.4]], np.float32)
BASELINE = np.array([0.6, 0.6, 0.5], np.float32)
ROWS = [[BACK, TAP, HOME, OTHER], [TAP, BACK, HOME, None], [HOME, TAP, BACK, OTHER]]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two episodes, one of a test split, with candidates and values that are written down above."""
    with EpisodeWriter(tmp_path / "episodes") as writer:
        writer.write(make_episode("a", [BACK, TAP]))
        test = make_episode("b", [HOME])
        writer.write(type(test)(**{**vars(test), "split": "test"}))
    with artifacts.write(
        tmp_path / "proposals", stage="propose", version=1, config=propose.ProposeConfig(), inputs={}
    ) as w:
        rows = [[None if a is None else Candidate(a, 0.0) for a in row] for row in ROWS]
        propose.save_proposals(propose.to_arrays(rows), w.path)
        w.complete(counts={})
    for name in ("features", "critic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    monkeypatch.setattr(export, "load_critic", lambda path: None)
    monkeypatch.setattr(export, "open_features", lambda path: None)
    monkeypatch.setattr(export, "candidate_values", lambda critic, features: (Q, BASELINE))
    return tmp_path


def run(made: Path, out: str, **settings):
    config = load(export.ExportConfig, settings)
    inputs = {name: made / name for name in ("episodes", "proposals", "features", "critic")}
    return export.run(config, **inputs, out=made / out).manifest


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def words(message: list[dict]) -> str:
    return message[0]["content"][0]["text"]


def test_pairs_are_the_best_against_those_below_the_margin(made):
    manifest = run(made, "out", format="trl-dpo", margin=0.08, pairs=2, say={"dialect": "ui_tars"})
    rows = lines(made / "out")
    said = UiTars()
    assert [(words(r["chosen"]), words(r["rejected"])) for r in rows] == [
        (said.write(TAP, (8, 6)), said.write(BACK, (8, 6))),
        (said.write(TAP, (8, 6)), said.write(HOME, (8, 6))),
        (said.write(TAP, (8, 6)), said.write(HOME, (8, 6))),
    ]
    assert [round(r["q_chosen"] - r["q_rejected"], 2) for r in rows] == [0.4, 0.7, 0.1]
    assert manifest.counts == {"rows": 3, "states": 2, "kept_states": 2, "unwritable": 0, "images": 1}
    # The second state is told what was done before, in the same dialect.
    assert "Before:" not in rows[0]["prompt"][0]["content"][1]["text"]
    assert "Before: Action: press_back()" in rows[2]["prompt"][0]["content"][1]["text"]


def test_the_best_of_states_that_beat_the_baseline_are_imitated(made):
    manifest = run(made, "out", format="trl-sft")
    (row,) = lines(made / "out")
    assert json.loads(words(row["completion"])) == {"action_type": "click", "x": 3, "y": 2}
    assert row["q"] == pytest.approx(0.9) and manifest.counts["kept_states"] == 1
    run(made, "all", format="trl-sft", threshold=None)
    assert len(lines(made / "all")) == 2
    run(made, "test", format="trl-sft", split="test", threshold=None)
    assert len(lines(made / "test")) == 1


def test_sharegpt_has_llama_factorys_form(made):
    run(made, "out", format="sharegpt", images="embedded")
    (row,) = lines(made / "out")
    human, gpt = row["conversations"]
    assert human["from"] == "human" and human["value"].startswith("<image>") and "buy tea" in human["value"]
    assert gpt["from"] == "gpt" and json.loads(gpt["value"])["action_type"] == "click"
    assert human["value"].count("<image>") == len(row["images"]) == 1
    assert '"formatting": "sharegpt"' in (made / "out/README.md").read_text()


@pytest.mark.parametrize("images", ["referenced", "embedded"])
def test_images_come_back(made, images):
    run(made, "out", images=images)
    rows = export.load_export(made / "out")
    assert all(row["images"][0].size == (6, 8) and row["images"][0].mode == "RGB" for row in rows)
    stored = list((made / "out").glob("images/*"))
    assert len(stored) == (1 if images == "referenced" else 0)
    for file in stored:
        file.unlink()
        with pytest.raises(DigiQError, match="images"):
            export.load_export(made / "out")


def test_a_card_says_how_they_were_made(made):
    run(made, "out", margin=0.2)
    card = (made / "out/README.md").read_text()
    assert "at least 0.2 lower" in card and "dialect `plain_json`" in card and "an estimate" in card
    assert artifacts.content_digest(made / "critic")[:16] in card


@pytest.mark.parametrize(
    "settings", [{"margin": 5.0}, {"format": "trl-sft", "threshold": 5.0}, {"split": "none"}]
)
def test_nothing_to_export_is_said(made, settings):
    with pytest.raises(DigiQError, match="anything to export"):
        run(made, "out", **settings)


def test_artefacts_of_other_episodes_are_refused(made, monkeypatch):
    monkeypatch.setattr(export, "candidate_values", lambda critic, features: (Q[:1], BASELINE[:1]))
    with pytest.raises(DigiQError, match="name those of one run"):
        run(made, "out")


CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("kind", ["trl-sft", "trl-dpo"])
def test_trl_takes_a_step_on_it(made, kind):
    """On the embedded model: the loss is finite, and another one after the step."""
    trl = pytest.importorskip("trl")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from digiq.vlm import TINY_VLM_PATH

    run(made, "out", format=kind, margin=0.08, threshold=None)
    rows = Dataset.from_list(export.load_export(made / "out"))
    model = AutoModelForImageTextToText.from_pretrained(TINY_VLM_PATH, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(TINY_VLM_PATH)
    processor.chat_template = CHAT
    name = "SFT" if kind == "trl-sft" else "DPO"
    settings = getattr(trl, f"{name}Config")(
        output_dir=str(made / "trl"),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        max_length=None,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        bf16=False,
        seed=0,
    )
    before = model.get_output_embeddings().weight.detach().clone()
    # TRL would load the reference itself, and ask for an attention that the embedded model's eyes do not have.
    frozen = AutoModelForImageTextToText.from_pretrained(TINY_VLM_PATH, dtype=torch.float32)
    more = {"ref_model": frozen} if name == "DPO" else {}
    trainer = getattr(trl, f"{name}Trainer")(
        model, args=settings, train_dataset=rows, processing_class=processor, **more
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 2 and np.isfinite(losses).all() and losses[1] < losses[0]
    assert not torch.equal(before, model.get_output_embeddings().weight)
