"""Whatever goes wrong is one sentence with the file and the mend; ``--debug`` shows where."""

import errno
import os
import subprocess
import sys

import pytest

from digiq import cli
from digiq.cli.boundary import explain
from digiq.errors import ConfigError, DigiQError
from digiq.extras import EXTRAS


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("# für\nseed: 3\n".encode("latin-1"), "r.yaml: not UTF-8 text (byte 3); save it as UTF-8"),
        ("seed: 3\n".encode("utf-16"), "r.yaml: not UTF-8 text"),
        (
            b"seed: 3\nname: a\nseed: 5\n",
            "r.yaml: not valid YAML: line 3: the key 'seed' is repeated",
        ),
        (b"train_q: {seed: 1, seed: 2}\n", "the key 'seed' is repeated"),
        (b"", "r.yaml: is empty; write at least one field"),
        (b"# nothing\n", "r.yaml: is empty"),
        (b"[1, 2]\n", "r.yaml: expected a mapping of Recipe fields, got list"),
        (b"propose: {num_candidates: -3}\n", "r.yaml: propose.num_candidates = -3"),
    ],
)
def test_recipes_as_people_write_them(tmp_path, capsys, data, message):
    file = tmp_path / "r.yaml"
    file.write_bytes(data)
    code, _, err = run("run", file, capsys=capsys)
    assert code == 2 and message in err and "Traceback" not in err


def test_a_byte_order_mark_and_umlauts_are_read(tmp_path):
    from digiq.config import load_yaml
    from digiq.pipeline.recipe import Recipe

    file = tmp_path / "r.yaml"
    file.write_bytes("\ufeff# für Tests\nname: bom\r\n".encode())
    assert load_yaml(Recipe, file).name == "bom"
    # Whatever the locale says.
    code = f"from digiq.config import load_yaml; from digiq.pipeline.recipe import Recipe; print(load_yaml(Recipe, {str(file)!r}).name)"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ascii_only)
    assert done.stdout.strip() == "bom", done.stderr


def test_places_that_cannot_be_written(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    for out in (file / "inside", "/proc/nowhere"):
        code, _, err = run(
            "collect", "--out", out, "--agent.kind", "collector", "--num-episodes", "1", capsys=capsys
        )
        assert code == 2 and str(out).split("/inside")[0] in err and "Traceback" not in err, err


def test_debug_shows_where(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIGIQ_DEBUG", "0")
    (tmp_path / "f").write_text("")
    code, _, err = run("--debug", "collect", "--out", tmp_path / "f" / "x", capsys=capsys)
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("a.yaml: b = 3: too much."), "a.yaml: b = 3: too much."),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "pip install digiq[vlm]"),
        (
            ModuleNotFoundError("No module named 'appium.webdriver'", name="appium.webdriver"),
            "pip install digiq[appium]",
        ),
        (OSError(errno.ENOSPC, "full", "/d/x"), "/d/x: No space left on device; free some space"),
        (PermissionError(errno.EACCES, "no", "/d/y"), "/d/y: Permission denied; name a place"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not UTF-8"),
        (ValueError("odd\n thing"), "ValueError: odd thing (this error is unexpected"),
    ],
)
def test_errors_of_others_say_the_mend(error, said):
    assert said in explain(error)


def test_a_full_disk_is_said_whoever_passes_it_on():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as inner:
            raise RuntimeError("write failed") from inner
    except RuntimeError as outer:
        assert "No space left on device; free some space" in explain(outer)
    assert "free some" in explain(ValueError("tensorstore: [No space left on device] writing chunk"))


def test_every_package_of_an_extra_is_known():
    import re
    import tomllib
    from pathlib import Path

    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    imports = {"appium-python-client": "appium"}
    for extra in ("vlm", "appium", "miniwob"):
        for requirement in extras[extra]:
            name = re.match(r"[\w-]+", requirement)[0].lower()
            assert EXTRAS[imports.get(name, name)] in (extra, "appium")
    assert issubclass(ConfigError, DigiQError)
