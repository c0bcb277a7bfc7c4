"""The doctor: what it finds on a machine, and that each finding comes with its mend."""

from __future__ import annotations

import json
import socket

import pytest

from android_env.emulators import doctor
from android_env.errors import SetupError
from android_env.testing.commands import CommandDoubles


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that has everything; returns the arguments of `examine` for it."""
    with CommandDoubles(tmp_path) as doubles:
        (kvm := tmp_path / "kvm").touch()
        (meminfo := tmp_path / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n")
        driver = tmp_path / "appium/node_modules/appium-uiautomator2-driver/package.json"
        driver.parent.mkdir(parents=True)
        driver.write_text("{}")
        monkeypatch.setattr(doctor, "find_appium", lambda: (["appium"], tmp_path / "appium"))
        monkeypatch.setattr(doctor, "port_is_free", lambda port: True)
        monkeypatch.setattr(doctor.sys, "platform", "linux")
        environ = {**doubles.environ, "JAVA_HOME": "/usr/lib/jvm"}
        yield {"environ": environ, "kvm": kvm, "meminfo": meminfo, "free_bytes": lambda path: 100 * 10**9}


def wrong(machine, count=1, **changes):
    findings = doctor.examine(count, **{**machine, **changes})
    for finding in findings:
        assert finding.ok == (not finding.mend) and finding.says
        assert finding.check in str(finding) and finding.mend in str(finding)
    return {finding.check: finding for finding in findings if not finding.ok}


def test_a_sound_machine_has_nothing_to_mend_and_nothing_is_started(machine, tmp_path):
    assert wrong(machine, 4) == {}
    assert {f.check for f in doctor.examine(**machine)} == {
        *("SDK", "KVM", "AVD", "Appium", "driver", "Java", "client", "ports", "disk", "memory")
    }
    calls = (tmp_path / "state/calls.jsonl").read_text().splitlines()
    assert {tuple(json.loads(call)) for call in calls} == {("adb", "version"), ("emulator", "-version")}


def test_no_sdk(machine):
    found = wrong(machine, environ={"HOME": "/nowhere", "PATH": ""})
    assert "ANDROID_HOME" in found["SDK"].mend and "avdmanager" in found["AVD"].mend


def test_an_sdk_that_appium_would_not_find(machine, tmp_path):
    (tmp_path / "Android").mkdir()
    (tmp_path / "Android" / "Sdk").symlink_to(tmp_path / "sdk")
    environ = {**machine["environ"], "ANDROID_HOME": ""}
    assert wrong(machine, environ=environ)["SDK"].mend == f"export ANDROID_HOME={tmp_path}/Android/Sdk"
    assert "SDK" not in wrong(machine, environ={**environ, "ANDROID_SDK_ROOT": str(tmp_path / "sdk")})


def test_a_tool_that_does_not_run(machine, tmp_path):
    (tmp_path / "sdk/emulator/emulator").write_text("#!/bin/sh\necho 'cannot load libpulse' >&2; exit 1\n")
    assert "libpulse" in wrong(machine)["SDK"].says


def test_kvm(machine, tmp_path, monkeypatch):
    assert "BIOS" in wrong(machine, kvm=tmp_path / "none")["KVM"].mend
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: path != machine["kvm"])
    assert "usermod -aG kvm" in wrong(machine)["KVM"].mend


def test_no_appium_no_driver_no_java(machine, tmp_path, monkeypatch):
    (tmp_path / "appium/node_modules/appium-uiautomator2-driver/package.json").unlink()
    found = wrong(machine, environ={**machine["environ"], "JAVA_HOME": "", "PATH": ""})
    assert "driver install uiautomator2" in found["driver"].mend and "JDK" in found["Java"].mend

    def missing():
        raise SetupError("Appium is not on PATH; run 'make appium'.")

    monkeypatch.setattr(doctor, "find_appium", missing)
    assert "npm install -g appium" in wrong(machine)["Appium"].mend


def test_ports_that_are_taken_are_passed_over(machine, monkeypatch):
    monkeypatch.setattr(doctor, "port_is_free", lambda port: port != 8200)
    assert "in use: 8200" in next(f.says for f in doctor.examine(63, **machine) if f.check == "ports")
    assert "63 of 64" in wrong(machine, 64)["ports"].says


def test_a_listening_port_is_not_free():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not doctor.Ports(server.getsockname()[1], 1, 1).free


def test_disk_and_memory_grow_with_the_count(machine):
    assert wrong(machine, 10) == {}
    found = wrong(machine, 20)
    assert "160 needed" in found["disk"].says and "60 needed" in found["memory"].says
    assert "ANDROID_AVD_HOME" in found["disk"].mend
    assert wrong(machine, 20, meminfo=machine["kvm"]).keys() == {"disk"}
