"""``featurize`` on a Ray cluster of this machine, one of whose workers is killed."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="pip install 'digiq[ray]'")

import ray
from ray.cluster_utils import Cluster

from android_env.actions import Action
from digiq.errors import ConfigError, DigiQError
from digiq.features import cluster as module
from digiq.features import extract as stage
from digiq.features import load_features
from tests.digiq.features.test_extract import BACK, CONFIG, TAP, TYPE, assert_same, episode, write_inputs

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def nodes():
    """A head that takes no part, and two nodes with a worker each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=0, resources={module.RESOURCE: 1})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def inputs_of(root: Path) -> dict[str, Path]:
    goals = ["buy tea", "go home", "buy a lamp"]
    episodes = [episode(f"e{i}", goals[i % 3], [i, i + 1, i + 2], [TAP, BACK]) for i in range(6)]
    candidates = [[action, TYPE, Action.home()] for _ in episodes for action in (TAP, BACK)]
    return write_inputs(root, episodes, candidates)


@dataclasses.dataclass
class Killed:
    """What a worker runs: the stage in small shards; the first of them is killed once it has stored a shard."""

    work: Any
    flag: Path

    def __call__(self, worker: str) -> None:
        import torch

        from digiq.features.store import RowStore

        torch.set_num_threads(1)
        defaults = {**(RowStore.__init__.__kwdefaults__ or {}), "rows_per_shard": 3}
        RowStore.__init__.__kwdefaults__ = defaults
        append = RowStore.append

        def dying(store: Any, keys: Any, features: Any) -> None:
            append(store, keys, features)
            if worker == "1/2" and not self.flag.exists():
                self.flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        RowStore.append = dying  # type: ignore[method-assign]
        try:
            self.work(worker=worker)
        finally:
            RowStore.append = append  # type: ignore[method-assign]


def test_a_killed_worker_is_started_again_and_all_rows_are_as_of_one_process(
    nodes, tmp_path, vlm, monkeypatch
):
    inputs = inputs_of(tmp_path)
    flag, on_ray = tmp_path / "killed", module.on_ray
    monkeypatch.setattr(module, "on_ray", lambda work, device: on_ray(Killed(work, flag), device))
    found = stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "far" / "features", executor="ray")
    assert flag.exists() and found.manifest.state == "complete"
    here = stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "here" / "features")
    assert found.manifest.digest == here.manifest.digest
    assert_same(load_features(found.path), load_features(here.path))


def test_what_is_wrong_is_said_once_and_as_it_is_here(nodes, tmp_path, vlm):
    inputs = inputs_of(tmp_path)
    wrong = dataclasses.replace(CONFIG, pair_spans=("kinds",))
    with pytest.raises(DigiQError, match="the prompt has no span 'kinds'"):
        stage.run(wrong, **inputs, vlm=vlm, out=tmp_path / "features", executor="ray")
    with pytest.raises(ConfigError, match="assigns the shares itself; leave out --worker"):
        stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features", executor="ray", worker="1/2")


def test_a_cluster_that_offers_nothing_is_refused(nodes, tmp_path, vlm, monkeypatch):
    monkeypatch.setattr(module, "RESOURCE", "digiq_none")
    with pytest.raises(ConfigError, match="no node of the cluster takes part; start one with --resources"):
        stage.run(CONFIG, **inputs_of(tmp_path), vlm=vlm, out=tmp_path / "features", executor="ray")
