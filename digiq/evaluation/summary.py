"""The end of a run: ``summary.json`` and the table that the command line prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from digiq import artifacts

ARM_TITLES = {
    "behavior": "Behaviour policy",
    "filtered_bc": "Filtered BC",
    "digiq": "Digi-Q",
    "ceiling": "Ceiling: best of N by Q*",
}
CEILING = "ceiling"
"""The arm that reads the simulator's values, and so does not compete."""
ARM_ABOUT = {
    "behavior": "the policy that recorded the offline episodes",
    "filtered_bc": "imitates the logged actions of the episodes that succeeded; no Q",
    "digirl": "imitates the logged actions that DigiRL's offline filter keeps",
    "digiq": "imitates, at each state, the candidate with the highest learned Q, where its advantage passes the threshold",
    "ceiling": "takes, on the device, the best of the behaviour policy's N candidates by the simulator's own values; no critic "
    "on these candidates can do better in the long run",
    "critic": "takes, on the device, the best of the behaviour policy's N candidates by the learned Q; nothing is distilled",
}
"""Meaning of an arm's name, in a sentence."""
SPLIT_ABOUT = {
    "pooled": "every test episode",
    "test_query": "queries that no training task asks, on sites of the training tasks",
    "test_combination": "sites and queries of the training tasks that never occur together there",
    "test_site": "a site, drawn in a theme, that no training task shows",
    "final_query": "queries of the final tasks alone, on sites of the training tasks",
    "final_site": "sites, drawn in themes, and queries of the final tasks alone",
}
"""What a split tests."""
SPLIT_TITLES = {
    "pooled": "all test",
    "test_query": "unseen query",
    "test_combination": "unseen pairing",
    "test_site": "unseen site",
    "test_screen": "unseen screen",
    "final_query": "new query",
    "final_site": "new site and query",
}


def arm_title(arm: str) -> str:
    """An arm's title in tables and figures."""
    name, _, number = arm.partition("_round_")
    return ARM_TITLES.get(name, name) + (f", round {number}" if number else "")


def main_arm(arms: Iterable[str], policies: Mapping[str, Path]) -> str:
    """The arm that the others are compared with: the first whose policy was distilled by Q, or else the last.

    Args:
      arms: the arms, at least one.
      policies: the artefacts of ``distill``, by arm.
    """
    names = list(arms)
    for arm in names:
        if arm in policies and "q" in artifacts.read_manifest(policies[arm]).extra.get("needs", ()):
            return arm
    return names[-1]


def split_title(split: str) -> str:
    """A split's title in tables and figures."""
    return SPLIT_TITLES.get(split, split)


def write_summary(evaluations: Mapping[str, Path], seconds: Mapping[str, float], out: Path) -> dict[str, Any]:
    """Collects finished evaluations in one JSON file.

    Args:
      evaluations: the ``evaluate`` artefact by arm name, in the order of the table.
      seconds: wall-clock seconds by stage name.
      out: the file to write, e.g. ``runs/quickstart/summary.json``.

    Returns:
      ``{"arms": {arm: {"success", "low", "high", "episodes", "mean_steps", "outcomes", ..., "splits": {split: the
      same}}}, "seconds": {stage: s}}``; rates are fractions, intervals Wilson 95 %.

    Raises:
      ArtifactError: an evaluation is missing or unfinished.
    """
    arms = {}
    for arm, path in evaluations.items():
        table = json.loads(
            (artifacts.open(path, stage="evaluate").path / "table.json").read_text(encoding="utf-8")
        )
        arms[arm] = {**table["pooled"], "splits": table["splits"]}
    summary = {"arms": arms, "seconds": {stage: round(s, 1) for stage, s in seconds.items()}}
    artifacts.atomic_write_json(out, summary)
    return summary


_INTERVAL = len("91.2–100.0")


def print_summary(
    summary: Mapping[str, Any], report: Path | None = None, console: Console | None = None
) -> None:
    """Prints the success table of a result of :func:`write_summary`, and the path of the report."""
    console = console or Console()
    splits = list(dict.fromkeys(split for arm in summary["arms"].values() for split in arm["splits"]))
    table = Table(
        title="Success on held-out test tasks, % (Wilson 95 %)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("arm", max_width=16)
    for split in ("pooled", *splits):
        table.add_column(split_title(split), justify="right", min_width=_INTERVAL, max_width=_INTERVAL)
    table.add_column("episodes", justify="right", no_wrap=True)
    table.add_column("mean steps", justify="right", max_width=5)
    rates = [row["success"] for arm, row in summary["arms"].items() if arm != CEILING]
    for arm, row in summary["arms"].items():
        cells = [_rate(row), *(_rate(row["splits"][s]) if s in row["splits"] else "–" for s in splits)]
        best = arm != CEILING and row["success"] == max(rates) and rates.count(max(rates)) == 1
        style = "bold" if best else "dim" if arm == CEILING else ""
        table.add_row(arm_title(arm), *cells, str(row["episodes"]), _number(row["mean_steps"]), style=style)
    console.print(table)
    faults = {a: row.get("faults", 0) for a, row in summary["arms"].items()}
    if any(faults.values()):
        text = ", ".join(f"{arm_title(a)} {n}" for a, n in faults.items())
        console.print(f"Faults of device or judge, not counted as successes: {text}.")
    for arm, row in summary["arms"].items():
        if row.get("no_claim"):
            console.print(f"{arm_title(arm)}, no claim of success: {row['no_claim']}")
    total = sum(summary["seconds"].values())
    if total:
        console.print(f"Stages took {total / 60:.1f} min in all.")
    if report is not None:
        console.print(Text(f"Report: {report}"))


def _rate(row: Mapping[str, Any]) -> str:
    return f"{100 * row['success']:.1f}\n{100 * row['low']:.1f}–{100 * row['high']:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"
