"""A command that is asked to end does so with one line and the shell's status; the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from digiq.artifacts import read_manifest
from digiq.cli.boundary import one_sentence

COLLECT = ("collect", "--agent.kind", "collector", "--num-episodes", "{n}", "--seed", "3", "--out")


def start(out, episodes: int) -> subprocess.Popen[str]:
    asked = [word.format(n=episodes) for word in COLLECT]
    return subprocess.Popen(
        [sys.executable, "-m", "digiq.cli", *asked, str(out)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_is_asked_to_end_says_how_to_go_on(tmp_path, how, status):
    process = start(tmp_path / "episodes", 40)
    while not any(tmp_path.glob("episodes/*.unfinished")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    assert said.count("the same command goes on from here") == 1 and "Traceback" not in said
    assert start(tmp_path / "episodes", 40).wait(timeout=200) == 0
    assert start(tmp_path / "undisturbed", 40).wait(timeout=200) == 0
    found, whole = (read_manifest(tmp_path / name) for name in ("episodes", "undisturbed"))
    assert found.counts == whole.counts == whole.counts | {"episodes": 40}


SLOW = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
HOW = {
    # A module that takes long: there, an exception could abort a library's own code.
    "import": "import slow",
    # As dataclasses do while they are made: a KeyboardInterrupt on its way through stays with the interpreter.
    "exec": "exec(open('slow.py').read())",
    "run": "import time; print('running', flush=True); time.sleep(60)",
}


@pytest.mark.parametrize("where", HOW)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_wherever_it_is_the_status_and_the_line_are_the_same(tmp_path, where, number, status):
    (tmp_path / "slow.py").write_text(SLOW)
    program = f"from digiq.cli.boundary import one_sentence\nwith one_sentence():\n    {HOW[where]}\n"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert said in tuple(
        f"{how}; the same command goes on from here.\n" for how in ("terminated", "interrupted")
    )


def test_what_is_ignored_stays_ignored_and_handlers_are_given_back():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with one_sentence():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    with one_sentence():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is before


class Complains:
    def __del__(self):
        raise RuntimeError("Event loop is closed")


def test_what_libraries_complain_of_is_left_out_beside_an_error_alone(capsys):
    with pytest.raises(SystemExit), one_sentence():
        Complains()
        raise OSError(28, "No space left on device")
    assert capsys.readouterr().err.count("\n") == 1
    with one_sentence():
        Complains()
    assert "RuntimeError: Event loop is closed" in capsys.readouterr().err
