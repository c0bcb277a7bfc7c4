"""Collection on the simulated phone: resumable, reproducible, with the behaviour's log-probabilities."""

from __future__ import annotations

import dataclasses
import os

import pytest

from android_env.devices.simulated import collector
from android_env.devices.simulated.phone import SimulatedPhone
from digiq import artifacts
from digiq.agents import collect
from digiq.agents.build import AgentConfig, DeviceConfig, build_agent, device_tasks
from digiq.agents.collect import CollectConfig
from digiq.config import load
from digiq.data.store import EpisodeStore
from digiq.errors import ArtifactMismatch, ConfigError

CONFIG = CollectConfig(agent=AgentConfig(kind="collector"), num_episodes=6, seed=1)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    path = tmp_path_factory.mktemp("collected") / "episodes"
    collect.run(CONFIG, out=path)
    return path


def test_episodes_replay_on_the_phone_and_log_probs_are_the_collectors(collected):
    tasks = {task.task_id: task for task in device_tasks(CONFIG.tasks)}
    phone = SimulatedPhone(render=False)
    store = EpisodeStore(collected)
    assert len(store) == 6
    for episode in store:
        assert episode.split == "train" and episode.policy == "collector" and episode.device == "simulated"
        phone.reset(tasks[episode.task_id], seed=episode.seed)
        for step in episode.steps[:-1]:
            assert step.goal == tasks[episode.task_id].goal
            assert step.activity == phone.observe().activity
            choices = dict(collector.collector(phone.display))
            assert pytest.approx(choices[step.action]) == float(2.718281828459045**step.behavior_log_prob)
            phone.execute(step.action)
        verdict = phone.verdict()
        assert episode.outcome == (verdict or "truncated")
        assert episode.is_terminated == (verdict is not None)
        assert episode.total_reward == float(verdict == "success")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_several_processes_collect_the_same_episodes_in_the_same_order(collected, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "_CHUNK", 2)
    used = []
    play = collect._play_in_processes
    monkeypatch.setattr(collect, "_play_in_processes", lambda *args: used.append(args[2]) or play(*args))
    collect.run(CONFIG, out=tmp_path / "beside")
    assert used
    # As text: the log-probability of a last step, which takes no action, is NaN and equals nothing.
    assert [repr(e) for e in EpisodeStore(tmp_path / "beside")] == [repr(e) for e in EpisodeStore(collected)]


def test_counts_are_in_the_manifest(collected):
    counts = artifacts.open(collected, stage="collect").manifest.counts
    outcomes = [episode.outcome for episode in EpisodeStore(collected)]
    assert counts["episodes"] == 6
    assert counts["actions"] == sum(episode.num_actions for episode in EpisodeStore(collected))
    assert {name: counts[name] for name in set(outcomes)} == {o: outcomes.count(o) for o in outcomes}


def test_a_killed_collection_finishes_to_the_same_episodes(collected, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    write = collect.EpisodeWriter.write

    def write_three(self, episode):
        if len(self.written) == 3:
            raise Killed
        write(self, episode)

    monkeypatch.setattr(collect.EpisodeWriter, "write", write_three)
    with pytest.raises(Killed):
        collect.run(CONFIG, out=tmp_path / "episodes")
    monkeypatch.undo()
    ran = []
    rollout = collect.rollout
    monkeypatch.setattr(
        collect, "rollout", lambda agent, specs, *a, **k: ran.append(specs) or rollout(agent, specs, *a, **k)
    )
    collect.run(dataclasses.replace(CONFIG), out=tmp_path / "episodes")
    assert [len(specs) for specs in ran] == [3]
    # As text, because the last step's unknown log-probability is NaN, which equals nothing.
    assert [*map(repr, EpisodeStore(tmp_path / "episodes"))] == [*map(repr, EpisodeStore(collected))]
    # Complete: nothing to do. Another config: refused.
    collect.run(CONFIG, out=tmp_path / "episodes")
    assert len(ran) == 1
    with pytest.raises(ArtifactMismatch, match="seed"):
        collect.run(dataclasses.replace(CONFIG, seed=2), out=tmp_path / "episodes")


def test_scripts_and_policies_are_not_confused(tmp_path):
    with pytest.raises(ConfigError, match="needs a policy artefact"):
        build_agent(AgentConfig())
    with pytest.raises(ConfigError, match="does not use a policy"):
        build_agent(AgentConfig(kind="oracle"), policy=tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean 'agent\.temperature'"):
        load(CollectConfig, {"agent": {"temprature": 1.0}})
    with pytest.raises(ConfigError, match="noise"):
        load(DeviceConfig, {"simulated": {"noise": {"scale": -1}}})
    with pytest.raises(
        ConfigError, match=r"'colector' cannot act on device 'simulated'; use 'policy' or .*collector"
    ):
        load(CollectConfig, {"agent": {"kind": "colector"}})


def test_an_empty_task_file_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "tasks.json").write_text("[]")
    with pytest.raises(ConfigError, match="lists no task"):
        collect.run(dataclasses.replace(CONFIG, tasks=str(tmp_path / "tasks.json")), out=tmp_path / "out")
