"""The page of a study: right numbers, and the same bytes from the same records."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from digiq.config import load
from digiq.evaluation.outcomes import Outcome
from digiq.studies.analysis import analysis_digest
from digiq.studies.config import StudyConfig, TuningConfig
from digiq.studies.page import make_page, write_page
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
    "support": {"kept": 0.5, "logged": 0.4, "likelihood": [0.1, 0.5, 1.0]}, "right": 0.875,
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
            "little": {
                "text": "TD adds little", "arm": "td", "over": ["bc"], "measure": "difference", "at_most": 0.9,
                "alone": True,
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


def line(page: str, start: str) -> str:
    return next(found for found in page.splitlines() if found.startswith(start))


def test_the_page_holds_the_numbers_of_the_records():
    page, images = make_page(CONFIG, RECORDS, prefix="mini/", comment="For anyone.\n\nFor few.\n")
    assert page.startswith("# Mini study\n\nFor anyone.\n\n![Success by arm](mini/success.svg)\n\n| arm |")
    assert page.endswith("\n\nFor few.\n") and set(images) == {"success.svg"}
    assert "points over BC" in page and line(page, "| BC | 30.0 (").endswith(" |  | 20.0 |  |")
    assert "| +30.0 (+27.5 to +32.5) | 50.0 | 87.5 |" in line(page, "| TD | 60.0 (")
    assert "59.0 60.0 61.0" in page
    assert line(page, "| extraction") == "| extraction | TD | BC | +30.0 (+27.5 to +32.5) |"
    assert "| late | TD | Late | not run |" in page
    assert "| TD | 90.0 (" in page  # the sweep's other point
    assert "| TD | 0.050 | 0.800 | 0.400 | results | 3 |" in page
    assert "succeeded in 25.0 %" in page and "30.0 % of 1, 60.0 % of 4" in page


def test_the_page_shows_both_intervals_of_a_hypothesis_and_what_decides_it():
    page, _ = make_page(CONFIG, RECORDS)
    little = line(page, "| **little**")
    assert "TD − BC ≤ 90 points | +30.0 (+27.5 to +32.5) | +30.0 (" in little
    assert little.endswith("| < 0.001 | held |")
    assert "TD / BC ≥ 1.30 |  | 2.00 (" in line(page, "| main |")
    assert "the best of BC, Behaviour ≥ 5.00" in page
    assert line(page, "| late | Late is best").endswith("| no common episodes yet |  | not run |")


def test_the_page_counts_the_trials_of_each_arm():
    tuning = TuningConfig(seeds=(100, 101), trials={"bc": ({}, {}), "td": ({}, {})})
    page, _ = make_page(dataclasses.replace(CONFIG, tuning=tuning), RECORDS[:1])
    assert "on seeds 100, 101 and the tasks `webshop/tune`; trials by arm: BC 2, TD 2." in page


def test_the_page_says_if_the_analysis_is_not_the_registered_one():
    def page(digest: str) -> str:
        registered = dataclasses.replace(CONFIG.registration, analysis=digest)
        return make_page(dataclasses.replace(CONFIG, registration=registered), RECORDS[:1])[0]

    changed = "code of the analysis is not the registered one"
    assert changed in page("other") and changed not in page("") and changed not in page(analysis_digest())


def test_half_a_study_has_a_page_too():
    page, images = make_page(CONFIG, RECORDS[:1])
    assert "no common episodes yet" in page and set(images) == {"success.svg"}
    page, images = make_page(dataclasses.replace(CONFIG, hypotheses={}), [])
    assert "## Hypotheses" not in page and not images


def test_the_same_records_give_the_same_bytes_in_another_process(tmp_path):
    config = dataclasses.replace(CONFIG, results=tmp_path / "results")
    folder = tmp_path / "results" / "mini"
    folder.mkdir(parents=True)
    for one in reversed(RECORDS):
        write_record(one, folder)
    page = write_page(config, read_records(folder), folder)
    assert page == tmp_path / "results" / "mini.md"
    first = {path.name: path.read_bytes() for path in [page, *folder.glob("*.svg")]}
    assert len(first) == 2
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


def test_the_page_of_a_study_that_is_history_is_not_written_over(tmp_path):
    closed = dataclasses.replace(CONFIG.registration, closed="it is over")
    config = dataclasses.replace(
        CONFIG, results=tmp_path / "results", output=tmp_path / "run", registration=closed
    )
    page = write_page(config, RECORDS, tmp_path / "results" / "mini")
    assert page == tmp_path / "run" / "page.md" and not (tmp_path / "results").exists()
    assert "](success.svg)" in page.read_text() and (tmp_path / "run" / "success.svg").is_file()
