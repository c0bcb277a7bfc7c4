"""What is said to be left of a run shrinks as stages end, and follows how fast they were."""

import io
from pathlib import Path

import pytest

from digiq import progress as bars
from digiq.pipeline import estimate
from digiq.pipeline.nodes import Node


def test_what_is_left_follows_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    nodes = [Node(name, "m", {}, {}, Path(name)) for name in "abc"]
    left = estimate.Remaining(nodes, [50.0, 50.0, 100.0])
    assert left.seconds == pytest.approx(200)
    now[0] += 100  # twice as long as it was to be
    left.ended(nodes[0])
    assert left.seconds == pytest.approx(300)
    left.ended(nodes[1])
    left.ended(nodes[2])
    assert left.seconds == 0


@pytest.mark.parametrize(("seconds", "said"), [(3, "10 s"), (84, "80 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_for_people(seconds, said):
    assert estimate.words(seconds) == said


def test_a_log_gets_a_line_after_ten_seconds_then_one_a_minute(monkeypatch):
    now, out = [0.0], io.StringIO()
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bars.sys, "stderr", out)
    with bars.progress("work", 300, unit="steps") as bar:
        for _ in range(299):
            now[0] += 1.0
            bar.advance()
    assert len(out.getvalue().splitlines()) == 1 + 4 + 1
