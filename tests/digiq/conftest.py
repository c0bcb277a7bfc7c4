"""A small random LLaVA; a small finished run on the simulated phone, where a table stands in for features and critic."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from android_env.devices.simulated import collector
from android_env.devices.simulated.phone import SimulatedPhone
from digiq import artifacts
from digiq.agents import collect
from digiq.agents.build import AgentConfig, device_tasks
from digiq.data import label
from digiq.data.rewards import LabelledEpisodes
from digiq.policies.base import Candidate
from digiq.proposals import propose
from digiq.proposals.propose import save_proposals, to_arrays
from digiq.report.run_report import RunArtifacts


@pytest.fixture(scope="session")
def vlm(tmp_path_factory) -> Path:
    """A directory with a random model of the embedded one's kind: 3 language layers, 64 wide."""
    import torch

    from digiq.vlm.tiny.architecture import build_model, build_processor, save

    torch.manual_seed(0)
    processor = build_processor()
    path = tmp_path_factory.mktemp("vlm")
    model = build_model(processor.tokenizer, hidden_size=64, vision_layers=1, text_layers=3)
    save(model, processor, path)
    return path


@pytest.fixture(scope="module")
def one_torch_thread():
    """On a busy machine a second thread costs torch more than it gives; for modules that run the VLM."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class SmallRun:
    root: Path
    artifacts: RunArtifacts


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Iterator[SmallRun]:
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digiq.report.run_report.open_features", Path)
        patch.setattr("digiq.report.run_report.load_critic", Path)
        patch.setattr("digiq.report.run_report.candidate_values", read_values)
        yield make_run(root)


def make_run(root: Path) -> SmallRun:
    scripted = AgentConfig(kind="collector")
    collect.run(collect.CollectConfig(agent=scripted, num_episodes=16, seed=4), out=root / "episodes")
    label.run(label.LabelConfig(), episodes=root / "episodes", out=root / "rewards")
    make_proposals(root)
    make_values(root)
    make_critic(root)
    paths = {name: root / name for name in ("episodes", "rewards", "proposals", "features", "critic")}
    return SmallRun(root, RunArtifacts(**paths))


def make_proposals(root: Path, width: int = 4) -> None:
    """Candidates drawn by the collector itself on the replayed phone."""
    tasks = {task.task_id: task for task in device_tasks("webshop/train")}
    phone, rng = SimulatedPhone(render=False), np.random.default_rng(0)
    rows = []
    for episode in LabelledEpisodes(root / "episodes", root / "rewards"):
        phone.reset(tasks[episode.task_id], seed=episode.seed)
        for step in episode.steps:
            if step.is_terminal:
                continue
            first = None if step.action is None else Candidate(step.action, step.behavior_log_prob)
            drawn = [Candidate(*collector.collector_policy(phone, rng)) for _ in range(width - 1)]
            rows.append([first, *drawn])
            if step.action is not None:
                phone.execute(step.action)
    inputs = {"episodes": root / "episodes", "rewards": root / "rewards"}
    with artifacts.write(
        root / "proposals", stage=propose.STAGE, version=propose.VERSION, config={}, inputs=inputs
    ) as w:
        save_proposals(to_arrays(rows), w.path)
        w.complete(counts={"observations": len(rows)})


def make_values(root: Path) -> None:
    """Stands in for features: what the critic will say of every candidate, equal for equal actions."""
    proposals = propose.load_proposals(root / "proposals")
    q = np.full(proposals.valid.shape, np.nan, np.float32)
    rng = np.random.default_rng(1)
    drawn: dict[tuple, float] = {}
    for s, n in zip(*np.nonzero(proposals.valid), strict=True):
        q[s, n] = drawn.setdefault((s, proposals.action(s, n)), float(rng.uniform(0, 1)))
    with artifacts.write(root / "features", stage="featurize", version=1, config={}) as w:
        np.savez(w.path / "values.npz", q=q, v=np.nanmean(q, axis=1))
        w.complete()


def make_critic(root: Path) -> None:
    """A critic's manifest and learning curve."""
    with artifacts.write(root / "critic", stage="train-q", version=1, config={"critic": {"gamma": 0.9}}) as w:
        rows = [{"epoch": e, "q_loss": 1.0 / e, "v_loss": 0.5 / e, "q_mean": 0.1 * e} for e in (1, 2, 3)]
        (w.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        w.complete()


def read_values(critic, features) -> tuple[np.ndarray, np.ndarray]:
    """Stands in for ``candidate_values``."""
    with np.load(features / "values.npz") as stored:
        return stored["q"], stored["v"]
