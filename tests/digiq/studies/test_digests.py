"""The registered study was registered and run under the words of its day. Each of its cells, said in those words again,
has the digest that was recorded, and ``digests.json`` gives it the one that the same cell has now."""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from digiq import artifacts
from digiq.config import load_yaml, to_dict
from digiq.critics.objectives import OBJECTIVES
from digiq.studies import run as studies
from digiq.studies.config import StudyConfig, kernel_digest
from digiq.studies.records import read_records, read_renamed
from digiq.vlm.prompts import load_template

FOLDER = Path("docs/results/core")
CONTROL = "digiq.laboratory.controls:"
# As they were on the day: what is added later was no part of the words.
OBJECTIVES_THEN = ("td", "mc", "nstep", "td_lambda", "iql", "cql", "cal_ql")


def device_then(config: Any) -> dict[str, Any]:
    about = to_dict(config)
    assert about.pop("judge") == {"name": None} and about["name"] == "simulated"
    android = {"fleet": "runs/devices/fleet.json", "server": "", "allow_insecure": []}
    return about | about.pop("simulated") | android


def fit_then(config: Any) -> dict[str, Any]:
    about = to_dict(config)
    assert about.pop("policy") == "grid" and about.pop("epochs") is None
    return about | about.pop("grid")


def words_then(stage: str, config: Any, seed: int) -> dict[str, Any]:
    """A stage's config as it was written when the study was registered; ``seed`` is the run's."""
    about = to_dict(config)
    if isinstance(about.get("device"), dict):
        about["device"] = device_then(config.device)
    if stage == "fit-policy":
        assert about.pop("policy") == "grid"
        about |= {"policy": about.pop("grid"), "fit": fit_then(config.fit)}
    elif stage == "evaluate":
        assert about.pop("repeats") == 0 and about.pop("record_all") is False
    elif stage == "card":
        about["episodes"] = about.pop("valued")
    elif stage == "q-metrics":
        about["episodes"] = about.pop("rollouts")
    elif stage == "propose":
        assert about.pop("source") == "policy"
        about |= about.pop("policy")
    elif stage == "label":
        shuffle = about["source"] == f"{CONTROL}ShuffledOutcomes"
        assert shuffle or about["source"] == "outcome"
        about = {"negatives": "none", "copies": 1, "shuffle": shuffle, "seed": _seed(seed, "rewards")}
    elif stage == "featurize":
        # The embedded model's own prompt, which had not been given a name, and its spans and pooling.
        assert (about.pop("prompt"), about.pop("history"), about["pooling"]) == ("auto", 0, "auto")
        assert about["pair_spans"] == about["observation_spans"] == []
        readout = load_template("readout")
        about |= {
            "pair_spans": [*readout.pair],
            "observation_spans": [*readout.observation],
            "pooling": "last",
        }
        engine, own = about.pop("engine"), about.pop("own", {})
        about.pop("plain", None)
        kind = engine.removeprefix(CONTROL)
        sources = {"RandomVlm": "random_vlm", "TextFeatures": "text", "ElementFeatures": "elements"}
        about |= {"source": sources.get(kind, "vlm"), "permute": kind == "PermutedFeatures"}
        about["seed"] = _seed(seed, "features")
        assert own in ({}, {"seed": about["seed"]})
    elif stage == "tune-vlm":
        assert about.pop("prompt") == "auto"
    elif stage == "train-q":
        critic = about["critic"]
        critic.pop(critic["objective"])
        assert critic.pop("passes") is None
        assert critic["heads"].pop("matmul_precision") == "highest"  # what CPUs do under JAX's default
        critic["settings"] = {name: to_dict(getattr(config.critic, name)) for name in OBJECTIVES_THEN}
    elif stage == "distill":
        arms = {"best_of_n": "digiq", "filtered_bc": "filtered_bc", "digirl": "digirl"}
        values = {"critic": "critic", f"{CONTROL}ExactValues": "exact", f"{CONTROL}RandomValues": "random"}
        about["arm"] = arms[about.pop("objective")]
        about["values"] = values[about["values"]["source"]]
        about["fit"] = fit_then(config.fit)
        about |= {name: to_dict(getattr(config, name)) for name in arms}
    return about


def _seed(seed: int, name: str) -> int:
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF


def digest_then(cell: studies.Cell) -> str:
    """What :attr:`Cell.digest` was."""
    names: dict[str, str] = {}
    for node in cell.nodes:
        stage = node.out.name.rpartition("-")[0]
        version = {"evaluate": 2, "card": 2}.get(stage, 1)
        inputs = {
            name: names[path.name] if path.name in names else artifacts.content_digest(path)
            for name, path in node.inputs.items()
        }
        digest = studies._digest([stage, version, words_then(stage, node.config, cell.seed), inputs])
        names[node.out.name] = f"{stage}-{digest[:16]}"
    return studies._digest(sorted(names[path.name] for path in cell.parts.values()))


@pytest.fixture(scope="module")
def core() -> StudyConfig:
    return load_yaml(StudyConfig, "configs/study/core.yaml")


@pytest.fixture(scope="module")
def cells(core) -> list[studies.Cell]:
    return studies.make_cells(core, core.seeds)


def test_every_cell_is_the_recorded_one_in_other_words(cells):
    recorded, renamed = {r.name: r.digest for r in read_records(FOLDER)}, read_renamed(FOLDER)
    assert set(recorded) == {cell.record for cell in cells}
    for cell in cells:
        assert digest_then(cell) == recorded[cell.record], cell.record
        assert renamed[recorded[cell.record]] == cell.digest, cell.record


def test_the_grid_is_the_registered_one_in_other_words(core, cells):
    renamed = read_renamed(FOLDER)
    then = load_yaml(StudyConfig, FOLDER / "registered.yaml")
    about = {key: value for key, value in to_dict(then).items() if key not in studies._NOT_GRID}
    listed = sorted(f"{cell.record}.jsonl {digest_then(cell)}" for cell in cells)
    assert (
        studies._digest([about, listed, kernel_digest()]) == then.registration.grid == core.registration.grid
    )
    assert renamed[core.registration.grid] == studies.grid_digest(core)
    # What is no recipe is word for word the same.
    for field in dataclasses.fields(StudyConfig):
        if field.name not in ("recipe", "arms", "sweeps", "tuning"):
            assert getattr(then, field.name) == getattr(core, field.name), field.name


def test_the_map_has_no_line_too_many(core, cells):
    renamed = read_renamed(FOLDER)
    assert len(set(renamed.values())) == len(renamed)
    assert set(renamed) == {r.digest for r in read_records(FOLDER)} | {core.registration.grid}
    assert set(OBJECTIVES_THEN) <= set(OBJECTIVES)


def test_no_cell_of_it_needs_to_run_again(cells):
    assert studies.open_cells(cells, FOLDER) == []


if __name__ == "__main__":
    study = load_yaml(StudyConfig, "configs/study/core.yaml")
    planned = studies.make_cells(study, study.seeds)
    lines = {digest_then(cell): cell.digest for cell in planned}
    lines[study.registration.grid] = studies.grid_digest(study)
    about = "Digests as recorded, and those of the same cells and grid now that their configs are said in other words."
    print(json.dumps({"about": about, "renamed": dict(sorted(lines.items()))}, indent=1))
