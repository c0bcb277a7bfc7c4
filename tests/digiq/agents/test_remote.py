"""Devices on a Ray cluster: the same episodes, and a node that is lost costs none."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="pip install 'digiq[ray]'")

import ray
from ray.cluster_utils import Cluster

from android_env.errors import EpisodeError, TaskError
from android_env.faults import Quarantined, ServerSlow
from digiq import artifacts
from digiq.agents import remote
from digiq.agents.agent import Agent
from digiq.agents.build import AgentConfig, DeviceConfig, device_tasks, env_factory
from digiq.agents.rollout import plan_episodes, rollout
from digiq.errors import ConfigError
from digiq.evaluation import evaluate
from digiq.evaluation.evaluate import EvaluateConfig
from digiq.policies.grid import Grid

TASKS = device_tasks("general/train")
SPECS = plan_episodes(TASKS, 6, seed=3)


@pytest.fixture(scope="module")
def cluster():
    """A head without devices, and two nodes with one each, on this machine."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(remote, "FREE_CAP_S", 2.0)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=0, resources={remote.RESOURCE: 1}) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()
    monkeypatch.undo()


class Losing(Agent):
    """Takes a node away when it is asked for the fifth time."""

    def __init__(self, lose, *args):
        super().__init__(*args)
        self.asked, self._lose = 0, lose

    def act(self, turns):
        self.asked += 1
        if self.asked == 5:
            self._lose()
        return super().act(turns)


def test_a_lost_node_costs_no_episode_and_changes_none(cluster):
    made, nodes = cluster
    policy = Grid().create(seed=0)
    here = list(rollout(Agent(policy), SPECS, env_factory(DeviceConfig(), TASKS), batch_size=2))
    agent = Losing(lambda: made.remove_node(nodes.pop()), policy)
    far = remote.remotely(DeviceConfig(), TASKS)
    found = list(rollout(agent, SPECS, far, batch_size=2, threads=True, retry_lost_s=1.0))
    assert agent.asked > 5 and len(nodes) == 1
    assert [run.spec.episode_id for run in found] == [spec.episode_id for spec in SPECS]
    told = lambda runs: [(run.outcome, [d.action for d in run.decisions]) for run in runs]  # noqa: E731
    assert told(found) == told(here)


def test_an_evaluation_plays_there_and_scripts_that_look_into_devices_do_not(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv(remote.RAY, "1")
    policy = tmp_path / "policy"
    with artifacts.write(policy, stage="fit-policy", version=1, config=Grid(), inputs={}) as w:
        Grid().create(seed=0).save(w.path)
        w.complete(counts={})
    config = EvaluateConfig(tasks="general/train", episodes=2, records=1, batch_size=1)
    found = evaluate.run(config, policy=policy, out=tmp_path / "far")
    assert found.manifest.counts["episodes"] == 2 and not found.manifest.counts["infra_error"]
    monkeypatch.delenv(remote.RAY)
    near = evaluate.run(config, policy=policy, out=tmp_path / "near")
    assert near.manifest.digest == found.manifest.digest, "what comes out does not depend on where"
    monkeypatch.setenv(remote.RAY, "1")
    scripted = EvaluateConfig(tasks="general/train", episodes=1, agent=AgentConfig(kind="oracle"))
    with pytest.raises(ConfigError, match=r"--ray: agent.kind 'oracle' reads its device's state"):
        evaluate.run(scripted, out=tmp_path / "scripted")


def test_faults_travel_as_they_are():
    for error in (
        ServerSlow("no answer", begun=False),
        Quarantined("gone"),
        TaskError("not here"),
        EpisodeError("early"),
    ):

        def raising(error=error):
            raise error

        back = remote._fault(remote._told(raising)["fault"])
        assert type(back) is type(error) and str(back) == str(error)
        assert getattr(back, "begun", None) == getattr(error, "begun", None)
    assert remote._told(lambda: 3) == {"value": 3}
