"""Virtual devices as files: clones stand on their own, the user's are never touched, only dead locks go."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from android_env.emulators import avd
from android_env.errors import SetupError
from android_env.faults import AvdBusy
from android_env.testing.commands import CommandDoubles


@pytest.fixture
def doubles(tmp_path):
    with CommandDoubles(tmp_path) as made:
        yield made


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def tree(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_sdk_is_found_by_variable_by_place_and_by_path(doubles, tmp_path):
    sdk = avd.find_sdk(doubles.environ)
    assert sdk.adb == tmp_path / "sdk/platform-tools/adb" and sdk.avd_home == tmp_path / "avd"
    (tmp_path / "Android").mkdir()
    (tmp_path / "Android/Sdk").symlink_to(tmp_path / "sdk")
    assert avd.find_sdk({"HOME": str(tmp_path)}).adb == tmp_path / "Android/Sdk/platform-tools/adb"
    path = f"{tmp_path}/sdk/platform-tools:{tmp_path}/sdk/emulator"
    assert avd.find_sdk({"HOME": "/nowhere", "PATH": path}).emulator == tmp_path / "sdk/emulator/emulator"
    with pytest.raises(SetupError, match="set ANDROID_HOME"):
        avd.find_sdk({"HOME": "/nowhere", "PATH": ""})


def test_a_clone_has_the_data_and_names_only_itself(doubles):
    source = doubles.avd_home / "template.avd"
    before = tree(source)
    target = avd.clone(doubles.sdk, "template", "copy")
    assert doubles.sdk.avd_dir("copy") == target and tree(source) == before
    assert (target / "userdata-qemu.img").read_bytes() == (source / "userdata-qemu.img").read_bytes()
    overlay = (target / "userdata-qemu.img.qcow2").read_bytes()
    size = int.from_bytes(overlay[16:20], "big")
    assert overlay[112 : 112 + size] == os.fsencode(target / "userdata-qemu.img")
    assert overlay.endswith(b"user data") and not (target / "snapshots").exists()
    assert "AvdId=copy" in (target / "config.ini").read_text()
    assert "target=android-34" in (doubles.avd_home / "copy.ini").read_text()


def test_overlays_that_name_another_place_or_none_are_left_alone(doubles, tmp_path):
    image = doubles.avd_home / "template.avd" / "userdata-qemu.img.qcow2"
    before = image.read_bytes()
    assert not avd.retarget_backing_file(image, tmp_path, tmp_path / "new") and image.read_bytes() == before
    (plain := tmp_path / "plain.qcow2").write_bytes(b"no image")
    assert not avd.retarget_backing_file(plain, tmp_path, tmp_path)
    with pytest.raises(SetupError, match="too long"):
        avd.retarget_backing_file(image, image.parent, tmp_path / ("x" * 70_000))
    assert image.read_bytes() == before


def test_a_clone_replaces_a_clone_and_nothing_else(doubles):
    (avd.clone(doubles.sdk, "template", "copy") / "old").write_text("x")
    assert not (avd.clone(doubles.sdk, "template", "copy") / "old").exists()
    mine = doubles.make_avd("mine")
    before = tree(mine)
    for act in (
        lambda: avd.clone(doubles.sdk, "template", "mine"),
        lambda: avd.remove_clone(doubles.sdk, "mine"),
    ):
        with pytest.raises(SetupError, match="left alone"):
            act()
    assert tree(mine) == before and (doubles.avd_home / "mine.ini").exists()


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "template", "a b"])
def test_names_cannot_leave_the_folder(doubles, name):
    with pytest.raises(SetupError, match="cannot name a clone"):
        avd.clone(doubles.sdk, "template", name)


def test_a_clone_reached_by_a_link_is_not_deleted(doubles, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / avd.MARKER).write_text("x")
    (doubles.avd_home / "linked.avd").symlink_to(outside)
    with pytest.raises(SetupError, match="left alone"):
        avd.remove_clone(doubles.sdk, "linked")
    assert outside.is_dir()


def test_an_unknown_template_names_those_there_are(doubles):
    with pytest.raises(SetupError, match=r"no AVD 'tempalte' \(there are: template\)"):
        avd.clone(doubles.sdk, "tempalte", "copy")


def test_locks_of_the_dead_go_and_locks_of_the_living_stay(doubles, dead_pid):
    target = avd.clone(doubles.sdk, "template", "copy")
    stale = target / "hardware-qemu.ini.lock"
    stale.write_text(str(dead_pid))
    (folder := target / "userdata.lock").mkdir()
    (folder / "pid").write_text(str(dead_pid))
    (target / "multiinstance.lock").write_text("")
    assert len(avd.remove_stale_locks(target)) == 3 and not list(target.glob("*.lock"))
    stale.write_text(str(dead_pid))
    (held := target / "z.lock").write_text(str(os.getpid()))
    with pytest.raises(AvdBusy, match=r"z\.lock"):
        avd.remove_stale_locks(target)
    assert stale.exists() and held.exists()
    for act in (avd.remove_clone, lambda sdk, name: avd.clone(sdk, "template", name)):
        with pytest.raises(AvdBusy):
            act(doubles.sdk, "copy")
    assert target.is_dir()


def test_a_lock_without_a_process_is_judged_by_whether_it_is_held(doubles):
    import fcntl

    target = avd.clone(doubles.sdk, "template", "copy")
    (lock := target / "multiinstance.lock").write_text("")
    with lock.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(AvdBusy):
            avd.remove_stale_locks(target)
    assert avd.remove_stale_locks(target) == [lock]


def test_locks_in_the_users_own_avds_are_left_alone_and_a_busy_template_is_not_copied(doubles):
    lock = doubles.avd_home / "template.avd" / "hardware-qemu.ini.lock"
    lock.write_text(str(os.getpid()))
    with pytest.raises(SetupError, match="left alone"):
        avd.remove_stale_locks(lock.parent)
    with pytest.raises(AvdBusy, match="inconsistent"):
        avd.clone(doubles.sdk, "template", "copy")
    assert lock.exists() and not (doubles.avd_home / "copy.ini").exists()
