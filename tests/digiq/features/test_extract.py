"""The featurize stage: distinct rows, reuse, resume, refusals, damage."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest

from android_env.actions import Action
from digiq import artifacts
from digiq.config import load
from digiq.data.schema import Episode, Step, encode_png
from digiq.data.store import EpisodeWriter
from digiq.errors import ArtifactError, ArtifactMismatch, ConfigError, DigiQError
from digiq.features import extract as stage
from digiq.features import extract_features, load_features
from digiq.features.engines import plain
from digiq.features.extract import FeaturizeConfig
from digiq.policies.base import Candidate
from digiq.proposals.propose import load_proposals, save_proposals, supported, to_arrays

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TAP, OTHER_TAP, BACK, TYPE = (
    Action.tap(0.5, 0.25),
    Action.tap(0.2, 0.7),
    Action.back(),
    Action.type_text("tea"),
)
CONFIG = FeaturizeConfig(
    layers=(-1, 1), pair_spans=("kind", "fits"), observation_spans=("screen",), dtype="float32", batch_size=3
)


def screen(number):
    return np.random.default_rng(number).integers(0, 255, (64, 40, 3), np.uint8)


def episode(name, goal, screens, actions, terminal=True):
    steps = [
        Step(
            screenshot=encode_png(screen(number)),
            goal=goal,
            action=action,
            is_first=t == 0,
            is_last=t == len(actions),
            is_terminal=terminal and t == len(actions),
        )
        for t, (number, action) in enumerate(zip(screens, [*actions, None], strict=True))
    ]
    return Episode(episode_id=name, screen_hw=(64, 40), steps=tuple(steps))


EPISODES = [
    episode("a", "buy tea", [0, 1, 2], [TAP, BACK]),
    episode("b", "buy tea", [0, 3], [TAP], terminal=False),  # the same first screen, goal and action
    episode("c", "go home", [0, 2], [BACK]),  # the same screen, another goal
]
OBSERVED = [(0, "buy tea"), (1, "buy tea"), (0, "buy tea"), (3, "buy tea"), (0, "go home")]
CANDIDATES = [
    [TAP, TAP, TYPE],
    [BACK, OTHER_TAP, BACK],
    [TAP, TYPE, OTHER_TAP],
    [None, TAP, TYPE],
    [BACK, TAP, TYPE],
]


def write_inputs(root, episodes, candidates):
    with artifacts.write(root / "episodes", stage="collect", version=1, config={}) as w:
        with EpisodeWriter(w.path) as writer:
            for item in episodes:
                writer.write(item)
        w.complete()
    with artifacts.write(root / "proposals", stage="propose", version=1, config={}) as w:
        rows = [[item and Candidate(item, -1.0) for item in row] for row in candidates]
        save_proposals(to_arrays(rows), w.path)
        w.complete()
    return {"episodes": root / "episodes", "proposals": root / "proposals"}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, vlm):
    return {**write_inputs(tmp_path_factory.mktemp("inputs"), EPISODES, CANDIDATES), "vlm": vlm}


@pytest.fixture(scope="session")
def finished(tmp_path_factory, inputs):
    out = tmp_path_factory.mktemp("run") / "features"
    stage.run(CONFIG, **inputs, out=out)
    return out


@pytest.fixture
def run_copy(tmp_path, finished):
    """A finished run that a test may spoil; it moved, so it also shows that runs can be moved."""
    shutil.copytree(finished.parent, tmp_path / "moved")
    return tmp_path / "moved" / "features"


@pytest.fixture
def computed(monkeypatch):
    """How many rows went through the VLM, by call."""
    counts = []
    original = plain.extract

    def counting(backbone, requests, **options):
        counts.append(len(requests))
        return original(backbone, requests, **options)

    monkeypatch.setattr(plain, "extract", counting)
    return counts


def assert_same(a, b):
    np.testing.assert_array_equal(a.candidate_row, b.candidate_row)
    for kind in ("observation", "pair"):
        left, right = getattr(a, kind), getattr(b, kind)
        assert list(left) == list(right)
        for layer in left:
            np.testing.assert_allclose(
                left[layer].astype(float), right[layer].astype(float), rtol=1e-2, atol=1e-3
            )


def test_every_row_is_that_of_its_observation_and_action(inputs, finished):
    features = load_features(finished)
    assert list(features.pair) == ["layer_03", "layer_01"]
    assert features.observation["layer_01"].shape == (5, 64)
    assert features.candidate_row.dtype == np.int32
    options = {"model": inputs["vlm"], "layers": (3, 1), "dtype": "float32"}
    expected = extract_features(
        [(screen(n), goal, None) for n, goal in OBSERVED], spans=("screen",), **options
    )
    for name, layer in (("layer_03", 3), ("layer_01", 1)):
        np.testing.assert_allclose(
            features.observation[name].astype(float), expected[layer], rtol=1e-2, atol=1e-3
        )
    for (number, goal), row, actions in zip(OBSERVED, features.candidate_row, CANDIDATES, strict=True):
        assert [index < 0 for index in row] == [action is None for action in actions]
        real = [(index, action) for index, action in zip(row, actions, strict=True) if action]
        expected = extract_features(
            [(screen(number), goal, action) for _, action in real], spans=("kind", "fits"), **options
        )
        got = features.pair["layer_03"][[index for index, _ in real]]
        np.testing.assert_allclose(got.astype(float), expected[3], rtol=1e-2, atol=1e-3)


def test_rows_are_distinct_and_logged_ones_come_first(finished):
    row = load_features(finished).candidate_row
    np.testing.assert_array_equal(row[:, 0], [0, 1, 0, -1, 2])
    assert row[0, 1] == 0 and row[1, 2] == 1  # candidates that repeat the logged action
    assert row[0, 2] == row[2, 1]  # the same screen in another episode
    assert row[4, 1] != row[0, 0]  # another goal is another pair
    assert sorted({*row[row >= 0].tolist()}) == list(range(10))
    counts = artifacts.open(finished).manifest.counts
    assert counts == {"observations": 5, "distinct_observations": 4, "candidates": 14, "pairs": 10}


def test_running_again_does_nothing(finished, inputs, computed):
    before = (finished / "manifest.json").read_bytes()
    stage.run(CONFIG, **inputs, out=finished)
    assert computed == [] and (finished / "manifest.json").read_bytes() == before


def test_more_episodes_and_candidates_cost_only_what_is_new(run_copy, tmp_path, vlm, computed):
    episodes = [*EPISODES, episode("d", "buy tea", [1, 5, 2], [BACK, TYPE])]
    candidates = [*CANDIDATES, [BACK, OTHER_TAP, TYPE], [TYPE, TYPE, BACK]]
    candidates[0] = [TAP, TYPE, BACK]
    more = write_inputs(tmp_path / "more", episodes, candidates)
    stage.run(CONFIG, **more, vlm=vlm, out=run_copy.parent / "more")
    assert computed == [1, 4]  # screen 5; BACK on screen 0, TYPE on screen 1, TYPE and BACK on screen 5
    assert load_features(run_copy.parent / "more").candidate_row.shape == (7, 3)


def test_gamma_and_rewards_have_no_part_but_the_readout_has(run_copy, inputs, computed):
    stage.run(dataclasses.replace(CONFIG, batch_size=2), **inputs, out=run_copy.parent / "again")
    assert computed == []
    assert_same(load_features(run_copy), load_features(run_copy.parent / "again"))
    stage.run(dataclasses.replace(CONFIG, grounding="text"), **inputs, out=run_copy.parent / "text")
    assert sum(computed) > 0


@pytest.mark.parametrize("alive", [0, 1, 3, 5])
def test_killed_anywhere_it_goes_on(tmp_path, inputs, finished, monkeypatch, alive):
    monkeypatch.setattr(stage, "RowStore", functools.partial(stage.RowStore, rows_per_shard=3))
    original, yielded = plain.extract, []

    def dies(backbone, requests, **options):
        for positions, block in original(backbone, requests, **options):
            if len(yielded) == alive:
                raise KeyboardInterrupt
            yielded.append(len(positions))
            yield positions, block

    monkeypatch.setattr(plain, "extract", dies)
    with pytest.raises(KeyboardInterrupt):
        stage.run(CONFIG, **inputs, out=tmp_path / "features")
    with pytest.raises(ArtifactError, match="has not finished"):
        load_features(tmp_path / "features")
    rest = []

    def counts(backbone, requests, **options):
        rest.append(len(requests))
        return original(backbone, requests, **options)

    monkeypatch.setattr(plain, "extract", counts)
    stage.run(CONFIG, **inputs, out=tmp_path / "features")
    assert sum(yielded) + sum(rest) == 4 + 10
    assert_same(load_features(tmp_path / "features"), load_features(finished))


def test_another_config_is_refused(finished, inputs):
    other = dataclasses.replace(CONFIG, pooling="mean")
    with pytest.raises(ArtifactMismatch, match="config pooling is 'auto' there and 'mean' here"):
        stage.run(other, **inputs, out=finished)


def pair_shard(features, part="layer_01"):
    (file,) = (features.parent / "feature_rows").glob(f"pair-*/{part}/c/0/0")
    return file


def flip_byte(file):
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("part", ["layer_01", "key"])
def test_a_flipped_byte_is_named_and_mended(run_copy, inputs, finished, part):
    flip_byte(pair_shard(run_copy, part))
    with pytest.raises(ArtifactError, match=rf"{part}/c/0/0: Digest mismatch.*--overwrite"):
        load_features(run_copy)
    stage.run(CONFIG, **inputs, out=run_copy, overwrite=True)
    assert_same(load_features(run_copy), load_features(finished))


def test_a_missing_shard_is_named_and_mended(run_copy, inputs, finished, computed):
    pair_shard(run_copy).unlink()
    with pytest.raises(ArtifactError, match=r"layer_01/c/0/0: this shard is missing"):
        load_features(run_copy)
    stage.run(CONFIG, **inputs, out=run_copy, overwrite=True)
    assert computed == [10]
    assert_same(load_features(run_copy), load_features(finished))


def test_a_missing_store_is_named(run_copy):
    shutil.rmtree(run_copy.parent / "feature_rows")
    with pytest.raises(ArtifactError, match=r"5 of 5 rows are missing; run 'featurize'"):
        load_features(run_copy)


def test_a_changed_index_is_named(run_copy):
    flip_byte(run_copy / "index.npz")
    with pytest.raises(ArtifactError, match=r"index.npz: checksum differs"):
        load_features(run_copy)


def test_rows_can_live_elsewhere(tmp_path, inputs, finished):
    stage.run(CONFIG, **inputs, out=tmp_path / "features", rows=f"file://{tmp_path}/elsewhere")
    assert (tmp_path / "elsewhere").is_dir() and not (tmp_path / "feature_rows").exists()
    assert_same(load_features(tmp_path / "features"), load_features(finished))


def test_proposals_of_other_episodes_are_refused(tmp_path, inputs):
    other = write_inputs(tmp_path, EPISODES[:1], CANDIDATES[:2])
    with pytest.raises(ArtifactError, match="made for 2 observations, but the episodes have 5"):
        stage.run(CONFIG, **{**inputs, "proposals": other["proposals"]}, out=tmp_path / "features")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (9,)}, "featurize.layers: 9 is not a layer"),
        ({"pair_spans": ("kind", "kin")}, "featurize.pair_spans: the prompt has no span 'kin'"),
        ({"observation_spans": ("kind",)}, "featurize.observation_spans: the prompt has no span 'kind'"),
    ],
)
def test_what_the_model_or_prompt_lacks_is_refused_before_work(tmp_path, inputs, computed, change, message):
    with pytest.raises(DigiQError, match=message):
        stage.run(dataclasses.replace(CONFIG, **change), **inputs, out=tmp_path / "features")
    assert computed == []


def test_a_vlm_without_a_processor_is_refused(tmp_path, inputs, vlm):
    bare = tmp_path / "vlm"
    shutil.copytree(vlm, bare, ignore=shutil.ignore_patterns("processor_config.json"))
    with pytest.raises(DigiQError, match="no processor"):
        stage.run(CONFIG, **{**inputs, "vlm": bare}, out=tmp_path / "features")


@pytest.mark.parametrize(
    "bad", [{"layers": ()}, {"layers": (1.5,)}, {"history": -1}, {"batch_size": 0}, {"pooling": "max"}]
)
def test_configs_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        load(FeaturizeConfig, bad)


def test_candidates_without_support_are_left_out_and_logged_actions_never(tmp_path, vlm):
    log_prob = np.log(
        [[0.001, 0.3, 0.02], [0.5, 0.2, 0.01], [0.1, 0.1, 0.3], [0.9, 0.01, 0.8], [0.2, 0.5, 0.04]]
    )
    sources = write_inputs(tmp_path, EPISODES, CANDIDATES)
    stored = load_proposals(sources["proposals"])
    with artifacts.write(
        tmp_path / "proposals", stage="propose", version=1, config={"again": True}, overwrite=True
    ) as w:
        save_proposals(dataclasses.replace(stored, log_prob=log_prob.astype(np.float32)), w.path)
        w.complete()
    for support in (0.0, 0.1):
        config = dataclasses.replace(CONFIG, support=support)
        stage.run(config, **sources, vlm=vlm, out=tmp_path / f"features_{support}")
    everything, some = (load_features(tmp_path / f"features_{s}") for s in (0.0, 0.1))
    valid = everything.candidate_row >= 0
    assert (some.candidate_row >= 0).sum() < valid.sum()
    assert np.array_equal(some.candidate_row[:, 0] >= 0, valid[:, 0])
    for n in (1, 2, 3):  # whatever Best-of-N can take among the first n is there
        first = valid[:, :n]
        takes = supported(log_prob[:, :n], first, 0.1)
        assert (some.candidate_row[:, :n] >= 0)[takes & first].all()
    left_out = valid & (some.candidate_row < 0)
    assert np.argwhere(left_out).tolist() == [[0, 2], [1, 2], [4, 2]]
