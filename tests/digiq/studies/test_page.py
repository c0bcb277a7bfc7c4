"""The page of a study: right numbers, honest verdicts, and the same bytes from the same records."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from digiq.config import load
from digiq.evaluation.outcomes import Outcome
from digiq.studies.config import StudyConfig
from digiq.studies.page import compare, judge, make_page, write_page
from digiq.studies.records import CellRecord, EpisodeRecord, read_records, write_record

Q = {
    "regret": {
        "weighted": 0.05, "covered": 0.9, "plain": 0.07, "worst": "results",
        "kinds": {
            "launcher": {"states": 10, "visits": 0.4, "regret": 0.01},
            "results": {"states": 5, "visits": 0.5, "regret": 0.092},
        },
    },
    "pairwise_best": 0.8, "pairwise_policy": 0.75,
    "reliability": {"predicted": [0.1, 0.4], "observed": [0.2, 0.3], "count": [5, 5], "ece": 0.1, "bias": 0.0},
    "support": {"kept": 0.5, "logged": 0.4, "likelihood": [0.1, 0.5, 1.0]},
}  # fmt: skip
CARD = {
    "success": 0.25, "mistakes": {"right": 0.4, "no_op": 0.6},
    "best_probability": {"0.1": 0.01, "0.5": 0.2}, "coverage": {"1": 0.3, "4": 0.6},
}  # fmt: skip


def record(arm, seed, rate, sweep="", point="", **fields) -> CellRecord:
    episodes = tuple(
        EpisodeRecord(f"task{t}", "test_query" if t % 2 else "test_site", i, _outcome(t, i, rate), 5)
        for t in range(20)
        for i in range(5)
    )
    return CellRecord(
        arm=arm, seed=seed, sweep=sweep, point=point, digest="d", tasks="webshop/test", episodes=episodes,
        seconds={"distill": 10.0}, **fields,
    )  # fmt: skip


def _outcome(task, index, rate):
    return Outcome.SUCCESS if (task * 5 + index) % 100 < 100 * rate else Outcome.FAILURE


CONFIG = load(
    StudyConfig,
    {
        "name": "mini", "title": "Mini study", "seeds": [100, 101, 102], "recipe": {},
        "arms": {
            "behavior": {"title": "Behaviour", "role": "reference", "acts": "behavior"},
            "bc": {"title": "BC", "role": "baseline"},
            "td": {"title": "TD", "role": "method"},
            "late": {"title": "Late", "role": "method"},
        },
        "sweeps": {
            "noise": {
                "title": "Noise", "arms": ["td"], "base": "x1", "order": ["x0", "x1"], "points": {"x0": {}}
            }
        },
        "losses": [
            {"part": "extraction", "upper": "td", "lower": "bc"}, {"part": "late", "upper": "td", "lower": "late"},
        ],
        "hypotheses": {
            "main": {"text": "TD is better.", "arm": "td", "over": ["bc"], "at_least": 1.3},
            "huge": {"text": "TD is huge", "arm": "td", "over": ["bc", "behavior"], "at_least": 5.0},
            "small": {
                "text": "TD adds little", "arm": "td", "over": ["bc"], "measure": "difference", "at_most": 0.9
            },
            "late": {"text": "Late is best", "arm": "late", "over": ["bc"], "at_least": 1.0},
        },
    },
)  # fmt: skip
RECORDS = [
    *(record("behavior", s, 0.2, card=CARD) for s in (100, 101, 102)),
    *(record("bc", s, 0.3, selection={"share_kept": 0.2}) for s in (100, 101, 102)),
    *(record("td", s, 0.6 + 0.01 * (s - 101), q=Q, selection={"share_kept": 0.5}) for s in (100, 101, 102)),
    record("td", 100, 0.9, "noise", "x0"),
]


def test_the_page_holds_the_numbers_of_the_records():
    page, images = make_page(CONFIG, RECORDS, prefix="mini/", comment="What a person says.")
    assert page.startswith("# Mini study\n\nWhat a person says.\n\n**Held**: TD is better")
    row = next(line for line in page.splitlines() if line.startswith("| TD | method"))
    assert "60.0 (" in row and "59.0 60.0 61.0" in row and "| 50.0 |" in row
    assert "![Success by arm](mini/success.svg)" in page
    assert set(images) == {"success.svg", "reliability.svg", "noise.svg"}
    lost = next(line for line in page.splitlines() if line.startswith("| extraction"))
    assert lost.startswith("| extraction | TD | BC | +30.0 (") and "| late | TD | Late | not run |" in page
    assert "| TD | 90.0 (" in page  # the sweep's other point
    assert next(x for x in page.splitlines() if x.startswith("| results |")).endswith("| 0.092 | 0.046 |")
    assert "25.0 | right 40, no_op 60 | 0.01 / 0.20 | 0.30 / 0.60 |" in page


def test_verdicts_follow_the_whole_interval():
    base = {(r.arm, r.seed): r for r in RECORDS if not r.sweep}
    words = {name: judge(h, base).word for name, h in CONFIG.hypotheses.items()}
    assert words == {"main": "held", "huge": "not held", "small": "held", "late": "not run"}
    close = dataclasses.replace(CONFIG.hypotheses["main"], at_least=2.0)
    assert judge(close, base).word == "undecided"
    tie = dataclasses.replace(close, over=("td",), measure="difference", at_least=0.0)
    assert judge(tie, base).word == "undecided"


def test_comparisons_are_paired_and_take_the_best_of_the_others():
    groups = {"a": [record("a", 1, 0.5)], "b": [record("b", 1, 0.25)], "c": [record("c", 1, 0.4)]}
    assert compare(groups, "a", ["b", "c"], "ratio").value == pytest.approx(1.25)
    assert compare(groups, "a", ["b", "c"], "difference").value == pytest.approx(0.1)
    assert np.isnan(compare(groups, "a", ["nobody"], "ratio").value)


def test_half_a_study_has_a_page_too():
    page, images = make_page(CONFIG, RECORDS[:1])
    assert "no common episodes yet" in page and set(images) == {"success.svg"}
    assert "No hypothesis" in make_page(dataclasses.replace(CONFIG, hypotheses={}), [])[0]


def test_the_same_records_give_the_same_bytes_in_another_process(tmp_path):
    config = dataclasses.replace(CONFIG, results=tmp_path / "results")
    folder = tmp_path / "results" / "mini"
    folder.mkdir(parents=True)
    for one in reversed(RECORDS):
        write_record(one, folder)
    page = write_page(config, read_records(folder), folder)
    assert page == tmp_path / "results" / "mini.md"
    first = {path.name: path.read_bytes() for path in [page, *folder.glob("*.svg")]}
    assert len(first) == 4
    code = (
        "import dataclasses, pathlib, sys; from tests.digiq.studies import test_page as t;"
        "root = pathlib.Path(sys.argv[1]); c = dataclasses.replace(t.CONFIG, results=root);"
        "t.write_page(c, t.read_records(root / 'mini'), root / 'mini')"
    )
    for path in [page, *folder.glob("*.svg")]:
        path.unlink()
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "results")], check=True, env=environment, cwd=Path.cwd()
    )
    assert {path.name: path.read_bytes() for path in [page, *folder.glob("*.svg")]} == first


def test_tuning_seeds_never_write_the_results_page(tmp_path):
    config = dataclasses.replace(CONFIG, results=tmp_path / "results")
    page = write_page(config, RECORDS, tmp_path / "run" / "records")
    assert page == tmp_path / "run" / "records" / "page.md" and not (tmp_path / "results").exists()
