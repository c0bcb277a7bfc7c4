"""A fit that is killed goes on from its newest snapshot and ends as if nothing had been."""

import json

import jax
import numpy as np
import pytest

from android_env.actions import Action
from digiq.errors import ArtifactError
from digiq.policies import POLICIES, snapshots
from digiq.policies.base import PolicyInput, Row
from digiq.policies.fitting import FitConfig

SMALL = {"input_height": 32, "input_width": 32, "width": 8, "layers": 0, "speller_width": 8}
ACTIONS = [Action.back(), Action.tap(0.3, 0.6), Action.type_text("shoes"), Action.home()]


class Killed(BaseException):
    pass


def fit(path, log, *, stop=None, heldout=0.25):
    shown = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    rows = [Row(PolicyInput(screen, "find shoes"), ACTIONS[k % 4], 1.0, k) for k, screen in enumerate(shown)]

    def on_metrics(metrics):
        if metrics["update"] == stop:
            raise Killed
        log.append(metrics)

    config = FitConfig(updates=12, batch_size=4, evaluate_every=3, heldout=heldout)
    return POLICIES["grid"](**SMALL).create(0).fit(rows, config, on_metrics, resume=path)


@pytest.mark.parametrize("heldout", [0.0, 0.25])
def test_goes_on_from_its_newest_snapshot_to_the_same_policy(heldout, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "SECONDS", 0.0)
    whole, file = [], tmp_path / "fitting.tmp"
    expected = fit(None, whole, heldout=heldout)
    for stop in (3, 9, 12):  # before the first snapshot, and twice after some
        with pytest.raises(Killed):
            fit(file, [], stop=stop, heldout=heldout)
        assert file.is_file() == (stop > 3)
    again = []
    policy = fit(file, again, heldout=heldout)
    assert json.dumps(again) == json.dumps(whole) and not file.exists()
    for name in ("network", "speller"):
        a, b = expected.params[name], policy.params[name]
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert policy.spells == expected.spells


def test_a_damaged_snapshot_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "SECONDS", 0.0)
    file = tmp_path / "fitting.tmp"
    with pytest.raises(Killed):
        fit(file, [], stop=9)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"fitting.tmp: damaged; delete it"):
        fit(file, [])


def test_snapshots_are_seldom(tmp_path):
    kept = snapshots.Snapshots(tmp_path / "s")
    kept.write({"a": 1})
    assert not (tmp_path / "s").exists() and kept.read() is None
