"""What runs ahead of the model: order, waiting, errors, batches from memory."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from android_env.actions import Action
from digiq.data.schema import encode_png
from digiq.features import extract as stage
from digiq.features import extract_features, load_features
from digiq.features.engines import base, pipeline
from digiq.features.engines.pipeline import ahead, batch_size_for, metered
from digiq.vlm.backbone import load_backbone
from tests.digiq.features.test_extract import CANDIDATES, CONFIG, EPISODES, assert_same, screen, write_inputs

pytestmark = pytest.mark.usefixtures("one_torch_thread")
BATCHES = [np.array([3, 1]), np.array([0]), np.array([2, 4])]


def test_batches_are_loaded_while_others_are_computed_and_in_order():
    loaded, together = [], []
    started = threading.Event()

    def load(positions):
        loaded.append(positions.tolist())
        if len(loaded) > 1:
            started.set()
        return positions

    def compute(positions):
        together.append(started.wait(5))  # the second is being loaded although the first is not done
        return np.array(positions, np.float32)

    rows = ahead(BATCHES, load, compute)
    found = [(p.tolist(), block.tolist()) for p, block in rows]
    assert found == [([3, 1], [3, 1]), ([0], [0]), ([2, 4], [2, 4])] and all(together)
    assert loaded == [b.tolist() for b in BATCHES]


def test_the_first_batch_is_loaded_before_anyone_asks():
    begun = threading.Event()
    rows = ahead(BATCHES, lambda p: begun.set() or p, lambda p: np.array(p, np.float32))
    assert begun.wait(5)
    assert len(list(rows)) == 3


def test_waiting_is_measured():
    with metered() as meter:
        list(ahead(BATCHES, lambda p: time.sleep(0.02) or p, lambda p: np.array(p, np.float32)))
    assert meter.share > 0.5 and meter.waited > 0.02
    with metered() as meter:
        list(ahead(BATCHES, lambda p: p, lambda p: time.sleep(0.02) or np.array(p, np.float32)))
    assert meter.share < 0.5 and meter.computed > 0.05
    with metered() as meter:
        pass
    assert meter.share == 0


def test_an_error_of_loading_arrives_and_what_came_before_it_stays():
    def load(positions):
        if positions[0] == 0:
            raise ValueError("broken")
        return positions

    rows = ahead(BATCHES, load, lambda p: np.array(p, np.float32))
    assert next(rows)[0].tolist() == [3, 1]
    with pytest.raises(ValueError, match="broken"):
        next(rows)


def test_an_image_is_decoded_once_a_state(monkeypatch):
    count, decode = [], base._decode.__wrapped__
    monkeypatch.setattr(base, "_decode", lambda image: count.append(image) or decode(image))
    one, two = encode_png(screen(0)), encode_png(screen(1))
    found = base.decoded([one, two, one, screen(2), one])
    assert sorted(count) == sorted([one, two])
    for image, number in zip(found, [0, 1, 0, 2, 0], strict=True):
        np.testing.assert_array_equal(image, screen(number))


def test_batches_by_memory_grow_with_it_and_say_the_same(vlm, tmp_path, monkeypatch):
    backbone = load_backbone(vlm, dtype="float32")
    sizes = [batch_size_for(backbone, 100, free) for free in (1, 10**8, 10**9, 10**15)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == 512
    assert batch_size_for(backbone, 200, 10**8) < batch_size_for(backbone, 50, 10**8)
    assert pipeline.free_memory(backbone.device) > 2**20
    asked = []
    monkeypatch.setattr(pipeline, "free_memory", lambda device: asked.append(device) or 10**8)
    inputs = write_inputs(tmp_path, EPISODES, CANDIDATES)
    for size in ("auto", 3):
        config = dataclasses.replace(CONFIG, batch_size=size)
        stage.run(config, **inputs, vlm=vlm, out=tmp_path / str(size) / "features")
    assert_same(*(load_features(tmp_path / size / "features") for size in ("auto", "3")))
    shared = extract_features(
        [(screen(0), "go", [Action.back(), Action.home()])], model=vlm, batch_size="auto", engine="shared"
    )
    assert shared[3].shape[0] == 2 and len(asked) == 3


def test_time_and_waiting_are_said_of_work_of_more_than_a_shard(vlm, tmp_path, monkeypatch, capsys):
    inputs = write_inputs(tmp_path, EPISODES, CANDIDATES)
    stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "short" / "features")
    assert "take about" not in capsys.readouterr().err
    monkeypatch.setattr(stage, "_LONG", 0.0)
    monkeypatch.setattr(stage, "_ENOUGH", 0.0)
    kept = dict(stage.RowStore.__init__.__kwdefaults__ or {})
    monkeypatch.setattr(stage.RowStore.__init__, "__kwdefaults__", {**kept, "rows_per_shard": 3})
    stage.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "long" / "features")
    said = capsys.readouterr().err
    assert said.count("4 observation rows take about 0 min (1 took") == 1
    assert said.count("10 pair rows take about 0 min (3 took") == 1
    assert "featurize pairs: the model waited for its input" in said
