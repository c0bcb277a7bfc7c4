"""Learning curves as TensorBoard reads them."""

import json

import pytest

from digiq.events import LOGS
from digiq.policies.fit import metrics_writer


def read(folder):
    """(tag, step, value) of every event in a folder, from the records themselves."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("*tfevents*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            at += 16 + length
    return found


def test_every_metric_is_an_event_over_its_update(tmp_path):
    write = metrics_writer(tmp_path / "metrics.jsonl")
    write({"update": 100, "train_loss": 2.5, "heldout_loss": 3.0})
    write({"update": 200, "train_loss": 1.5})
    assert read(tmp_path / LOGS) == [
        ("train_loss", 100, 2.5),
        ("heldout_loss", 100, 3.0),
        ("train_loss", 200, 1.5),
    ]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1]) == {
        "update": 200,
        "train_loss": 1.5,
    }


def test_a_second_try_starts_anew(tmp_path):
    for value in (1.0, 2.0):
        metrics_writer(tmp_path / "metrics.jsonl")({"update": 1, "loss": value})
    assert read(tmp_path / LOGS) == [("loss", 1, pytest.approx(2.0))]
