"""The stages on artefacts: train-q, then diagnose and select, over a small store of episodes."""

import json

import numpy as np
import pytest

import digiq.features.extract
from android_env.actions import Action
from digiq.critics import candidate_values, load_critic
from digiq.critics import diagnose as diagnose_stage
from digiq.critics import select as select_stage
from digiq.critics.train import TrainQConfig, load_training_data, run
from digiq.data.schema import Episode, Step, encode_png
from digiq.data.store import EpisodeWriter
from digiq.errors import DigiQError
from digiq.features.extract import Features

SCREEN = encode_png(np.zeros((8, 8, 3), np.uint8))
CONFIG = TrainQConfig(
    critic={
        "heads": {"q_hidden": (8,), "v_hidden": (8,)},
        "epochs": 4,
        "steps_per_epoch": 20,
        "batch_size": 32,
    },
    heldout_fraction=0.25,
    checkpoint_every=2,
)


def episode(number: int, split: str, success: bool, cut_off: bool) -> Episode:
    steps = [
        Step(
            screenshot=SCREEN,
            goal="g",
            action=Action.back() if t < 3 else None,
            reward=float(success and t == 2),
            discount=1.0 if t < 3 else 0.0,
            is_first=t == 0,
            is_last=t == 3,
            is_terminal=t == 3 and not cut_off,
        )
        for t in range(4)
    ]
    return Episode(episode_id=f"e{number:03d}", split=split, screen_hw=(8, 8), steps=tuple(steps))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """40 training episodes and 4 of a test split; every fifth is cut off. Features are given, not extracted."""
    path = tmp_path_factory.mktemp("stage")
    kinds = [("train" if k < 40 else "test", k % 2 == 0, k % 5 == 4) for k in range(44)]
    with EpisodeWriter(path / "episodes") as writer:
        for k, (split, success, cut_off) in enumerate(kinds):
            writer.write(episode(k, split, success and not cut_off, cut_off))
    rng = np.random.default_rng(0)
    good = np.concatenate([[s and not c] * (3 + c) for _, s, c in kinds]).astype(np.float32)
    states = len(good)
    observation, pair = rng.normal(size=(states, 4)), rng.normal(size=(3 * states, 4))
    observation[:, 0] = pair[:states, 0] = good * 2 - 1
    rows = np.arange(3 * states, dtype=np.int32).reshape(3, states).T.copy()
    unlogged = np.cumsum([3 + c for *_, c in kinds])[[c for *_, c in kinds]] - 1
    rows[unlogged, 0] = -1
    (path / "features").mkdir()
    (path / "features" / "index").write_text("stands for the stored rows")
    features = Features({"layer_01": observation.astype("f")}, {"layer_01": pair.astype("f")}, rows)
    patch = pytest.MonkeyPatch()
    patch.setattr(digiq.features.extract, "load_features", lambda _: features)
    yield {"features": path / "features", "episodes": path / "episodes"}, features, path
    patch.undo()


@pytest.fixture(scope="module")
def trained(inputs):
    sources, _, path = inputs
    return run(CONFIG, **sources, out=path / "critic")


def test_trains_on_its_splits_alone(inputs):
    sources, features, _ = inputs
    data, _ = load_training_data(CONFIG, **sources, rewards=None)
    assert len(data.table.obs) == 40 * 3
    test_states = np.arange(len(features.candidate_row))[-(4 * 3 + 1) :]
    assert not set(test_states) & set(data.table.obs)
    assert (data.table.discount[2::3] == 0).all(), "a time-out ends in value 0 in the paper's recipe"
    with pytest.raises(DigiQError, match="no episode of split dev; there are test, train"):
        load_training_data(TrainQConfig(splits=("dev",)), **sources, rewards=None)


def test_writes_a_critic_and_does_nothing_the_second_time(inputs, trained):
    sources, features, path = inputs
    assert trained.manifest.counts["transitions"] == 120
    q, _ = candidate_values(load_critic(path / "critic"), features)
    assert q.shape == features.candidate_row.shape
    assert np.isnan(q).sum() == 8
    before = (path / "critic" / "metrics.jsonl").stat().st_mtime_ns
    again = run(CONFIG, **sources, out=path / "critic")
    assert again.manifest == trained.manifest
    assert (path / "critic" / "metrics.jsonl").stat().st_mtime_ns == before
    trained.verify()


def test_diagnose_reports_every_checkpoint(inputs, trained):
    sources, features, path = inputs
    np.save(path / "truth.npy", np.random.default_rng(0).random(features.candidate_row.shape))
    config = diagnose_stage.DiagnoseConfig()
    diagnose_stage.run(
        config, critic=trained.path, **sources, truth=path / "truth.npy", out=path / "diagnostics"
    )
    found = json.loads((path / "diagnostics" / "diagnostics.json").read_text())
    assert list(found["checkpoints"]) == ["2", "4"]
    assert found["checkpoints"]["4"]["truth"]["states"] > 0
    assert (path / "diagnostics" / "diagnostics.png").stat().st_size > 5000


def test_select_names_a_checkpoint_and_says_why(inputs, trained):
    sources, _, path = inputs
    run(CONFIG.__class__(**{**CONFIG.__dict__, "seed": 1}), **sources, out=path / "other")
    critics = [trained.path, path / "other"]
    select_stage.run(select_stage.SelectConfig(), critics=critics, **sources, out=path / "selection")
    found = json.loads((path / "selection" / "selection.json").read_text())
    assert len(found["scores"]) == 4
    assert found["scores"][f"{found['critic'].rsplit('/', 1)[1]} epoch {found['epoch']}"] == max(
        found["scores"].values()
    )
    load_critic(found["critic"], found["epoch"])
    assert "policy value" in found["why"]
    elsewhere = path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "index").write_text("other rows")
    with pytest.raises(DigiQError, match=r"not the features that .* was trained on"):
        select_stage.run(
            select_stage.SelectConfig(),
            critics=critics,
            features=elsewhere,
            episodes=sources["episodes"],
            out=path / "refused",
        )
