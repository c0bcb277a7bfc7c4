"""`digiq devices` as a new user meets it, on doubled commands."""

from __future__ import annotations

import json

import pytest

from android_env.emulators.emulator import EmulatorConfig
from android_env.testing.commands import CommandDoubles
from digiq import cli
from digiq.cli import devices
from digiq.cli.devices import StartOptions

QUICK = EmulatorConfig(poll_s=0.05, boot_cap_s=60)


@pytest.fixture
def doubles(tmp_path, monkeypatch):
    with CommandDoubles(tmp_path / "sdk", boot_polls=1) as made:
        for key, value in made.environ.items():
            monkeypatch.setenv(key, value)
        yield made


def run(*arguments, capsys):
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_teaches(capsys):
    assert "digiq devices doctor" in run("--help", capsys=capsys)[1]
    assert (
        run("devices", capsys=capsys)[1] == run("devices", "--help", capsys=capsys)[1] == devices.HELP + "\n"
    )
    out = run("devices", "start", "--help", capsys=capsys)[1]
    assert "--count" in out and "--config.gpu" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["devices", "stop"], "use 'doctor' or 'start'"),
        (["devices", "start", "--count", "0"], "use at least 1"),
        (["devices", "start", "--config.cores", "0"], "cores"),
        (["devices", "start", "--avd", "phnoe"], "no AVD 'phnoe' (there are: template)"),
    ],
)
def test_mistakes_are_one_line(doubles, arguments, message, capsys, tmp_path):
    if "--avd" in arguments:
        arguments = [*arguments, "--run-dir", str(tmp_path / "run")]
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 2 and message in err and "Traceback" not in err and doubles.running == {}


def test_the_doctor_names_what_is_missing_and_how_to_mend_it(doubles, capsys, monkeypatch):
    code, out, _ = run("devices", "doctor", "--count", "2", capsys=capsys)
    assert "ok    SDK" in out and "ok    AVD       template" in out
    monkeypatch.setenv("ANDROID_AVD_HOME", "/nowhere")
    code, out, _ = run("devices", "doctor", capsys=capsys)
    assert code == 1 and "MEND  AVD" in out and "→ make one: sdkmanager" in out and "to mend." in out


def test_start_brings_a_fleet_up_keeps_it_and_stops_it(doubles, capsys, tmp_path):
    looks = []

    def wait():
        looks.append(dict(doubles.running))
        if len(looks) == 1:
            phone = next(iter(doubles.running.values()))
            doubles.end(phone["pid"])
        if len(looks) == 3:
            raise KeyboardInterrupt

    run_dir = tmp_path / "run"
    devices.start(StartOptions(count=4, run_dir=run_dir, config=QUICK), wait)
    out = capsys.readouterr().out
    assert out.count(" up\n") == 4 and f"--device.android.fleet {run_dir}/fleet.json" in out
    assert [len(look) for look in looks] == [4, 4, 4]
    pids = [{phone["pid"] for phone in look.values()} for look in looks]
    assert pids[0] != pids[1] == pids[2], "the one that ended was started again"
    assert len(json.loads((run_dir / "fleet.json").read_text())) == 4
    assert doubles.running == {}


def test_start_with_several_avds_asks_which_and_clones_are_none_of_them(doubles, capsys, tmp_path):
    def stop():
        raise KeyboardInterrupt

    options = StartOptions(run_dir=tmp_path / "run", config=QUICK)
    devices.start(options, stop)
    devices.start(options, stop)  # the clone of the first start is no candidate
    doubles.make_avd("other")
    code, _, err = run("devices", "start", "--run-dir", str(tmp_path / "run"), capsys=capsys)
    assert code == 2 and "there are: other, template" in err
