"""The log of a training run (``metrics.jsonl`` and TensorBoard events), and the metric that the run is judged by."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from digiq import artifacts
from digiq.critics.measures import Diagnostics, draw_reliability, scalars
from digiq.errors import DigiQError


def metric_of(choose_by: str, row: dict[str, float]) -> float:
    """The metric that critics are compared by, lower is better; infinite if training diverged.

    Raises:
      DigiQError: the metric is not logged.
    """
    if choose_by not in row:
        known = ", ".join(k for k in row if k.startswith("heldout_")) or "none: heldout_fraction is too small"
        raise DigiQError(f"train-q: choose_by = {choose_by!r} is not logged; held-out metrics: {known}.")
    value = row[choose_by]
    return math.inf if math.isnan(value) else value  # a diverged critic is the worst


class MetricsLog:
    """``metrics.jsonl`` and TensorBoard events of a run, one row per epoch; a context manager."""

    def __init__(self, path: Path, name: str = "metrics.jsonl", events: bool = True):
        self._file, self._logs = path / name, path / "logs" if events else None
        self._events: Any = None
        self.rows: list[dict[str, float]] = []

    def rewind(self, epoch: int) -> None:
        """Keeps the rows of the first ``epoch`` epochs that an earlier run wrote, and drops later ones."""
        # A damaged line is dropped, like a torn one.
        whole = self._file.read_text(encoding="utf-8", errors="replace") if self._file.is_file() else ""
        lines = whole.splitlines()
        self.rows.clear()
        kept: list[str] = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a killed run may leave half a line
                row = json.loads(line)
                if row["epoch"] <= epoch:
                    kept.append(line + "\n")
                    self.rows.append({k: v for k, v in row.items() if k != "verdict"})
        artifacts.atomic_write_text(self._file, "".join(kept))
        if self._logs is not None:
            from tensorboardX import SummaryWriter

            # This makes viewers drop later steps that an earlier run left behind.
            self._events = SummaryWriter(logdir=str(self._logs), purge_step=epoch + 1)

    def write(self, epoch: int, metrics: dict[str, float], found: Diagnostics | None = None) -> None:
        """Appends an epoch and its diagnostics: numbers, the histogram of gaps, a reliability plot, a verdict."""
        metrics = metrics | ({} if found is None else scalars(found))
        self.rows.append({"epoch": epoch, **metrics})
        row: dict[str, Any] = dict(self.rows[-1])
        if found is not None:
            row["verdict"] = f"{found.verdict.kind}: {found.verdict.reason}; advice: {found.verdict.advice}"
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is None:
            return
        for name, value in metrics.items():
            self._events.add_scalar(name, value, epoch)
        if found is not None:
            self._draw(epoch, found, row["verdict"])

    def _draw(self, epoch: int, found: Diagnostics, verdict: str) -> None:
        from matplotlib.figure import Figure

        assert self._events is not None
        self._events.add_text("diagnostic_verdict", verdict, epoch)
        counts, edges = np.array(found.gaps.counts), np.array(found.gaps.edges)
        middle = 0.5 * (edges[1:] + edges[:-1])
        self._events.add_histogram_raw(
            "diagnostic_gap",
            min=edges[0],
            max=edges[-1],
            num=int(counts.sum()),
            sum=float(counts @ middle),
            sum_squares=float(counts @ middle**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=epoch,
        )
        figure = Figure(figsize=(4, 4), layout="constrained")
        draw_reliability(figure.subplots(), found.calibration)
        self._events.add_figure("diagnostic_reliability", figure, epoch)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._events:
            self._events.close()
