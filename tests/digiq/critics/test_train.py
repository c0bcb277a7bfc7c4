"""From arrays to a critic on disk: fitting, resuming, choosing, scoring."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import CheckpointManager

import digiq.critics
from digiq.artifacts import Manifest, write_checksums
from digiq.config import to_dict
from digiq.critics import CriticConfig, candidate_values, fit_critic, load_critic, save_critic
from digiq.critics.critic import member_values
from digiq.critics.heads import HeadsConfig
from digiq.critics.metrics_log import metric_of
from digiq.critics.population import train_best_member
from digiq.critics.train import (
    TrainQConfig,
    _place,
    _train_resumably,
    monitor_of,
)
from digiq.critics.training_data import prepare
from digiq.errors import ArtifactError, ConfigError, DigiQError

TINY = {"heads": {"q_hidden": (8,), "v_hidden": (8,)}, "epochs": 6, "steps_per_epoch": 5, "batch_size": 16}


def problem() -> tuple[dict, dict]:
    """Episodes of four steps; a feature of the screens and of the logged actions says whether the episode pays."""
    rng = np.random.default_rng(0)
    t = np.arange(160)
    done, good = t % 4 == 3, t // 4 % 2
    transitions = {
        "obs": t,
        "next_obs": np.where(done, -1, t + 1),
        "reward": (done * good).astype(np.float32),
        "terminated": done,
        "truncated": np.zeros(len(t), bool),
        "episode": t // 4,
    }
    pair = rng.normal(size=(3 * len(t), 4)).astype(np.float32)
    pair[: len(t), 0] = 2.0 * good - 1
    rows = np.stack([t, len(t) + t, 2 * len(t) + t], 1)
    observation = rng.normal(size=(len(t), 5)).astype(np.float32)
    observation[:, 0] = pair[: len(t), 0]
    features = {"observation": observation, "pair": pair, "candidate_row": rows}
    return transitions, features


def test_passes_count_over_the_transitions_that_are_trained_on():
    config = CriticConfig(**{**TINY, "epochs": 2, "passes": 3.0})
    critic = fit_critic(*problem(), config, heldout_fraction=0.2)
    assert critic.config.steps_per_epoch == 12, "3 x 128 / (2 x 16)"
    assert config.for_transitions(12_800).steps_per_epoch == 1200
    assert CriticConfig(**TINY).for_transitions(12_800).steps_per_epoch == TINY["steps_per_epoch"]


@pytest.fixture(scope="module")
def fitted():
    config = CriticConfig(**{**TINY, "epochs": 20, "steps_per_epoch": 50, "learning_rate": 3e-3, "tau": 0.05})
    return fit_critic(*problem(), config, heldout_fraction=0.2)


def test_learns_which_actions_lead_to_reward(fitted):
    _, features = problem()
    q, v = candidate_values(fitted, features)
    good = np.arange(160) // 4 % 2 == 1
    assert q.shape == (160, 3)
    assert v.shape == (160,)
    assert q[good, 0].mean() > 0.6 > 0.2 > q[~good, 0].mean()
    assert fitted.metrics[-1]["heldout_return_error"] < 0.35


def test_permuting_candidates_permutes_q_and_duplicates_tie(fitted):
    _, features = problem()
    q, v = candidate_values(fitted, features)
    turned = {**features, "candidate_row": features["candidate_row"][:, [2, 0, 0, 1]]}
    other, same_v = candidate_values(fitted, turned)
    np.testing.assert_allclose(other, q[:, [2, 0, 0, 1]], atol=1e-6)
    np.testing.assert_array_equal(other[:, 1], other[:, 2])
    np.testing.assert_array_equal(v, same_v)


def test_heads_compute_in_bfloat16_on_accelerators_alone(monkeypatch):
    chosen = {}
    for backend in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr("jax.default_backend", lambda name=backend: name)
        chosen[backend] = [HeadsConfig(dtype=d).compute_dtype for d in ("auto", "float32", "bfloat16")]
    assert chosen["cpu"] == ["float32", "float32", "bfloat16"]
    assert chosen["gpu"] == chosen["tpu"] == ["bfloat16", "float32", "bfloat16"]


@pytest.mark.parametrize("objective", ["td", "cql"])
def test_bfloat16_keeps_q_within_a_tenth_of_its_spread(objective):
    """The distance that ``HeadsConfig.dtype`` states, candidate by candidate and not only in the mean."""
    _, features = problem()
    q = []
    for dtype in ("float32", "bfloat16"):
        settings = {**TINY, "steps_per_epoch": 40, "learning_rate": 3e-3, "tau": 0.05}
        settings["heads"] = {"q_hidden": (16, 16), "v_hidden": (16,), "dtype": dtype}
        critic = fit_critic(*problem(), CriticConfig(objective=objective, **settings))
        assert {leaf.dtype for leaf in jax.tree.leaves(critic.params)} == {np.dtype("float32")}
        q.append(candidate_values(critic, features)[0])
    assert q[0].std() > 0.1
    distance = np.sqrt(np.mean((q[1] - q[0]) ** 2))
    assert 0 < distance < 0.1 * q[0].std()


def test_the_example_of_the_docs_runs_as_it_stands():
    page = (Path(__file__).parents[3] / "docs" / "your_logs.md").read_text()
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "fit_critic(" in block
    )
    names: dict = {}
    exec(example, names)
    assert names["q"].shape == (400, 3)
    assert names["v"].shape == (400,)
    good = names["success"]
    assert names["q"][good, 0].mean() > names["q"][~good, 0].mean() + 0.1
    assert names["best"].shape == (400,)


def test_the_example_of_the_module_runs_as_it_stands():
    example = digiq.critics.__doc__.split("::", 1)[1]
    names: dict = {}
    exec(textwrap.dedent(example), names)
    assert names["q"].shape == (3, 2)


FOLLOWED = """
    import importlib.util, sys
    import digiq.critics
    digiq.critics.__path__.insert(0, sys.argv[1])  # a copy of the objectives, with one file and one line more
    from digiq.artifacts import Manifest
    from digiq.config import to_dict
    from digiq.critics import CriticConfig, TrainQConfig, candidate_values, fit_critic
    spec = importlib.util.spec_from_file_location("problem", sys.argv[2])
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    config = CriticConfig(objective="return_v", **tests.TINY | {"learning_rate": 3e-3, "epochs": 20})
    q = candidate_values(fit_critic(*tests.problem(), config), tests.problem()[1])[0][:, 0]
    good = tests.np.arange(len(q)) // 4 % 2 == 1
    print(q[good].mean() - q[~good].mean())
    print(Manifest(stage="train-q", version=1, config=to_dict(TrainQConfig()), inputs={}, state="partial").identity)
"""


def test_the_contributors_guide_to_objectives_works_as_it_stands(tmp_path):
    """Its file and its line, added to a copy of the folder, train a critic by that name."""
    root = Path(__file__).parents[3]
    guide = (root / "CONTRIBUTING.md").read_text()
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "def loss(" in block
    )
    (line,) = re.findall(r"Add its line to `OBJECTIVES` .*: `(.*)`\.", guide)
    folder = tmp_path / "objectives"
    shutil.copytree(root / "digiq" / "critics" / "objectives", folder)
    (folder / "return_v.py").write_text(textwrap.dedent(example))
    table = (folder / "__init__.py").read_text()
    opening = 'OBJECTIVES = Table(\n    "objective",\n    __name__,\n'
    assert table.count(opening) == 1
    (folder / "__init__.py").write_text(table.replace(opening, f"{opening}    {line}\n"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FOLLOWED), str(tmp_path), __file__],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    gap, identity = done.stdout.split()
    assert float(gap) > 0.1
    # What does not use the new member is what it was.
    without = Manifest(stage="train-q", version=1, config=to_dict(TrainQConfig()), inputs={}, state="partial")
    assert identity == without.identity


def test_missing_candidates_are_nan_and_do_not_enter_the_baseline(fitted):
    _, features = problem()
    rows = features["candidate_row"].copy()
    rows[5, 1] = -1
    q, mean = candidate_values(fitted, {**features, "candidate_row": rows}, baseline="candidate_mean")
    assert np.isnan(q[5, 1])
    assert np.isnan(q).sum() == 1
    np.testing.assert_allclose(mean, np.nanmean(q, axis=1), atol=1e-6)
    _, logged = candidate_values(fitted, features, baseline="logged")
    np.testing.assert_array_equal(logged, q[:, 0])


def test_aggregations_of_members(fitted):
    values = np.array([[1.0, 3.0, 5.0], [5.0, 5.0, 5.0]])
    deviation = (8 / 3) ** 0.5
    expected = {"min": [1, 5], "max": [5, 5], "mean": [3, 5], "lcb": [3 - 0.5 * deviation, 5]}
    _, features = problem()
    members = member_values(fitted, features)[0]
    for how, wanted in expected.items():
        config = dataclasses.replace(fitted.config, aggregate=how, lcb_scale=0.5)
        critic = dataclasses.replace(fitted, config=config)
        np.testing.assert_allclose(critic.aggregate(values), wanted)
        np.testing.assert_array_equal(candidate_values(critic, features)[0], critic.aggregate(members))


def test_saved_critic_gives_the_same_values(fitted, tmp_path):
    _, features = problem()
    save_critic(fitted, tmp_path / "critic")
    loaded = load_critic(tmp_path / "critic")
    np.testing.assert_array_equal(
        candidate_values(loaded, features)[0], candidate_values(fitted, features)[0]
    )
    with pytest.raises(ArtifactError, match="no checkpoint of epoch 3; there are \\[20\\]"):
        load_critic(tmp_path / "critic", epoch=3)


def test_large_heads_survive_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("digiq.critics.heads._STACK_UP_TO", 1)
    transitions, features = problem()
    critic = fit_critic(transitions, features, CriticConfig(**{**TINY, "epochs": 1, "learning_rate": 1.1e-3}))
    assert isinstance(critic.params["q"], tuple)
    save_critic(critic, tmp_path)
    expected = candidate_values(critic, features)[0]
    np.testing.assert_array_equal(candidate_values(load_critic(tmp_path), features)[0], expected)


def test_a_checkpoint_of_another_architecture_is_refused(fitted, tmp_path):
    save_critic(fitted, tmp_path)
    description = json.loads((tmp_path / "critic.json").read_text())
    for heads in ({"q_hidden": [9]}, {"q_hidden": [8, 8]}, {"members": 3}):
        changed = {**description, "critic": {**description["critic"]}}
        changed["critic"]["heads"] = {**description["critic"]["heads"], **heads}
        (tmp_path / "critic.json").write_text(json.dumps(changed))
        write_checksums(tmp_path)
        with pytest.raises(ArtifactError, match="another architecture"):
            load_critic(tmp_path)


def test_features_of_another_size_are_refused(fitted):
    _, features = problem()
    with pytest.raises(DigiQError, match="3 dimensions, but this critic was trained on 4"):
        candidate_values(fitted, {**features, "pair": features["pair"][:, :3]})
    with pytest.raises(ArtifactError, match="not a critic"):
        load_critic("/nonexistent")


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"objective": "cql"}, "another objective"),
        ({"objective": "cal_ql", "cal_ql": {"backup": "logged"}}, "another objective"),
        ({"objective": "td", "td": {"backup": "max"}}, "td.backup: logged"),
        (
            {"objective": "nstep", "nstep": {"backup": "expectation"}},
            "nstep.backup: logged",
        ),
    ],
)
def test_objectives_over_candidates_need_candidates(settings, mend):
    """And the error advises what helps: the penalties of CQL and Cal-QL need candidates under every back-up."""
    transitions, features = problem()
    alone = features["candidate_row"][:, :1]
    padded = np.pad(alone, ((0, 0), (0, 2)), constant_values=-1)
    for rows in (alone, padded):
        with pytest.raises(DigiQError, match=f"'{settings['objective']}' compares .* N = 1 .* or use {mend}"):
            fit_critic(transitions, {**features, "candidate_row": rows}, CriticConfig(**settings, **TINY))
    if "backup" in mend:
        followed = settings | {settings["objective"]: {"backup": "logged"}}
        assert fit_critic(
            transitions, {**features, "candidate_row": alone}, CriticConfig(**followed, **TINY)
        ).metrics


def test_what_no_critic_can_be_trained_on_is_refused_in_a_sentence():
    transitions, features = problem()
    with pytest.raises(DigiQError, match="one column per candidate"):
        fit_critic(transitions, {**features, "candidate_row": features["candidate_row"][:, :0]})
    with pytest.raises(DigiQError, match="seed is -1"):
        fit_critic(transitions, features, CriticConfig(**TINY), seed=-1)
    with pytest.raises(ConfigError, match="learning_rate = inf"):
        CriticConfig(**{**TINY, "learning_rate": math.inf})


@pytest.mark.parametrize("readout", [{"kind": "bernoulli"}, {"kind": "hl_gauss", "low": 0.0, "high": 1.0}])
def test_returns_that_a_readout_cannot_represent_are_refused(readout):
    transitions, features = problem()
    config = CriticConfig(**{**TINY, "heads": {**TINY["heads"], "readout": readout}})
    doubled = {**transitions, "reward": 2 * transitions["reward"]}
    with pytest.raises(DigiQError, match=r"represents values in \[0, 1\], but returns go from 0 to 2"):
        fit_critic(doubled, features, config)
    assert fit_critic(transitions, features, config).metrics


def test_training_that_diverges_ends_in_a_sentence():
    transitions, features = problem()
    config = CriticConfig(learning_rate=1e30, epochs=5, gradient_clip=None)
    with pytest.raises(
        DigiQError, match=r"diverged in epoch \d: the TD error is NaN. Lower critic.learning_rate"
    ):
        fit_critic(transitions, features, config)


def test_a_member_that_diverged_is_never_the_best():
    config = stage_config(population={"seeds": 3})
    rows = [{"heldout_return_error": value} for value in (np.nan, 0.4, 0.2)]
    assert min(range(3), key=lambda k: metric_of(config.choose_by, rows[k])) == 2


@pytest.mark.parametrize("changes", [{"patience": 2}, {"keep": 1}, {"choose": "heldout"}])
def test_a_population_refuses_what_it_would_ignore(changes):
    with pytest.raises(ConfigError, match="leave choose, patience and keep as they are"):
        TrainQConfig(population={"seeds": 2}, **changes)


def test_layers_are_concatenated_in_the_order_of_the_config(tmp_path):
    transitions, features = problem()
    pair = features["pair"]
    layered = {**features, "pair": {"a": pair[:, 2:], "b": pair[:, :2], "c": pair * np.nan}}
    config = CriticConfig(**{**TINY, "epochs": 1}, pair_layers=("b", "a"))
    critic = fit_critic(transitions, layered, config)
    plain = fit_critic(transitions, features, CriticConfig(**{**TINY, "epochs": 1}))
    save_critic(critic, tmp_path)
    q, _ = candidate_values(load_critic(tmp_path), layered)
    np.testing.assert_array_equal(q, candidate_values(plain, features)[0])


def stage_config(**changes) -> TrainQConfig:
    return TrainQConfig(critic=TINY, heldout_fraction=0.2, checkpoint_every=2, **changes)


def run_stage(path, config: TrainQConfig):
    data = prepare(*problem(), gamma=0.95, heldout_fraction=config.heldout_fraction, seed=config.seed)
    monitor = monitor_of(config, data)
    train = _train_resumably if config.population.size == 1 else train_best_member
    return train(config, _place(config, data), monitor, problem()[1], path)


def test_stage_logs_every_epoch_and_keeps_checkpoints(tmp_path):
    chosen, rows = run_stage(tmp_path, stage_config())
    assert chosen == 6
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    verdicts = {row["epoch"]: row.pop("verdict") for row in logged if "verdict" in row}
    assert logged == rows
    assert list(verdicts) == [2, 4, 6]
    assert all("advice: " in verdict for verdict in verdicts.values())
    assert [row["epoch"] for row in logged] == [1, 2, 3, 4, 5, 6]
    assert list((tmp_path / "logs").glob("events*"))
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [2, 4, 6]


def test_old_checkpoints_make_room(tmp_path):
    run_stage(tmp_path, stage_config(keep=2))
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [4, 6]


@pytest.mark.parametrize("spread", [1, math.inf])
def test_the_best_checkpoint_outlives_old_ones(tmp_path, monkeypatch, spread):
    """``heldout`` with one checkpoint kept would otherwise mean the last; a run that goes on keeps it too."""
    errors = {2: spread, 4: 0.5, 6: 0.75, 8: 0.75, 10: spread}

    def scripted(choose_by, row):
        return float(errors.get(row["epoch"], 2.0))

    monkeypatch.setattr("digiq.critics.train.metric_of", scripted)
    config = stage_config(keep=1, choose="heldout")
    saved = []
    for epochs in (6, 10):
        critic = dataclasses.replace(config.critic, epochs=epochs, schedule="constant")
        chosen, _ = run_stage(tmp_path, dataclasses.replace(config, critic=critic))
        assert chosen == 4
        saved.append(sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()))
    assert saved == [[4, 6], [4, 10]]
    assert json.loads((tmp_path / "critic.json").read_text())["epoch"] == 4
    write_checksums(tmp_path)
    load_critic(tmp_path)


def test_diagnostics_go_to_the_events_of_every_checkpoint(tmp_path):
    # Layout of events: https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    _, rows = run_stage(tmp_path, stage_config())
    names = {
        "bellman_residual",
        "ece",
        "bias",
        "success_auc",
        "ranking_accuracy",
        "rank_at_1",
        "mean_rank",
        "trend",
        "share_over_threshold",
        "gap_median",
        "disagreement",
        "novelty",
        "initial_value",
        "policy_value",
        "policy_value_low",
        "policy_value_high",
        "behavior_value",
        "behavior_value_low",
        "behavior_value_high",
    }
    for row in rows:
        found = {name for name in names if f"diagnostic_{name}" in row}
        assert found == (names if row["epoch"] % 2 == 0 else set())
        assert {"heldout_td_error", "heldout_bellman_residual", "heldout_q_mean", "heldout_initial_q"} <= set(
            row
        )
        assert all(math.isfinite(value) for value in row.values())
    assert rows[-1]["diagnostic_policy_value_low"] <= rows[-1]["diagnostic_policy_value_high"]
    tags: dict[str, set[int]] = {}
    for file in (tmp_path / "logs").glob("events*"):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
            event = Event.FromString(data[12 : 12 + size])
            for value in event.summary.value:
                tags.setdefault(value.tag.removesuffix("/text_summary"), set()).add(event.step)
            data = data[16 + size :]
    for name in ("ece", "gap", "reliability", "verdict", "policy_value"):
        assert tags[f"diagnostic_{name}"] == {2, 4, 6}
    assert tags["td_error"] == {1, 2, 3, 4, 5, 6}


def test_choosing_by_a_held_out_metric_and_stopping_early(tmp_path):
    # q_mean of the held-out episodes is no quality: here it is just a number whose least epoch is known.
    config = stage_config(choose="heldout", choose_by="heldout_q_mean", patience=1)
    _, rows = run_stage(tmp_path / "all", stage_config())
    everything = [row["heldout_q_mean"] for row in rows]
    stops = next(n for n in range(2, 7) if everything[n - 1] >= min(everything[: n - 1]))
    assert stops < 6, "this run would never stop early: another metric is needed"
    chosen, rows = run_stage(tmp_path / "patient", config)
    assert [row["heldout_q_mean"] for row in rows] == everything[:stops]
    values = {row["epoch"]: row["heldout_q_mean"] for row in rows}
    saved = sorted(int(p.name) for p in (tmp_path / "patient" / "checkpoints").iterdir())
    assert chosen == min(saved, key=values.get)
    with pytest.raises(DigiQError, match="choose_by = 'heldout_nope' is not logged"):
        run_stage(tmp_path / "other", stage_config(choose="heldout", choose_by="heldout_nope"))


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    import importlib.util
    spec = importlib.util.spec_from_file_location("stage", {file!r})
    stage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stage)
    from digiq.critics import population, train
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    def die_after(name, epoch):
        cls = getattr(train, name)
        method = "write" if name == "MetricsLog" else "save"
        whole = getattr(cls, method)
        def then_die(self, number, *rest, **more):
            whole(self, number, *rest, **more)
            if number == epoch:
                die()
        setattr(cls, method, then_die)
    moment = sys.argv[2]
    if moment == "describe":
        train.describe = population.describe = die
    else:
        die_after(*{{"row 1": ("MetricsLog", 1), "row 3": ("MetricsLog", 3), "row 4": ("MetricsLog", 4),
                     "save 4": ("Checkpoints", 4)}}[moment])
    config = stage.stage_config(memory=sys.argv[3], population={{"seeds": int(sys.argv[4])}})
    stage.run_stage(__import__("pathlib").Path(sys.argv[1]), config)
"""


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    paths = {memory: tmp_path_factory.mktemp(memory) for memory in ("device", "stream")}
    return {m: (path, run_stage(path, stage_config(memory=m))[1]) for m, path in paths.items()}


@pytest.mark.parametrize(
    ("moment", "memory"),
    [
        ("row 1", "device"),
        ("row 4", "device"),
        ("save 4", "device"),
        ("describe", "device"),
        ("save 4", "stream"),
    ],
)
def test_killed_and_resumed_is_bit_identical(tmp_path, whole_runs, moment, memory):
    """SIGKILL before there is a checkpoint, between a row and its checkpoint, while one is on its way to disk, after."""
    code = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), file=__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), moment, memory, "1"], capture_output=True, timeout=280
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not (tmp_path / "critic.json").exists()
    (tmp_path / "metrics.jsonl").open("a").write('{"epoch": 5, "torn')
    _, resumed = run_stage(tmp_path, stage_config(memory=memory))
    whole, rows = whole_runs[memory]
    assert resumed == rows
    states = [CheckpointManager(path / "checkpoints").restore(6) for path in (tmp_path, whole)]
    assert set(states[0]["training"]) == {"target", "optimizer", "key", "step"}, (
        "the sampler's key among them"
    )
    jax.tree.map(np.testing.assert_array_equal, *(dict(s.items()) for s in states))


def test_a_population_leaves_a_table_a_plot_and_its_best_member(tmp_path, capsys):
    config = stage_config(population={"seeds": 2, "lr": [1e-2, 1e-4]})
    data = prepare(*problem(), gamma=0.95, heldout_fraction=0.2)
    _, rows = train_best_member(config, data, monitor_of(config, data), problem()[1], tmp_path)
    header, *printed = capsys.readouterr().out.splitlines()
    assert header.split() == ["seed", "learning_rate", "heldout_return_error", "td_error", "q_mean"]
    table = json.loads((tmp_path / "population.json").read_text())
    assert [line.endswith("  best") for line in printed] == [k == table["best"] for k in range(4)]
    errors = [member["heldout_return_error"] for member in table["members"]]
    assert len(errors) == 4
    assert table["best"] == int(np.argmin(errors))
    assert rows[-1]["heldout_return_error"] == min(errors)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert "diagnostic_ece" in last
    assert "advice: " in last["verdict"]
    assert (tmp_path / "population.png").stat().st_size > 5000
    write_checksums(tmp_path)
    q, _ = candidate_values(load_critic(tmp_path), problem()[1])
    heldout = data.heldout_rows
    error = np.sqrt(np.mean((q[data.table.obs[heldout], 0] - data.table.returns[heldout]) ** 2))
    assert error == pytest.approx(min(errors), rel=1e-4)


@pytest.mark.parametrize("moment", ["row 3", "save 4", "describe"])
def test_a_population_killed_and_resumed_is_bit_identical(tmp_path, moment):
    """SIGKILL between two members' rows, while a checkpoint is on its way to disk, before the best is described."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), file=__file__)
    command = [sys.executable, "-c", code, str(killed), moment, "device", "2"]
    done = subprocess.run(command, capture_output=True, timeout=280)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not (killed / "critic.json").exists()
    (killed / "population.jsonl").open("a").write('{"epoch": 5, "torn')
    for path in (killed, whole):
        run_stage(path, stage_config(population={"seeds": 2}))
    for name in ("metrics.jsonl", "population.jsonl", "population.json"):
        assert (killed / name).read_text() == (whole / name).read_text()
    assert len((whole / "population.jsonl").read_text().splitlines()) == 12
    states = [CheckpointManager(path / "population").restore(6) for path in (killed, whole)]
    jax.tree.map(np.testing.assert_array_equal, *(dict(s.items()) for s in states))
    for path in (killed, whole):
        write_checksums(path)
    values = [candidate_values(load_critic(path), problem()[1])[0] for path in (killed, whole)]
    np.testing.assert_array_equal(*values)
