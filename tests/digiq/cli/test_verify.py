"""``digiq verify`` reads every file again, whatever was verified before, and names what is wrong."""

import json
import os

import numpy as np
import pytest

from digiq import artifacts, cli
from digiq.errors import ArtifactError
from digiq.features.store import RowStore, row_key


def verify(root, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(root)])
    return stop.value.code, capsys.readouterr().out


@pytest.fixture
def run(tmp_path):
    for name in ("a", "b"):
        with artifacts.write(tmp_path / name, stage="s", version=1, config={"x": 1}) as writer:
            (writer.path / "data").write_bytes(bytes(range(256)) * 16)
            (writer.path / "more.json").write_text("{}")
            writer.complete()
    return tmp_path


def test_a_whole_run_is_ok(run, capsys):
    code, out = verify(run, capsys)
    assert code == 0 and out.count("ok ") == 2 and "Everything is as it was written" in out


def test_the_command_that_mends_a_run_is_named(run, capsys):
    (run / "recipe.json").write_text("{}")
    with pytest.raises(SystemExit):
        cli.main(["verify", str(run)])
    assert f"Next: digiq status {run}" in capsys.readouterr().err
    damage(run / "b" / "data", "flip")
    with pytest.raises(SystemExit):
        cli.main(["verify", str(run)])
    assert f"Next: rm -r {run / 'b'} && digiq run {run / 'recipe.json'}" in capsys.readouterr().err


def damage(file, how):
    data = bytearray(file.read_bytes())
    times = file.stat()
    if how == "delete":
        file.unlink()
        return
    if how == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes(data[: len(data) // 2] if how == "truncate" else data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("name", ["data", "more.json"])
def test_damage_is_named_also_with_the_files_time_set_back(run, capsys, name, how):
    opened = artifacts.open(run / "a")  # verified already, in this very process
    damage(run / "a" / name, how)
    code, out = verify(run, capsys)
    assert (
        code == 1
        and f"WRONG  {run / 'a'}" in out
        and str(run / "a" / name) in out
        and "1 of 2 to rebuild" in out
    )
    with pytest.raises(ArtifactError, match=name):
        artifacts.open(opened.path)


@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_a_changed_manifest_is_named(run, capsys, how):
    damage(run / "b" / "manifest.json", how)
    code, out = verify(run, capsys)
    assert code == 1 and "manifest.json" in out
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        artifacts.open(run / "b")


def test_a_manifest_that_is_gone_is_named(run, capsys):
    (run / "b" / "manifest.json").unlink()
    code, out = verify(run, capsys)
    assert code == 1 and f"{run / 'b' / 'manifest.json'}: missing" in out and "1 of 2 to rebuild" in out


def test_rows_of_features_beside_the_artefacts_are_none_of_them(run, capsys):
    store = RowStore(run / "feature_rows", "group", ("layer_01",), 4)
    with store.lock():
        store.append([row_key("a")], np.ones((1, 1, 4), np.float32))
    code, out = verify(run, capsys)
    assert code == 0 and out.count("ok ") == 2


def test_every_word_of_a_manifest_counts(run):
    file = run / "a" / "manifest.json"
    about = json.loads(file.read_text())
    for key in ("stage", "version", "config", "inputs", "counts", "files", "extra", "environment"):
        changed = {**about, key: {"stage": "t", "version": 2}.get(key, {"y": 2})}
        file.write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match="was changed"):
            artifacts.read_manifest(run / "a")
    del about["checksum"]
    file.write_text(json.dumps(about))
    with pytest.raises(ArtifactError, match="was changed"):
        artifacts.read_manifest(run / "a")


def test_one_run_verifies_once_and_believes_no_other(run, monkeypatch):
    reads = []
    digest = artifacts._digest_file
    monkeypatch.setattr(artifacts, "_digest_file", lambda path: reads.append(path.name) or digest(path))
    monkeypatch.setattr(artifacts, "_noted", {})
    with artifacts.verified_once(run / "notes"):
        artifacts.open(run / "a")
        assert sorted(reads) == ["data", "more.json"]
        artifacts._noted.clear()  # as another process of the run would find it
        artifacts.open(run / "a")
        assert len(reads) == 2
        artifacts._noted.clear()
        damage(run / "a" / "data", "flip")
        with pytest.raises(ArtifactError, match="checksum differs"):
            artifacts.open(run / "a")
        damage(run / "a" / "data", "flip")
    artifacts._noted.clear()
    reads.clear()
    with artifacts.verified_once(run / "notes"):
        artifacts.open(run / "a")
    assert len(reads) == 2


def test_a_directory_that_nothing_vouches_for_is_refused(tmp_path):
    (tmp_path / "x").write_text("1")
    with pytest.raises(ArtifactError, match=r"neither manifest\.json nor checksums\.json"):
        artifacts.check_directory(tmp_path, ("s",))
    artifacts.write_checksums(tmp_path)
    artifacts.check_directory(tmp_path, ("s",))
    (tmp_path / "x").write_text("2")
    with pytest.raises(ArtifactError, match="x: checksum differs"):
        artifacts.check_directory(tmp_path, ("s",))
