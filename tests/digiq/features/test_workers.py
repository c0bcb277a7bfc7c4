"""Work in shares: real processes side by side on the tiny VLM, one of them killed; keys and cuts beneath."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from android_env.actions import Action
from digiq.errors import ArtifactError, ConfigError
from digiq.features import extract as stage
from digiq.features import load_features
from digiq.features import store as store_module
from digiq.features.plan import Listed, cut, share_of
from digiq.features.store import KeyTable, RowStore, distinct, row_key
from tests.digiq.features.test_extract import BACK, CONFIG, TAP, TYPE, assert_same, episode, write_inputs

pytestmark = pytest.mark.usefixtures("one_torch_thread")
WORKER = """
import functools, os, signal, sys
from pathlib import Path
import torch
from digiq.features import extract as stage
from digiq.features.engines import plain
from digiq.features.store import RowStore
from tests.digiq.features.test_extract import CONFIG

torch.set_num_threads(1)
root, out, worker, dies = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "dies"
stage.RowStore = functools.partial(RowStore, rows_per_shard=3)
computed, original, write = [], plain.extract, RowStore._grown

def counting(backbone, requests, **options):
    computed.append(len(requests))
    return original(backbone, requests, **options)

def dying(self, name, rows):
    if dies and name == "key" and self._shards():
        os.kill(os.getpid(), signal.SIGKILL)  # the rows of a shard are written, and its keys are not
    return write(self, name, rows)

plain.extract, RowStore._grown = counting, dying
print("ready", flush=True)
sys.stdin.readline()
inputs = {name: root / name for name in ("episodes", "proposals")}
found = stage.run(CONFIG, **inputs, vlm=Path(sys.argv[5]), out=out, worker=worker)
print(found.manifest.state, sum(computed))
"""


def start(root: Path, out: Path, vlm: Path, worker: str, how: str = "lives") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WORKER, str(root), str(out), worker, how, str(vlm)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def test_two_workers_at_once_one_of_them_killed_and_resumed(tmp_path, vlm):
    goals = ["buy tea", "go home", "buy a lamp"]
    episodes = [episode(f"e{i}", goals[i % 3], [i, i + 1, i + 2], [TAP, BACK]) for i in range(6)]
    candidates = [[a, TYPE, Action.home()] for _ in episodes for a in (TAP, BACK)]
    inputs = write_inputs(tmp_path, episodes, candidates)
    out = tmp_path / "run" / "features"
    both = [start(tmp_path, out, vlm, "1/2", "dies"), start(tmp_path, out, vlm, "2/2")]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (_, _), (said, _) = (process.communicate("go\n", timeout=120) for process in both)
    assert both[0].returncode == -signal.SIGKILL
    state, by_second = said.split()
    assert (state, both[1].returncode) == ("partial", 0)
    with pytest.raises(ArtifactError, match="has not finished"):
        load_features(out)
    resumed = start(tmp_path, out, vlm, "1/2")
    said, _ = resumed.communicate("go\n", timeout=120)
    assert said.split()[1] == "complete"
    stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "alone" / "features")
    assert_same(load_features(out), load_features(tmp_path / "alone" / "features"))
    # Each row was stored once, and the second worker's were not computed again.
    count = 0
    for group in (out.parent / "feature_rows").iterdir():
        rows = RowStore(out.parent / "feature_rows", group.name, ["layer_03", "layer_01"], 64)
        count += len(rows)
        assert len(rows._shards()) * 3 >= len(rows)
    assert int(by_second) + int(said.split()[2]) <= count
    assert 0 < int(by_second) < count


def test_a_run_without_worker_finishes_what_workers_have_left(tmp_path, vlm, capsys):
    inputs = write_inputs(tmp_path, [episode("a", "go", [0, 1], [TAP])], [[TAP, TYPE]])
    out = tmp_path / "features"
    found = stage.run(CONFIG, **inputs, vlm=vlm, out=out, worker="2/2")
    assert found.manifest.state == "partial"
    assert stage.run(CONFIG, **inputs, vlm=vlm, out=out).manifest.state == "complete"
    assert stage.run(CONFIG, **inputs, vlm=vlm, out=out, worker="1/2").manifest.state == "complete"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": "0/2"}, r"--worker is '0/2'; write 1/4"),
        ({"worker": "3/2"}, r"--worker is '3/2'"),
        ({"worker": "1"}, r"--worker is '1'"),
        ({"worker": "1/2", "overwrite": True}, "--overwrite is for one process"),
        ({"worker": "1/2", "rows": "gs://bucket/rows"}, "set --rows to a shared directory"),
    ],
)
def test_workers_that_cannot_be_are_refused(tmp_path, vlm, options, message):
    inputs = write_inputs(tmp_path, [episode("a", "go", [0, 1], [TAP])], [[TAP, TYPE]])
    with pytest.raises(ConfigError, match=message):
        stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "features", **options)


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 7), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=60)
def test_shares_are_all_of_it_once_and_states_stay_whole(sizes, size, workers, together):
    states = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    shards = cut(states if together else None, len(states), size)
    shares = [share_of(shards, (i + 1, workers)) for i in range(workers)]
    rows = sorted(r for share in shares for s in share for r in range(s.start, s.stop))
    assert rows == list(range(len(states)))
    assert all(s.stop - s.start <= size for s in shards)
    for shard in shards if together else ():
        if shard.stop < len(states) and states[shard.stop - 1] == states[shard.stop]:
            assert len(set(states[shard])) == 1  # a state that fills a shard alone


@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=6))
@settings(deadline=None, max_examples=60)
def test_keys_are_found_as_a_dict_finds_them(chunks):
    def keys(numbers):
        # Some share their first half.
        return np.frombuffer(
            b"".join(row_key(str(n % 3))[:8] + row_key(str(n))[8:] for n in numbers), np.uint8
        ).reshape(-1, 16)

    before, store_module._RECENT = store_module._RECENT, 4
    try:
        table, expected, at = KeyTable(), {}, 0
        for chunk in chunks:
            places = np.arange(at, at + len(chunk))
            at += len(chunk)
            table.add(keys(chunk), places)
            expected |= dict(zip(chunk, places.tolist(), strict=True))
            asked = list(range(31))
            assert table.find(keys(asked)).tolist() == [expected.get(n, -1) for n in asked]
    finally:
        store_module._RECENT = before
    numbers = [n for chunk in chunks for n in chunk]
    first, which = distinct(keys(numbers))
    assert [numbers[i] for i in first] == list(dict.fromkeys(numbers))
    assert [numbers[first[i]] for i in which] == numbers


def test_states_come_as_episodes_do_with_all_that_is_asked_of_each():
    """Each episode is then read once; a state that comes twice is computed where it comes first."""
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(50, dtype=np.int32), 3)[rng.permutation(150)]
    same = np.where(of == 40, 7, of)  # observation 40 is a state that observation 7 had
    states = rng.permutation(50).astype(np.uint64)[same]
    listed = Listed(
        rng.integers(0, 256, (150, 16), np.uint8),
        rng.integers(10, 99, 150).astype(np.int32),
        rng.integers(0, 9, 150).astype(np.int32),
        states,
        of,
        np.zeros(150, np.int32),
    )
    order = listed.order(by_state=True)
    assert sorted(order) == list(range(150))
    assert (np.diff(same[order]) >= 0).all()
    assert (listed.order(by_state=False)[:-1] != order[:-1]).any()
    assert (np.diff(listed.length[listed.order(by_state=False)]) >= 0).all()
