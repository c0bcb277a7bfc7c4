"""Records read back as they were written, and only records of the wanted cell are believed."""

import dataclasses

import pytest

from digiq.errors import ArtifactError
from digiq.evaluation.outcomes import Outcome
from digiq.studies.records import CellRecord, EpisodeRecord, read_record, read_records, write_record

RECORD = CellRecord(
    arm="td",
    seed=100,
    sweep="noise",
    point="x2",
    digest="abc",
    tasks="webshop/test",
    selection={"share_kept": 0.5},
    q={"regret": {"weighted": 0.1}},
    seconds={"distill": 3.2},
    episodes=(
        EpisodeRecord("webshop/1/a.com/0", "test_site", 0, Outcome.SUCCESS, 4),
        EpisodeRecord("webshop/1/a.com/0", "test_site", 1, Outcome.INFRA_ERROR, 0, 0.25),
    ),
)


def test_a_record_reads_back(tmp_path):
    path = write_record(RECORD, tmp_path)
    assert path.name == "noise-x2-td.100.jsonl"
    assert read_record(path) == RECORD
    assert read_records(tmp_path) == [RECORD] and read_records(tmp_path / "nowhere") == []


def test_exact_success_stands_for_the_sample_and_faults_are_no_success():
    sampled, exact = RECORD.episodes
    assert sampled.success == 1.0 and exact.success == 0.25
    assert dataclasses.replace(exact, exact=None).success == 0.0


def test_a_damaged_record_is_named(tmp_path):
    path = write_record(RECORD, tmp_path)
    path.write_text(path.read_text().replace("infra_error", "bored"))
    with pytest.raises(ArtifactError, match=r"noise-x2-td\.100\.jsonl"):
        read_record(path)
