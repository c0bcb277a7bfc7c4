"""Artefacts: done, resumed, refused; damage is named; writes are atomic."""

import json

import pytest

from digiq import artifacts
from digiq.errors import ArtifactError, ArtifactMismatch


def make(path, config=None, inputs=None, text="hello", **options):
    with artifacts.write(
        path, stage="propose", version=1, config=config or {"n": 8}, inputs=inputs, **options
    ) as w:
        if not w.done:
            artifacts.atomic_write_text(w.path / "data.txt", text)
            w.complete(counts={"rows": 1})
        return w.artifact


def test_complete_means_nothing_to_do(tmp_path):
    first = make(tmp_path / "a")
    again = make(tmp_path / "a", text="other")
    assert (again.path / "data.txt").read_text() == "hello"
    assert again.manifest.digest == first.manifest.digest
    assert artifacts.is_complete(tmp_path / "a", stage="propose", version=1, config={"n": 8}, inputs={})
    assert not artifacts.is_complete(tmp_path / "a", stage="propose", version=2, config={"n": 8}, inputs={})


def test_partial_is_resumed_with_its_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), artifacts.write(tmp_path, stage="s", version=1, config={}) as w:
        artifacts.atomic_write_text(w.path / "half.txt", "1")
        raise KeyboardInterrupt
    with pytest.raises(ArtifactError, match="has not finished"):
        artifacts.open(tmp_path)
    with artifacts.write(tmp_path, stage="s", version=1, config={}) as w:
        assert not w.done
        assert (w.path / "half.txt").read_text() == "1"


def test_another_config_is_refused_by_name_and_overwrite_clears(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(ArtifactMismatch, match=r"config n is 8 there and 16 here"):
        make(tmp_path / "a", config={"n": 16})
    assert (tmp_path / "a/data.txt").read_text() == "hello"
    make(tmp_path / "a", config={"n": 16}, text="new", overwrite=True)
    assert (tmp_path / "a/data.txt").read_text() == "new"


def test_inputs_count_by_content(tmp_path):
    make(tmp_path / "in", text="one")
    make(tmp_path / "out", inputs={"episodes": tmp_path / "in"})
    make(tmp_path / "in", text="two", overwrite=True)
    with pytest.raises(ArtifactMismatch, match="input episodes"):
        make(tmp_path / "out", inputs={"episodes": tmp_path / "in"})
    with pytest.raises(ArtifactError, match="no such file"):
        make(tmp_path / "other", inputs={"episodes": tmp_path / "nowhere"})


def test_foreign_directories_are_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"files of no artefact \(thesis.tex\)"):
        make(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_wrong_stage_and_missing_manifest(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="made by 'propose', but a 'critic'"):
        artifacts.open(tmp_path / "a", stage="critic")
    with pytest.raises(ArtifactError, match=r"no manifest.json"):
        artifacts.open(tmp_path / "nowhere")


def test_verify_finds_a_changed_file(tmp_path):
    artifact = make(tmp_path / "a")
    artifact.verify()
    (tmp_path / "a/data.txt").write_text("hellO")
    with pytest.raises(ArtifactError, match=r"data.txt: checksum differs"):
        artifact.verify()
    (tmp_path / "a/data.txt").unlink()
    with pytest.raises(ArtifactError, match=r"data.txt: missing"):
        artifact.verify()


def test_one_writer_at_a_time(tmp_path):
    with (
        artifacts.write(tmp_path, stage="s", version=1, config={}),
        pytest.raises(ArtifactError, match="another process"),
        artifacts.write(tmp_path, stage="s", version=1, config={}),
    ):
        pass


def test_a_failed_atomic_write_leaves_the_old_bytes(tmp_path):
    file = tmp_path / "x.json"
    artifacts.atomic_write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        artifacts.atomic_write_json(file, {"a": object()})
    with pytest.raises(RuntimeError), artifacts.atomic_path(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_logs_do_not_change_the_content_digest(tmp_path):
    first = make(tmp_path / "a")
    with artifacts.write(tmp_path / "b", stage="propose", version=1, config={"n": 8}) as w:
        artifacts.atomic_write_text(w.path / "data.txt", "hello")
        artifacts.atomic_write_text(w.path / "metrics.jsonl", "12:00")
        second = w.complete()
    assert first.manifest.digest == second.manifest.digest
