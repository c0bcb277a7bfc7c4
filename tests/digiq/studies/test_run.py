"""Studies: cells as recipes, stages shared by identity, records that a resume believes, a runner that goes on."""

import dataclasses
import json
from pathlib import Path

import pytest

from digiq.config import load, load_yaml
from digiq.errors import ConfigError
from digiq.studies import run as studies
from digiq.studies.analysis import analysis_digest
from digiq.studies.config import StudyConfig, kernel_digest
from digiq.studies.records import CellRecord, write_record

RECIPE = {
    "demonstrations": {"agent": {"kind": "collector"}, "num_episodes": 8},
    "collect": {"agent": {"kind": "policy"}, "num_episodes": 4},
    "tune_vlm": None,
    "card": {},
    "exact": {},
    "q_metrics": {},
    "distill": {"policy": {"fit": {"updates": 5}}},
    "evaluate": {"episodes": 3, "records": 0},
}
ARMS = {
    "oracle": {"title": "Oracle", "role": "ceiling", "acts": "oracle"},
    "behavior": {"title": "Behaviour", "role": "reference", "acts": "behavior"},
    "ceiling": {"title": "Ceiling", "role": "ceiling", "acts": "ceiling"},
    "critic": {"title": "Critic", "role": "ceiling", "acts": "critic"},
    "filtered_bc": {
        "title": "BC",
        "role": "baseline",
        "recipe": {"distill": {"policy": {"objective": "filtered_bc"}}},
    },
    "td4": {
        "title": "TD",
        "role": "method",
        "recipe": {"distill": {"policy": {"best_of_n": {"candidates": 4}}}},
    },
    "td8": {"title": "TD", "role": "method"},
    "mc": {"title": "MC", "role": "method", "recipe": {"train_q": {"critic": {"objective": "mc"}}}},
    "exact": {
        "title": "Exact",
        "role": "ceiling",
        "recipe": {"distill": {"policy": {"values": {"source": "digiq.laboratory.controls:ExactValues"}}}},
    },
}
QUIET = {"simulated": {"noise": {"scale": 0.0}}}
SWEEPS = {
    "noise": {
        "title": "Noise", "arms": ["td8"], "base": "x1", "order": ["x0", "x1"], "seeds": 1,
        "points": {"x0": {"collect": {"device": QUIET}, "evaluate": {"device": QUIET}}},
    }
}  # fmt: skip


@pytest.fixture
def config(tmp_path) -> StudyConfig:
    file = {
        "name": "mini", "title": "Mini", "seeds": [100, 101], "recipe": RECIPE, "arms": ARMS, "sweeps": SWEEPS,
        "output": str(tmp_path / "run"), "results": str(tmp_path / "results"), "jobs": 2,
    }  # fmt: skip
    return load(StudyConfig, file)


def stage_names(cell) -> list[str]:
    return [node.name for node in cell.nodes]


def test_cells_need_what_their_arm_reads_and_nothing_else(config):
    cells = {c.arm: c for c in studies.make_cells(config, (100,)) if not c.sweep}
    assert stage_names(cells["oracle"]) == ["evaluation"]
    assert cells["oracle"].nodes[0].config.exact
    assert stage_names(cells["behavior"]) == [
        "demonstrations",
        "behavior",
        "episodes",
        "card",
        "evaluation/behavior",
    ]
    assert not {"features", "critic", "proposals"} & set(stage_names(cells["filtered_bc"]))
    assert "q_metrics/policy" in stage_names(cells["td8"])
    assert stage_names(cells["ceiling"]) == ["demonstrations", "behavior", "evaluation/ceiling"]
    assert stage_names(cells["critic"])[-2:] == ["critic", "evaluation/critic"]
    assert "critic" not in stage_names(cells["exact"]) and "exact" in stage_names(cells["exact"])


def test_cells_share_every_stage_that_is_the_same(config):
    cells = {(c.arm, c.sweep): {n.name: n.out for n in c.nodes} for c in studies.make_cells(config, (100,))}
    td4, td8, mc, noise = cells["td4", ""], cells["td8", ""], cells["mc", ""], cells["td8", "noise"]
    same = {"demonstrations", "behavior", "episodes", "rewards", "proposals", "features", "exact"}
    assert all(td4[name] == td8[name] == mc[name] for name in same)
    assert td4["critic"] == td8["critic"] != mc["critic"]
    assert td4["policy/policy"] != td8["policy/policy"]
    assert noise["behavior"] == td8["behavior"] and noise["episodes"] != td8["episodes"]
    nodes = studies.unique_nodes(studies.make_cells(config, (100,)))
    assert len({n.out for n in nodes}) == len(nodes)
    made = set()
    for node in nodes:
        inside = [p for p in node.inputs.values() if p.parent == config.output / "store"]
        assert set(inside) <= made, f"{node.name} comes before what it reads"
        made.add(node.out)


def test_seeds_share_nothing_but_scripts_have_their_own_episodes_too(config):
    outs = [{n.out for c in studies.make_cells(config, (seed,)) for n in c.nodes} for seed in (100, 101)]
    assert not outs[0] & outs[1]


def test_limits_on_seeds_and_arms(config):
    cells = studies.make_cells(config, (100, 101), ["td8"])
    assert [(c.arm, c.seed, c.sweep) for c in cells] == [
        ("td8", 100, ""),
        ("td8", 101, ""),
        ("td8", 100, "noise"),
    ]
    # Run seed by seed, the study is the same: only its own first seed has the sweep.
    assert [c.sweep for c in studies.make_cells(config, (101,), ["td8"])] == [""]
    assert [c.sweep for c in studies.make_cells(config, (102,), ["td8"])] == ["", "noise"]
    with pytest.raises(ConfigError, match="no arm 'td9'"):
        studies.make_cells(config, (100,), ["td9"])


def test_the_grid_digest_follows_whatever_decides_a_cell(config):
    before = studies.grid_digest(config)
    for same in ({"output": Path("elsewhere")}, {"jobs": 1}, {"minutes": 5.0}):
        assert studies.grid_digest(dataclasses.replace(config, **same)) == before
    for other in (
        {"seeds": (100, 102)},
        {"recipe": {**config.recipe, "evaluate": {"episodes": 4, "records": 0}}},
        {"arms": {name: arm for name, arm in config.arms.items() if name != "mc"}},
        {"sweeps": {}},
    ):
        assert studies.grid_digest(dataclasses.replace(config, **other)) != before


def test_a_default_that_changes_changes_the_grid(config, monkeypatch):
    before = studies.grid_digest(config)
    monkeypatch.setattr("digiq.critics.train.VERSION", 99)
    assert studies.grid_digest(config) != before


def test_register_writes_the_digests_and_keeps_the_rest(tmp_path):
    path = tmp_path / "study.yaml"
    text = "# why\nname: mini\ntitle: Mini\nseeds: [10]\nrecipe:\n  evaluate: {episodes: 3}\n  demonstrations: {agent: {kind: collector}}\n"
    text += "  collect: {}\narms:\n  oracle: {title: O, role: ceiling, acts: oracle}\n"
    text += f"output: {tmp_path / 'run'}\n"
    path.write_text(text + 'registration:\n  kernel: ""\n  grid: old\n  analysis: ""\n')
    studies.register(path)
    config = load_yaml(StudyConfig, path)
    assert config.registration.kernel == kernel_digest()
    assert config.registration.grid == studies.grid_digest(config)
    assert config.registration.analysis == analysis_digest()
    assert path.read_text().startswith(text)
    path.write_text(text)
    with pytest.raises(ConfigError, match="registration"):
        studies.register(path)


def test_reported_seeds_do_not_run_unregistered(config, tmp_path):
    reported = dataclasses.replace(config, seeds=(10,))
    cells = studies.make_cells(reported, (10,), ["oracle"])
    with pytest.raises(ConfigError, match="not registered"):
        studies.run(reported, cells, tmp_path / "records")
    assert not (config.output / "store").exists()


def test_tuning_seeds_are_recorded_apart_from_reported_ones(config):
    reported = dataclasses.replace(config, seeds=(10, 11))
    assert studies.records_folder(reported, (10,)) == config.results / "mini"
    assert studies.records_folder(reported, (100,)) == config.output / "records"
    assert (
        studies.records_folder(config, config.seeds) == config.results / "mini"
    )  # a study of tuning seeds alone
    with pytest.raises(ConfigError, match="apart"):
        studies.records_folder(reported, (10, 100))


def test_trials_run_on_tuning_seeds_and_tasks_with_equal_updates(config):
    half = {"distill": {"policy": {"fit": {"learning_rate": 0.001}}}}
    tuning = {"seeds": [100], "episodes": 6, "trials": {"td8": [{}, half], "filtered_bc": [{}, half]}}
    tuned = load(StudyConfig, {**_dict(config), "tuning": tuning})
    cells = studies.make_trials(tuned)
    assert [(c.arm, c.point) for c in cells] == [
        ("td8", "trial0"),
        ("td8", "trial1"),
        ("filtered_bc", "trial0"),
        ("filtered_bc", "trial1"),
    ]
    for cell in cells:
        evaluated = cell.nodes[-1] if cell.nodes[-1].name.startswith("evaluation") else cell.nodes[-2]
        tasks = [n.config.tasks for n in cell.nodes if n.name.startswith("evaluation")]
        assert tasks == ["webshop/tune"], evaluated
    more = {"distill": {"policy": {"fit": {"updates": 7}}}}
    tuning["trials"] = {"td8": [{}, more], "filtered_bc": [more, half]}
    assert len(studies.make_trials(load(StudyConfig, {**_dict(config), "tuning": tuning}))) == 4
    tuning["trials"] = {"td8": [{}, more], "filtered_bc": [{}, half]}
    with pytest.raises(ConfigError, match="in all, but td8 has 12 updates and filtered_bc 10 updates"):
        studies.make_trials(load(StudyConfig, {**_dict(config), "tuning": tuning}))
    # An arm that keeps more rows has more updates in as many epochs.
    four = {"distill": {"policy": {"fit": {"epochs": 4}}}}
    tuning["trials"] = {"td8": [four, four], "filtered_bc": [four, four]}
    assert len(studies.make_trials(load(StudyConfig, {**_dict(config), "tuning": tuning}))) == 4
    tuning["trials"] = {"td8": [four, four], "filtered_bc": [four, half]}
    with pytest.raises(ConfigError, match="8 epochs and filtered_bc 4 epochs and 5 updates"):
        studies.make_trials(load(StudyConfig, {**_dict(config), "tuning": tuning}))


def _dict(config: StudyConfig) -> dict:
    from digiq.config import to_dict

    return to_dict(config)


def test_a_record_of_the_same_cell_is_believed_and_another_is_not(config, tmp_path):
    cells = studies.make_cells(config, (100,), ["oracle", "behavior"])
    folder = tmp_path / "records"
    assert studies.open_cells(cells, folder) == cells
    folder.mkdir()
    write_record(CellRecord(arm="oracle", seed=100, digest=cells[0].digest, tasks="t"), folder)
    write_record(CellRecord(arm="behavior", seed=100, digest="of another grid", tasks="t"), folder)
    assert studies.open_cells(cells, folder) == cells[1:]


def test_estimates_grow_with_what_is_run(config):
    few = studies.unique_nodes(studies.make_cells(config, (100,), ["td8"]))
    many = dataclasses.replace(config, recipe={**config.recipe, "collect": {"num_episodes": 400}})
    more = studies.unique_nodes(studies.make_cells(many, (100,), ["td8"]))
    assert sum(studies.estimate(more)) > sum(studies.estimate(few)) > 0


def test_the_longest_chain_of_stages_starts_first(config):
    long = {**SWEEPS["noise"], "points": {"x0": {"collect": {"num_episodes": 4000}}}}
    cells = studies.make_cells(load(StudyConfig, {**_dict(config), "sweeps": {"noise": long}}), (100, 101))
    ordered = studies.longest_first(cells)
    assert (ordered[0].sweep, ordered[0].arm) == ("noise", "td8")
    assert ordered[-1].arm == "oracle" and len(ordered) == len(cells)
    seen: set[Path] = set()
    nodes = studies.unique_nodes(ordered)
    own = {node.out for node in nodes}
    for node in nodes:
        assert {path for path in node.inputs.values() if path in own} <= seen
        seen.add(node.out)


def test_the_committed_studies_plan(config):
    for name in ("core", "slice", "worth"):
        study = load_yaml(StudyConfig, f"configs/study/{name}.yaml")
        cells = studies.make_cells(study, study.seeds)
        assert len({c.record for c in cells}) == len(cells) and len({c.digest for c in cells}) == len(cells)
        if study.tuning:
            studies.make_trials(study)
        json.dumps([c.digest for c in cells])
