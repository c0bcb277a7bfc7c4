"""Records read back as they were written, and only records of the wanted cell are believed."""

import dataclasses

import pytest

from digiq.errors import ArtifactError
from digiq.evaluation.outcomes import Outcome
from digiq.studies.records import CellRecord, EpisodeRecord, read_records, write_record, write_records

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


def test_records_read_back_from_one_file_in_the_order_of_their_names(tmp_path):
    other = dataclasses.replace(RECORD, arm="bc", seed=7, sweep="", point="", selection=None)
    without = dataclasses.replace(RECORD, seed=101, episodes=RECORD.episodes[:1])
    path = write_record(RECORD, tmp_path)
    for record in (other, without):
        write_record(record, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] == ["records.jsonl"]
    assert read_records(tmp_path) == [other, RECORD, without]
    assert [r.name for r in read_records(tmp_path)] == ["bc.7", "noise-x2-td.100", "noise-x2-td.101"]
    assert read_records(tmp_path / "nowhere") == []
    # Cells of the same episodes share their plan, and the order of writing leaves no trace.
    lines = path.read_bytes()
    assert lines.count(b'"plan"') == 2
    assert write_records([without, RECORD, other], tmp_path).read_bytes() == lines


def test_a_record_takes_the_place_of_the_cells_earlier_one(tmp_path):
    write_record(RECORD, tmp_path)
    later = dataclasses.replace(RECORD, digest="def")
    write_record(later, tmp_path)
    assert read_records(tmp_path) == [later]


def test_exact_success_stands_for_the_sample_and_faults_are_no_success():
    sampled, exact = RECORD.episodes
    assert sampled.success == 1.0 and exact.success == 0.25
    assert dataclasses.replace(exact, exact=None).success == 0.0


@pytest.mark.parametrize(
    ("old", "new"),
    [('"outcomes":"si"', '"outcomes":"sx"'), ('"of_plan":"', '"of_plan":"0'), ("[4,0]", "[4]"), ("{", "")],
)
def test_a_damaged_record_is_named(tmp_path, old, new):
    path = write_record(RECORD, tmp_path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ArtifactError, match=r"records\.jsonl: line \d is not a readable record"):
        read_records(tmp_path)
