"""Eight devices and two processes learn what one device learns."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from digiq.critics.train import TrainQConfig
from digiq.errors import ConfigError

PROGRAM = """
    import importlib.util, json, os, sys
    import jax
    processes, index, port = map(int, sys.argv[1:4])
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    import numpy as np
    from digiq.critics.training_data import place, prepare
    from digiq.critics.learner import CriticConfig, Learner
    from digiq.critics.placement import mesh_of_all_devices, place_batch, replicate
    from digiq.critics.streaming import Streaming
    spec = importlib.util.spec_from_file_location("problem", sys.argv[4])
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    mesh = mesh_of_all_devices() if jax.device_count() > 1 else None
    def prepared():
        # Rows that nothing points to: XLA copies a table to every device where that is less than what is drawn of it.
        transitions, features = tests.problem()
        more = {"pair": np.concatenate([features["pair"]] * 4)}
        return prepare(transitions, {**features, **more}, gamma=0.9)
    learner = Learner(tests.config(batch_size=64, objective="cql"), mesh)
    data = place(prepared(), mesh)
    def fresh():
        return replicate(jax.device_get(learner.init(jax.random.PRNGKey(0), data)), mesh)
    hyper = replicate(jax.device_get(learner.hyper()), mesh)
    def numbers(state):
        return [np.asarray(x).ravel()[:5].tolist() for x in jax.tree.leaves(state.params)]
    state, _ = learner.epoch(fresh(), hyper, data)
    streamed, split = None, None
    if jax.device_count() == 8:
        streamed = numbers(Streaming(learner).epoch(fresh(), hyper, prepared())[0])
        split = place_batch(np.zeros((64, 3)), mesh, 64).addressable_shards[0].data.shape
    leaves = numbers(state)
    state = fresh()
    text = learner.epoch.lower(learner, state, hyper, data).compile().as_text()
    here = sum(shard.data.shape[0] for shard in data.pair.addressable_shards)
    whole = f"f32[{len(data.pair)},{data.pair.shape[1]}]" in text
    print(json.dumps({"devices": jax.device_count(), "reduces": "all-reduce" in text, "leaves": leaves,
                      "streamed": streamed, "split": split, "rows": len(data.pair), "here": here, "whole": whole}))
"""

STAGE = """
    import dataclasses, importlib.util, json, sys
    from pathlib import Path
    import jax
    from digiq.artifacts import write_checksums
    from digiq.critics import candidate_values, load_critic
    from digiq.errors import DigiQError
    spec = importlib.util.spec_from_file_location("stage", sys.argv[4])
    stage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stage)
    def trained(name, batch_size=16, **changes):
        config = stage.stage_config(data_parallel=jax.device_count() > 1, **changes)
        critic = dataclasses.replace(config.critic, batch_size=batch_size, learning_rate=1e-2)
        path = Path(sys.argv[5]) / name
        stage.run_stage(path, dataclasses.replace(config, critic=critic))
        write_checksums(path)
        return candidate_values(load_critic(path), stage.problem()[1])[0].tolist()
    try:
        refused = trained("refused", batch_size=12) and None
    except DigiQError as error:
        refused = str(error)
    print(json.dumps({"memory": trained("memory"), "stream": trained("stream", memory="stream"), "refused": refused}))
"""


def launch(
    devices: int, processes: int = 1, program: str = PROGRAM, problem: str = "test_learner.py", *more: str
) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    # XLA ends the process when devices wait 40 seconds for one another, as eight can on one busy core.
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=240"
    # XLA has as many threads as devices, and an update that waits for its turn holds one: seven devices of the update
    # before it then wait for ever for the eighth, which has no thread.
    threads = {"PJRT_NPROC": str(8 * devices)}
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | threads
    problem = os.path.join(os.path.dirname(__file__), problem)
    command = [sys.executable, "-c", textwrap.dedent(program), str(processes)]
    return [
        subprocess.Popen(
            [*command, str(index), str(port), problem, *more],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]


def result(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def runs():
    started = {"one": launch(1), "eight": launch(8), "two processes": launch(1, processes=2)}
    return {name: [result(p) for p in processes] for name, processes in started.items()}


@pytest.mark.parametrize(("name", "devices"), [("eight", 8), ("two processes", 2)])
def test_equals_one_device(runs, name, devices):
    one = runs["one"][0]
    assert one["devices"] == 1
    for other in runs[name]:
        assert other["devices"] == devices
        assert other["reduces"], "the batch was not split: no gradient crosses devices"
        for a, b in zip(one["leaves"], other["leaves"], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(("name", "processes"), [("eight", 1), ("two processes", 2)])
def test_features_are_held_once_by_all_devices(runs, name, processes):
    assert all(other["here"] == other["rows"] / processes for other in runs[name])
    assert runs["one"][0]["whole"], "the search for the table in the program finds nothing"
    assert not any(other["whole"] for other in runs[name]), "a device gathers the whole table"


def test_streamed_batches_are_split_over_the_devices_too(runs):
    (eight,) = runs["eight"]
    assert eight["split"] == [8, 3]
    for a, b in zip(eight["leaves"], eight["streamed"], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_the_stage_on_eight_devices_writes_the_critic_of_one(tmp_path):
    started = [launch(n, 1, STAGE, "test_train.py", str(tmp_path / str(n))) for n in (1, 8)]
    one, eight = (result(process) for (process,) in started)
    assert np.ptp(one["memory"]) > 0.05
    for name in ("memory", "stream"):
        np.testing.assert_allclose(eight[name], one[name], rtol=2e-3, atol=2e-4)
    assert one["refused"] is None
    assert "batches of 12 transitions do not split over 8 devices" in eight["refused"]


def test_a_population_is_not_split():
    with pytest.raises(ConfigError, match="a population trains on one device"):
        TrainQConfig(data_parallel=True, population={"seeds": 2})
