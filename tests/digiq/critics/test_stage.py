"""The stages on artefacts: train-q, then diagnose and select, over a small store of episodes."""

import dataclasses
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from android_env.actions import Action
from digiq import artifacts
from digiq.config import load, to_dict
from digiq.critics import candidate_values, load_critic
from digiq.critics import diagnose as diagnose_stage
from digiq.critics import select as select_stage
from digiq.critics.critic import Critic, state_values
from digiq.critics.learner import CriticConfig
from digiq.critics.measures import Diagnostics
from digiq.critics.streaming import StoredRows
from digiq.critics.train import TrainQConfig, _place, load_training_data, run
from digiq.data.rewards import Label, write_labels
from digiq.data.schema import Episode, Step, encode_png
from digiq.data.store import EpisodeStore, EpisodeWriter
from digiq.errors import DigiQError
from digiq.features.extract import (
    INDEX,
    KINDS,
    STAGE,
    VERSION,
    Features,
    FeaturizeConfig,
    load_features,
    open_features,
)
from digiq.features.store import KEY_BYTES, RowStore, StoredLayer, row_key
from digiq.proposals.values import EXACT, load_exact

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
    """40 training episodes and 4 of a test split; every fifth is cut off. Features are drawn, not extracted."""
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
    features = Features({"layer_01": observation.astype("f")}, {"layer_01": pair.astype("f")}, rows)
    return {"features": store(features, path), "episodes": path / "episodes"}, features, path


def store(features: Features, path: Path) -> Path:
    """Writes ``features`` as the featurize stage does: rows in a shuffled store, and an index over them."""
    rng = np.random.default_rng(1)
    index: dict[str, np.ndarray] = {"candidate_row": features.candidate_row}
    groups = {}
    for kind in KINDS:
        array = getattr(features, kind)["layer_01"]
        keys = [row_key(f"{kind} {n}") for n in range(len(array))]
        rows = RowStore(path / "rows", kind, ["layer_01"], array.shape[1], rows_per_shard=32)
        shuffled = rng.permutation(len(array))
        for start in range(0, len(array), 32):
            part = shuffled[start : start + 32]
            rows.append([keys[n] for n in part], array[part][:, None])
        groups[kind] = kind, array.shape[1]
        index[f"{kind}_key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
    with artifacts.write(
        path / "features", stage=STAGE, version=VERSION, config=FeaturizeConfig(), inputs={}
    ) as writer:
        np.savez(writer.path / INDEX, **index)
        extra = {"rows": str(path / "rows"), "groups": groups, "layers": ["layer_01"]}
        writer.complete(counts={}, extra=extra)
    return path / "features"


@pytest.fixture(scope="module")
def trained(inputs):
    sources, _, path = inputs
    return run(CONFIG, **sources, out=path / "critic")


def test_trains_on_its_splits_alone(inputs):
    sources, features, _ = inputs
    data, _ = load_training_data(CONFIG, **sources, rewards=None)
    np.testing.assert_allclose(data.pair.astype("f"), features.pair["layer_01"], rtol=1e-2)
    assert len(data.table.obs) == 40 * 3
    test_states = np.arange(len(features.candidate_row))[-(4 * 3 + 1) :]
    assert not set(test_states) & set(data.table.obs)
    assert (data.table.discount[2::3] == 0).all(), "a time-out ends in value 0 in the paper's recipe"
    bootstrap = dataclasses.replace(CONFIG, critic=dataclasses.replace(CONFIG.critic, timeout="bootstrap"))
    table = load_training_data(bootstrap, **sources, rewards=None)[0].table
    cut_off = np.arange(40) % 5 == 4
    np.testing.assert_allclose(table.discount[2::3], np.where(cut_off, CONFIG.critic.gamma, 0))
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


def test_streaming_from_the_store_learns_the_same_numbers(inputs, trained):
    sources, _, path = inputs
    streamed = run(dataclasses.replace(CONFIG, memory="stream"), **sources, out=path / "streamed")
    data, _ = load_training_data(dataclasses.replace(CONFIG, memory="stream"), **sources, rewards=None)
    assert isinstance(data.pair, StoredRows), "the features were read into memory"
    assert isinstance(data.observation, StoredRows)
    both = [a.path / "metrics.jsonl" for a in (trained, streamed)]
    for one, other in zip(*([json.loads(x) for x in p.read_text().splitlines()] for p in both), strict=True):
        same = {name for name in one if not name.startswith(("diagnostic_", "verdict"))}
        assert {k: other[k] for k in same} == pytest.approx({k: one[k] for k in same}, rel=1e-3, abs=1e-5)
    q = [
        candidate_values(load_critic(a.path), load_features(sources["features"]))[0]
        for a in (trained, streamed)
    ]
    np.testing.assert_allclose(*q, rtol=1e-3, atol=1e-5)
    config, found = diagnose_stage.DiagnoseConfig(every_checkpoint=False), []
    for critic in (trained, streamed):
        out = path / f"diagnostics_of_{critic.path.name}"
        diagnose_stage.run(config, critic=critic.path, **sources, out=out)
        found.append(json.loads((out / "diagnostics.json").read_text())["checkpoints"]["4"])
    for name in ("bellman_residual", "novelty", "initial_value", "policy_value"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-2, abs=1e-4)


def test_values_of_features_that_do_not_fit_are_read_in_blocks(inputs, trained, monkeypatch):
    """Extraction and reports get the same numbers, and never hold more than a block of states."""
    sources, features, _ = inputs
    critic = load_critic(trained.path)
    stored = open_features(sources["features"])
    monkeypatch.setattr("digiq.critics.critic._STATES_AT_ONCE", 16)
    at_once = (*candidate_values(critic, load_features(sources["features"])), state_values(critic, stored))
    np.testing.assert_array_equal(candidate_values(critic, stored)[0], at_once[0])
    monkeypatch.setattr("digiq.critics.critic.fits_in_memory", lambda arrays: False)
    sizes, read = [], StoredLayer.__getitem__

    def watched(self, wanted):
        found = read(self, wanted)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(StoredLayer, "__getitem__", watched)
    monkeypatch.setattr(StoredLayer, "load", None)
    in_blocks = (*candidate_values(critic, stored), state_values(critic, stored))
    assert max(sizes) <= 16 * features.candidate_row.shape[1] < len(features.candidate_row)
    for one, other in zip(at_once, in_blocks, strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_wide_candidates_make_smaller_blocks(inputs, trained, monkeypatch):
    _, features, _ = inputs
    critic = load_critic(trained.path)
    monkeypatch.setattr("digiq.critics.critic._VALUES_AT_ONCE", 3 * 4 * 7)
    seen = []
    v = Critic.v
    monkeypatch.setattr(Critic, "v", lambda self, x: seen.append(len(x)) or v(self, x))
    small = candidate_values(critic, features)
    assert set(seen) == {7}
    monkeypatch.undo()
    for one, other in zip(small, candidate_values(critic, features), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_features_that_do_not_fit_are_streamed(inputs, monkeypatch):
    sources, *_ = inputs
    assert isinstance(load_training_data(CONFIG, **sources, rewards=None)[0].pair, np.ndarray)
    monkeypatch.setattr("digiq.critics.train.fits_in_memory", lambda arrays, **_: False)
    assert isinstance(load_training_data(CONFIG, **sources, rewards=None)[0].pair, StoredRows)


def test_a_population_is_not_streamed(inputs):
    sources, _, path = inputs
    config = dataclasses.replace(CONFIG, memory="stream", population={"seeds": 2})
    with pytest.raises(DigiQError, match="a population needs its features on the device"):
        run(config, **sources, out=path / "streamed_population")


def test_the_host_keeps_no_copy_of_features_on_the_device(inputs):
    """Training gives up the arrays it was handed once they are on the device."""
    sources, *_ = inputs
    data, _ = load_training_data(CONFIG, **sources, rewards=None)
    on_host = weakref.ref(data.pair)
    pointer = data.pair.ctypes.data
    data = _place(CONFIG, data)
    gc.collect()
    held = on_host() is not None
    assert not held or data.pair.unsafe_buffer_pointer() == pointer, "two copies, or a shared one"


def test_diagnose_reports_every_checkpoint(inputs, trained):
    sources, features, path = inputs
    np.save(path / "truth.npy", np.random.default_rng(0).random(features.candidate_row.shape))
    config = diagnose_stage.DiagnoseConfig()
    diagnose_stage.run(
        config, critic=trained.path, **sources, truth=path / "truth.npy", out=path / "diagnostics"
    )
    found = json.loads((path / "diagnostics" / "diagnostics.json").read_text())
    assert list(found["checkpoints"]) == ["2", "4"]
    named = {field.name for field in dataclasses.fields(Diagnostics)}
    logged = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    for epoch, of_checkpoint in found["checkpoints"].items():
        assert set(of_checkpoint) == named
        numbers = [v for v in of_checkpoint.values() if isinstance(v, float)]
        assert len(numbers) == 8
        assert np.isfinite(numbers).all()
        assert of_checkpoint["td_error"] == logged[int(epoch) - 1]["heldout_td_error"]
        assert of_checkpoint["logged_ranking"]["states"] > 0
        assert of_checkpoint["policy_value"][1] <= of_checkpoint["policy_value"][2]
        assert of_checkpoint["verdict"]["advice"]
    assert found["checkpoints"]["4"]["truth"]["states"] > 0
    assert (path / "diagnostics" / "diagnostics.png").stat().st_size > 5000
    np.save(path / "other.npy", np.zeros((3, 3)))
    with pytest.raises(DigiQError, match=r"other.npy: shape \(3, 3\), but the candidates have"):
        diagnose_stage.run(
            config, critic=trained.path, **sources, truth=path / "other.npy", out=path / "no_diagnostics"
        )


def test_diagnose_reads_the_exact_values_of_the_value_stage(inputs, trained):
    sources, features, path = inputs
    rng = np.random.default_rng(3)
    truth = rng.random(features.candidate_row.shape).astype(np.float32)
    with artifacts.write(path / "exact", stage="value", version=1, config={}, inputs={}) as writer:
        np.savez(writer.path / "exact.npz", best_q=truth)
        writer.complete()
    np.save(path / "same.npy", truth)
    words = []
    for name in ("exact", "same.npy"):
        out = path / f"diagnostics_{name}"
        config = diagnose_stage.DiagnoseConfig(every_checkpoint=False)
        diagnose_stage.run(config, critic=trained.path, **sources, truth=path / name, out=out)
        (checkpoint,) = json.loads((out / "diagnostics.json").read_text())["checkpoints"].values()
        words.append(checkpoint["truth"])
    assert words[0] == words[1] and 0 < words[0]["accuracy"] < 1
    np.savez(path / "others.npz", other=truth)
    for name, message in (
        ("others.npz", "holds no 'best_q'"),
        ("nothing.npy", "not an array of true values"),
    ):
        with pytest.raises(DigiQError, match=message):
            if name == "nothing.npy":
                (path / name).write_text("no array")
            diagnose_stage.run(
                config, critic=trained.path, **sources, truth=path / name, out=path / f"no_{name}"
            )


def test_select_works_where_the_truth_is_out_of_reach(inputs, trained, monkeypatch):
    """Exact values lie beside the data, but asking the simulator for one, or opening their file, is an error."""
    sources, features, path = inputs
    exact = path / "value"
    with artifacts.write(exact, stage="value", version=1, config={}, inputs={}) as writer:
        np.savez(writer.path / EXACT, best_q=np.zeros(features.candidate_row.shape))
        writer.complete()

    def forbidden(*_, **__):
        raise AssertionError("select asked for the truth")

    def watched(event, arguments):
        if watching and event == "open" and str(exact) in str(arguments[0]):
            raise AssertionError(f"opened {arguments[0]}")

    watching = [True]
    sys.addaudithook(watched)  # stays until the process ends, and does nothing once the list is empty
    monkeypatch.setattr("android_env.devices.simulated.exact.ExactValues.__init__", forbidden)
    monkeypatch.setattr("android_env.devices.simulated.phone.SimulatedPhone.reset", forbidden)
    monkeypatch.setattr("digiq.critics.measures.ranking", forbidden)
    monkeypatch.setattr("digiq.critics.diagnose.load_exact", forbidden)
    monkeypatch.setattr("digiq.critics.diagnose._load_truth", forbidden)
    try:
        with pytest.raises(AssertionError, match=r"opened .*value"):
            load_exact(exact)
        select_stage.run(
            select_stage.SelectConfig(), critics=[trained.path], **sources, out=path / "without_truth"
        )
    finally:
        watching.clear()
    found = json.loads((path / "without_truth" / "selection.json").read_text())
    assert found["epoch"] in (2, 4)
    assert "highest mean rank" in found["why"]


def test_true_values_are_regressed_on_where_the_objective_asks(inputs, trained, tmp_path):
    sources, features, _ = inputs
    rows = features.candidate_row
    q = np.where(rows < 0, np.nan, 0.5 + 0.2 * np.tanh(features.pair["layer_01"][rows, 1]))
    exact = tmp_path / "exact"
    with artifacts.write(exact, stage="value", version=1, config={"discount": 0.95}, inputs={}) as writer:
        np.savez(writer.path / EXACT, best_q=q, best_v=np.nanmax(q, 1), policy_q=q, policy_v=np.nanmean(q, 1))
        writer.complete()
    critic = load(
        CriticConfig,
        {
            **to_dict(CONFIG.critic),
            "objective": "exact",
            "epochs": 20,
            "learning_rate": 1e-2,
            "standardize": True,
        },
        where="critic",
    )
    config = dataclasses.replace(CONFIG, critic=critic, heldout_fraction=0.1)
    assert config.reads == ("exact",) and CONFIG.reads == ()
    with pytest.raises(
        DigiQError, match="'exact' regresses on true values; name an artefact of 'digiq value'"
    ):
        run(config, **sources, out=tmp_path / "without")
    other = dataclasses.replace(config, critic=dataclasses.replace(critic, gamma=0.9))
    with pytest.raises(DigiQError, match=r"values under discount 0.95, but the critic's gamma is 0.9"):
        run(other, **sources, exact=exact, out=tmp_path / "other")
    made = run(config, **sources, exact=exact, out=tmp_path / "critic")
    assert set(made.manifest.inputs) == {"features", "episodes", "exact"}
    found, _ = candidate_values(load_critic(made.path), open_features(sources["features"]))
    there = ~np.isnan(found)
    assert np.corrcoef(found[there], q[there])[0, 1] > 0.9, "what rewards have nothing to do with"
    assert "exact" not in run(CONFIG, **sources, exact=exact, out=tmp_path / "td").manifest.inputs


@pytest.mark.parametrize(
    ("changes", "said"), [({"gamma": 0.5}, "gamma 0.5"), ({"timeout": "bootstrap"}, "bootstrap")]
)
def test_select_refuses_critics_of_other_returns(inputs, trained, tmp_path, changes, said):
    sources, *_ = inputs
    critic = dataclasses.replace(CONFIG.critic, epochs=1, **changes)
    other = run(dataclasses.replace(CONFIG, critic=critic), **sources, out=tmp_path / "other")
    with pytest.raises(DigiQError, match=f"gamma 0.95 and timeout terminal, .*{said}.* do not compare"):
        select_stage.run(
            select_stage.SelectConfig(),
            critics=[trained.path, other.path],
            **sources,
            out=tmp_path / "refused",
        )


def test_a_critic_is_judged_with_the_rewards_it_was_trained_on(inputs, trained, tmp_path):
    """Without them the recorded rewards would stand in, and every number be of another problem."""
    sources, *_ = inputs
    for name, reward in (("rewards", 1.0), ("others", 0.5)):
        labels = [
            Label(episode_id=i, source_id=i, goal=None, rewards=(0.0, 0.0, reward), provenance="shuffled")
            for i in EpisodeStore(sources["episodes"]).episode_ids
        ]
        with artifacts.write(tmp_path / name, stage="label", version=1, config={"r": reward}) as writer:
            write_labels(writer.path, labels)
            writer.complete(counts={})
    labelled = run(
        dataclasses.replace(CONFIG, critic=dataclasses.replace(CONFIG.critic, epochs=1)),
        **sources,
        rewards=tmp_path / "rewards",
        out=tmp_path / "labelled",
    )

    def diagnosed(critic, **rewards):
        config = diagnose_stage.DiagnoseConfig()
        return diagnose_stage.run(config, critic=critic, **sources, **rewards, out=tmp_path / "diagnosed")

    def selected(critic, **rewards):
        config = select_stage.SelectConfig()
        return select_stage.run(config, critics=[critic], **sources, **rewards, out=tmp_path / "selected")

    for judged in (diagnosed, selected):
        with pytest.raises(DigiQError, match=r"labelled: was trained with rewards .* --rewards"):
            judged(labelled.path)
        with pytest.raises(DigiQError, match="others: not the rewards"):
            judged(labelled.path, rewards=tmp_path / "others")
        with pytest.raises(DigiQError, match="critic: was trained on the episodes' own rewards; leave out"):
            judged(trained.path, rewards=tmp_path / "rewards")
        assert judged(labelled.path, rewards=tmp_path / "rewards").manifest.inputs["rewards"]


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
    shutil.copytree(path / "other", path / "runs" / "critic")  # two runs' critics, both called so
    critics = [trained.path, path / "runs" / "critic"]
    select_stage.run(select_stage.SelectConfig(), critics=critics, **sources, out=path / "selection_of_runs")
    both = json.loads((path / "selection_of_runs" / "selection.json").read_text())
    assert sorted(both["scores"].values()) == sorted(found["scores"].values())
    critics = [trained.path, path / "other"]
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


def on_two_hosts(sources: dict[str, Path], out: Path, *options: str) -> list[subprocess.Popen]:
    """``digiq train-q`` twice, as two hosts would run it; the first process writes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [
        *(sys.executable, "-m", "digiq.cli", "train-q", "--out", str(out), "--data-parallel"),
        *(word for name, path in sources.items() for word in (f"--{name}", str(path))),
        *("--critic.heads.q-hidden", "8", "--critic.heads.v-hidden", "8", "--critic.batch-size", "32"),
        *("--critic.epochs", "4", "--critic.steps-per-epoch", "20", "--heldout-fraction", "0.25"),
        *("--critic.learning-rate", "0.01", "--checkpoint-every", "2", *options),
    ]
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            command,
            env=os.environ | hosts | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]


FAST = dataclasses.replace(CONFIG, critic=dataclasses.replace(CONFIG.critic, learning_rate=0.01))


def test_two_hosts_write_the_critic_of_one(inputs, tmp_path):
    sources, features, _ = inputs
    alone = run(FAST, **sources, out=tmp_path / "alone")
    wanted = candidate_values(load_critic(alone.path), features)[0]
    assert np.nanstd(wanted) > 0.02
    memory, stream = tmp_path / "memory", tmp_path / "stream"
    for path, options in ((memory, ()), (stream, ("--memory", "stream")), (memory, ())):
        for process in on_two_hosts(sources, path, *options):
            said, _ = process.communicate(timeout=240)
            assert process.returncode == 0, said[-3000:]
        np.testing.assert_allclose(
            candidate_values(load_critic(path), features)[0], wanted, rtol=2e-3, atol=2e-4
        )
    assert [json.loads(line)["epoch"] for line in (memory / "metrics.jsonl").open()] == [1, 2, 3, 4]


def test_two_hosts_resume_where_they_were_killed(inputs, tmp_path):
    sources, features, _ = inputs
    critic = dataclasses.replace(FAST.critic, epochs=80)
    alone = run(
        dataclasses.replace(FAST, critic=critic, checkpoint_every=10), **sources, out=tmp_path / "alone"
    )
    out, options = tmp_path / "killed", ("--critic.epochs", "80", "--checkpoint-every", "10")
    processes = on_two_hosts(sources, out, *options)
    deadline = time.monotonic() + 240
    while not (out / "checkpoints" / "10").is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.communicate()
    done = len((out / "metrics.jsonl").read_text().splitlines())
    assert 10 <= done < 80, "the kill came too late to test anything"
    for process in on_two_hosts(sources, out, *options):
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said[-3000:]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert [row["epoch"] for row in rows] == list(range(1, 81))
    q, wanted = (candidate_values(load_critic(path), features)[0] for path in (out, alone.path))
    np.testing.assert_allclose(q, wanted, rtol=2e-2, atol=2e-3)


def test_a_number_of_hosts_that_is_none(inputs, tmp_path, monkeypatch):
    sources, _, _ = inputs
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(DigiQError, match="JAX_NUM_PROCESSES is 'two'; set it to a whole number"):
        run(dataclasses.replace(CONFIG, data_parallel=True), **sources, out=tmp_path / "critic")
