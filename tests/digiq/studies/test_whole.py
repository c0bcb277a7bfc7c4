"""A whole small study in this process, with real stages that hardly train: records, page, resume, no leaks."""

import dataclasses

import pytest

from digiq.cli.study import print_plan
from digiq.config import load
from digiq.studies import run as studies
from digiq.studies.config import StudyConfig
from digiq.studies.page import write_page
from digiq.studies.records import read_records
from tests.digiq.studies.test_no_leaks import check_finished_run, untrained

SMALL = {"input_height": 64, "input_width": 32, "width": 8, "word_buckets": 64, "speller_width": 4}
QUICK = {"updates": 2, "batch_size": 4, "heldout": 0.0}
EXACT = {"source": "digiq.laboratory.controls:ExactValues"}
STUDY = {
    "name": "whole", "title": "A whole study", "seeds": [100],
    "recipe": {
        "demonstrations": {"agent": {"kind": "collector"}, "num_episodes": 16},
        "fit_policy": {"grid": SMALL, "fit": QUICK},
        "collect": {"agent": {"kind": "collector"}, "num_episodes": 16},
        "propose": {"num_candidates": 3},
        "tune_vlm": None,
        "featurize": {"engine": "digiq.laboratory.controls:ElementFeatures"},
        "train_q": {"critic": {"epochs": 1, "steps_per_epoch": 2}},
        "card": {"valued": 2, "support": 8},
        "exact": {"policy_episodes": 0},
        "distill": {"policy": {"fit": QUICK, "best_of_n": {"threshold": 0.1}}},
        "evaluate": {"tasks": "webshop/tune", "episodes": 3, "records": 0},
    },
    "arms": {
        "behavior": {"title": "Behaviour", "role": "reference", "acts": "behavior"},
        "filtered_bc": {"title": "BC", "role": "baseline", "recipe": {"distill": {"policy": {"objective": "filtered_bc"}}}},
        "digirl": {
            "title": "DigiRL", "role": "baseline",
            "recipe": {"distill": {"policy": {"objective": "digirl", "digirl": {"threshold": -9.0}}}},
        },
        "td": {"title": "TD", "role": "method", "recipe": {"q_metrics": {"tasks": "webshop/tune", "rollouts": 2}}},
        "exact": {"title": "Exact", "role": "ceiling", "recipe": {"distill": {"policy": {"values": EXACT}}}},
        "shuffled": {
            "title": "Shuffled", "role": "control",
            "recipe": {
                "label": {"source": "digiq.laboratory.controls:ShuffledEnds"},
                "train_q": {"critic": {"timeout": "bootstrap"}},
            },
        },
        "oracle": {"title": "Oracle", "role": "ceiling", "acts": "oracle"},
    },
    "hypotheses": {"main": {"text": "TD is better", "arm": "td", "over": ["filtered_bc"], "at_least": 1.0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    config = load(StudyConfig, {**STUDY, "output": str(root / "run"), "results": str(root / "results")})
    cells, folder = studies.make_cells(config, config.seeds), root / "results" / "whole"
    with pytest.MonkeyPatch.context() as patch:
        untrained(patch)
        done = set()
        for node in studies.unique_nodes(cells):
            node.execute()
            done.add(node.out)
    assert studies._record_finished(cells, done, folder) == []
    return config, cells, folder


def test_every_cell_has_a_record_and_the_page_shows_it(finished):
    config, cells, folder = finished
    records = {record.arm: record for record in read_records(folder)}
    assert set(records) == set(config.arms) and studies.open_cells(cells, folder) == []
    assert all(len(r.episodes) == 3 and r.tasks == "webshop/tune" for r in records.values())
    assert all(e.exact is not None and e.success > 0.5 for e in records["oracle"].episodes)
    assert records["td"].q["regret"]["kinds"] and records["td"].selection["arm"] == "best_of_n"
    assert records["behavior"].card["episodes"] == 16
    page = write_page(config, list(records.values()), folder).read_text()
    for part in (
        "## Hypotheses",
        "## By split and seed",
        "simulator's own Q",
        "The offline data:",
        "| DigiRL |",
    ):
        assert part in page
    assert (folder / "success.svg").is_file()


def test_the_plan_says_so_where_nothing_is_left(finished, tmp_path, capsys):
    config, cells, folder = finished
    assert not print_plan(config, cells, folder, jobs=1)
    assert "all 7 records are there, so nothing would run" in capsys.readouterr().out
    # Records that were lost are written again from artefacts that are complete.
    assert print_plan(config, cells, tmp_path, jobs=1)
    assert "every stage is complete; only records and page are left" in capsys.readouterr().out


def test_a_finished_study_has_nothing_to_do_even_without_its_artefacts(finished, tmp_path, capsys):
    config, _, folder = finished
    elsewhere = dataclasses.replace(config, output=tmp_path / "gone")
    cells = studies.make_cells(elsewhere, config.seeds)
    studies.run(elsewhere, cells, folder)
    assert "7 of 7 cells have records; 0 of 0 stages" in capsys.readouterr().err
    assert not (tmp_path / "gone").exists()


def test_a_finished_study_has_learned_from_training_episodes_only(finished):
    config, _, _ = finished
    assert check_finished_run(config.output / "store") >= 5
