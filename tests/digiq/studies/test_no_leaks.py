"""No test-split screen, word or label gets into anything that is learned: the manifests of a study's stages say so."""

import json
from pathlib import Path

import pytest

from android_env.tasks import load_tasks
from digiq.config import load_yaml, to_dict
from digiq.data.rewards import LabelledEpisodes, read_labels
from digiq.studies import run as studies
from digiq.studies.config import StudyConfig
from digiq.vlm.tiny.words import task_words

LEARNED = ("fit-policy", "tune-vlm", "train-q", "distill")
MAKES_EPISODES = "collect"
ONLY_MEASURES = ("evaluate", "q-metrics", "card", "value")


def stage_of(node) -> str:
    return node.out.name.rpartition("-")[0]


@pytest.mark.parametrize(("name", "tasks"), [("core", "test"), ("slice", "tune"), ("worth", "final")])
def test_whatever_is_learned_comes_from_training_episodes_only(name, tasks):
    """Walks the graph of every cell from what is learned back to the episodes, by configs and inputs alone."""
    config = load_yaml(StudyConfig, f"configs/study/{name}.yaml")
    seeds = (100,)
    nodes = studies.unique_nodes(studies.make_cells(config, seeds))
    if config.tuning:
        nodes += studies.unique_nodes(studies.make_trials(config))
    by_out = {node.out: node for node in nodes}

    def ancestors(node):
        for path in node.inputs.values():
            if path in by_out:
                yield by_out[path]
                yield from ancestors(by_out[path])

    learned = [node for node in nodes if stage_of(node) in LEARNED]
    assert {stage_of(node) for node in learned} >= {"fit-policy", "train-q", "distill"}
    for node in learned:
        before = list(ancestors(node))
        sources = [n for n in before if stage_of(n) == MAKES_EPISODES]
        assert sources and all(n.config.tasks == "webshop/train" for n in sources), node.name
        # Exact values are the simulator's own; a ceiling may read them, on training states.
        allowed = {"value"} if "exact" in getattr(node.config, "reads", ()) else set()
        assert not {stage_of(n) for n in before} & ({*ONLY_MEASURES} - allowed), node.name
        said = to_dict(node.config)
        assert said.get("split", "train") == "train" and set(said.get("splits", ["train"])) == {"train"}
    measured = [
        n for n in studies.unique_nodes(studies.make_cells(config, seeds)) if hasattr(n.config, "tasks")
    ]
    measured = [n.config.tasks for n in measured if stage_of(n) in ("evaluate", "q-metrics")]
    assert set(measured) == {f"webshop/{tasks}"}
    trials = studies.make_trials(config) if config.tuning else []
    for cell in trials:
        assert {n.config.tasks for n in cell.nodes if stage_of(n) == "evaluate"} == {"webshop/tune"}
        assert all(seed >= 100 for seed in (cell.seed,))


def test_the_vlm_is_pre_trained_on_words_that_no_task_has():
    words = task_words()
    for task in (*load_tasks("webshop/test"), *load_tasks("webshop/final")):
        for value in task.params.values():
            assert {w for w in value.replace(".", " ").lower().split() if len(w) > 2 and w.isalpha()} <= words


def walk_manifests(store: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(store.glob("*/manifest.json"))}


def check_finished_run(store: Path) -> int:
    """Checks the artefacts of a finished study on disk; returns how many learned ones there were.

    Raises:
      AssertionError: something learned has read episodes, screens or labels of another split than training's.
    """
    manifests = walk_manifests(store)
    digest_of = {}
    from digiq import artifacts

    for name in manifests:
        digest_of[artifacts.open(store / name).manifest.digest] = name
    train = {task.task_id for task in load_tasks("webshop/train")}
    goals = {task.goal for task in load_tasks("webshop/train")}
    checked = 0
    for name, manifest in manifests.items():
        read = {key: digest_of.get(value) for key, value in manifest["inputs"].items()}
        if manifest["stage"] not in (*LEARNED, "featurize", "propose", "label"):
            continue
        checked += manifest["stage"] in LEARNED
        assert read["episodes"], f"{name} read episodes that are not of this study"
        for episode in LabelledEpisodes(store / read["episodes"]):
            assert episode.split == "train" and episode.task_id in train, name
            assert {step.goal for step in episode.steps} <= goals, name
        if read.get("rewards"):
            ids = set(LabelledEpisodes(store / read["episodes"])._store.episode_ids)
            assert {label.source_id for label in read_labels(store / read["rewards"])} <= ids
    return checked


def test_the_walk_finds_a_leak(tmp_path, monkeypatch):
    """The same check fails on a policy that was fitted to test episodes."""
    from digiq.agents import collect
    from digiq.agents.build import AgentConfig
    from digiq.policies import fit
    from tests.digiq.extraction.conftest import FIT, SMALL

    untrained(monkeypatch)
    config = collect.CollectConfig(
        agent=AgentConfig(kind="collector"), tasks="webshop/test", num_episodes=3, seed=1
    )
    collect.run(config, out=tmp_path / "collect-0")
    fit.run(
        fit.FitPolicyConfig(grid=SMALL, fit=FIT, split="test_site"),
        episodes=tmp_path / "collect-0",
        out=tmp_path / "fit-policy-0",
    )
    with pytest.raises(AssertionError):
        check_finished_run(tmp_path)


def test_the_walk_sees_what_the_vlm_is_tuned_on(tmp_path):
    from digiq.agents import collect
    from digiq.agents.build import AgentConfig
    from digiq.vlm import TINY_VLM_PATH, tune

    config = collect.CollectConfig(
        agent=AgentConfig(kind="collector"), tasks="webshop/train", num_episodes=3, seed=1
    )
    collect.run(config, out=tmp_path / "collect-0")
    tune.run(
        tune.TuneVlmConfig(max_examples=4, batch_size=4, heldout=0.0, lora_rank=1),
        episodes=tmp_path / "collect-0",
        vlm=TINY_VLM_PATH,
        out=tmp_path / "tune-vlm-0",
    )
    assert check_finished_run(tmp_path) == 1


def untrained(patch: pytest.MonkeyPatch) -> None:
    """Fitting returns the policy it starts from: what a stage has read does not depend on how long it learns."""
    patch.setattr("digiq.policies.grid.GridPolicy.fit", _fit_nothing)


def _fit_nothing(policy, rows, *_, **__):
    assert list(rows)  # the screens are read all the same
    return policy
