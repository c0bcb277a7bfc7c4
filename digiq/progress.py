"""Progress with rate and ETA: a bar on a terminal, one line per minute in a log file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_LINE_EVERY = 60.0  # seconds between lines if the output is not a terminal
_FIRST_LINE = 10.0  # seconds until the first line, which shows the time left


class Bar(Protocol):
    """The bar that :func:`progress` yields."""

    def advance(self, count: float = 1, **fields: Any) -> None:
        """Counts ``count`` more units; ``fields`` (a loss, a rate) are shown at the end of the line."""
        ...


@contextlib.contextmanager
def progress(description: str, total: float | None, *, unit: str = "it", done: float = 0) -> Iterator[Bar]:
    """Shows the progress of a block.

    Args:
      description: what is being done, e.g. ``collect``.
      total: number of units, or None if unknown.
      unit: what is counted, for the rate.
      done: units that an earlier, interrupted run already did; they do not count in the rate.
    """
    bar = (
        _TerminalBar(description, total, unit, done)
        if sys.stderr.isatty()
        else _LineBar(description, total, unit, done)
    )
    try:
        yield bar
    finally:
        bar.close()


def track(
    iterable: Iterable[T], description: str, total: float | None = None, *, unit: str = "it"
) -> Iterator[T]:
    """Yields from ``iterable`` under a progress bar."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with progress(description, total, unit=unit) as bar:
        for item in iterable:
            yield item
            bar.advance()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _shown(fields: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items())


class _LineBar:
    """Plain lines for logs and CI: one after ten seconds, then one a minute, and one at the end."""

    def __init__(self, description: str, total: float | None, unit: str, done: float):
        self._description, self._total, self._unit = description, total, unit
        self._resumed = self._done = done
        self._start = time.monotonic()
        self._next = self._start + _FIRST_LINE
        self._fields: dict[str, Any] = {}

    def advance(self, count: float = 1, **fields: Any) -> None:
        self._done += count
        self._fields |= fields
        if time.monotonic() >= self._next:
            self._print()

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        now = time.monotonic()
        self._next, elapsed = now + _LINE_EVERY, now - self._start
        rate = (self._done - self._resumed) / max(elapsed, 1e-9)
        of = f"/{self._total:g}" if self._total is not None else ""
        left = (
            f", {_clock((self._total - self._done) / rate)} left"
            if self._total and rate and self._done < self._total
            else ""
        )
        fields = _shown(self._fields)
        text = f"{self._description}: {self._done:g}{of} {self._unit}, {rate:.4g} {self._unit}/s, {_clock(elapsed)}{left}"
        print(f"{text}  {fields}" if fields else text, file=sys.stderr, flush=True)


class _TerminalBar:
    """A rich progress bar."""

    def __init__(self, description: str, total: float | None, unit: str, done: float):
        from rich import progress as rich_progress
        from rich.console import Console

        class Rate(rich_progress.ProgressColumn):
            def render(self, task: rich_progress.Task) -> Any:
                speed = task.finished_speed or task.speed
                return f"{speed:.4g} {unit}/s" if speed else ""

        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            Rate(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("eta"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[shown]}"),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task(description, total=total, completed=int(done), shown="")
        self._fields: dict[str, Any] = {}

    def advance(self, count: float = 1, **fields: Any) -> None:
        self._fields |= fields
        self._bar.update(self._task, advance=count, shown=_shown(self._fields))

    def close(self) -> None:
        self._bar.stop()
