"""TensorBoard events of a stage's learning curves, beside its ``metrics.jsonl``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LOGS = "logs"
"""The folder of events in an artefact; not part of its content."""


def event_writer(folder: Path, clock: str) -> Callable[[Mapping[str, float]], None]:
    """Starts a folder of events anew, and returns a function that appends to it.

    Args:
      folder: the folder of events; anything that an earlier try left there is removed.
      clock: the metric that counts steps, e.g. ``update``; all others are drawn over it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    opened: list[Any] = []

    def write(metrics: Mapping[str, float]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        proto: Any = event_pb2  # protobuf creates its classes at import
        if not opened:
            folder.mkdir(parents=True)
            # SummaryWriter hands events to a thread, so a stage that ends soon after would lose the last ones.
            opened.append(EventsWriter(str(folder / "events")))
        for name, value in metrics.items():
            if name != clock:
                event = proto.Event(
                    wall_time=time.time(), step=int(metrics[clock]), summary=scalar(name, value)
                )
                opened[0].write_event(event)
        opened[0].flush()

    return write
