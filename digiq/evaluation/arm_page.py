"""The report of one evaluation: rates, the outcomes of each task's episodes, and recorded episodes as strips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from digiq.drawing.page import Cell, Detail, Page, Row, Section, Table, Tile
from digiq.drawing.strips import Strip
from digiq.evaluation.outcomes import EpisodeResult, Outcome
from digiq.evaluation.summary import arm_title, split_title


def arm_page(table: Mapping[str, Any], results: Sequence[EpisodeResult], strips: Sequence[Strip]) -> Page:
    """Builds the page.

    Args:
      table: the result of ``evaluate.make_table``.
      results: results of all episodes.
      strips: strips of the recorded episodes.
    """
    name, pooled = arm_title(table["arm"]), table["pooled"]
    rows = [("pooled", pooled), *(table["splits"].items() if len(table["splits"]) > 1 else ())]
    rates = Table(
        ("", "episodes", "success", "device and judge faults left out", "mean steps"),
        tuple(
            Row((Cell(split_title(split)), Cell(str(row["episodes"])), *_rates(row), _steps(row)))
            for split, row in rows
        ),
    )
    errors = "\n".join(f"{r.episode_id}: {r.outcome}: {r.error}" for r in results if r.error)
    hidden = Table(
        ("", "if faults hid failures", "if they hid successes", "episodes by kind of fault", "run again"),
        (
            Row(
                (
                    Cell("pooled"),
                    Cell(f"{100 * pooled['if_faults_fail']:.1f} %"),
                    Cell(f"{100 * pooled['if_faults_succeed']:.1f} %"),
                    Cell(", ".join(f"{kind} {n}" for kind, n in pooled["fault_kinds"].items()) or "–"),
                    Cell(str(pooled["retried"])),
                )
            ),
        ),
    )
    sections = [
        Section(
            anchor="results",
            name="Results",
            lead=pooled.get("no_claim", ""),
            tables=(rates, *((hidden,) if pooled["retried"] or pooled["faults"] else ()), *_repeats(pooled)),
        ),
        Section(
            anchor="tasks",
            name="Tasks",
            tables=(_tasks(results),),
            details=(Detail("Errors", "as the agent or the device reported them", errors),) if errors else (),
        ),
    ]
    if strips:
        sections.append(
            Section(
                anchor="play",
                name="Recorded episodes",
                lead="With the action that followed each screen.",
                strips=tuple(strips),
            )
        )
    return Page(
        title=f"{name} · {pooled['episodes']} episodes of {pooled['tasks']} tasks",
        subtitle=", ".join(f"{n} {str(o).replace('_', ' ')}" for o, n in pooled["outcomes"].items() if n),
        tiles=(
            Tile(f"{100 * pooled['success']:.1f} %", "success", _interval(pooled), table["arm"]),
            Tile(str(pooled["faults"]), "faults", "of device or judge; not counted as successes"),
        ),
        sections=tuple(sections),
        footer="Rates are fractions of all scheduled episodes; intervals are Wilson 95 %.",
    )


def _repeats(pooled: Mapping[str, Any]) -> tuple[Table, ...]:
    """Pass@k and Pass^k, if tasks were tried more than once."""
    if "repeats" not in pooled:
        return ()

    def cells(row: Mapping[str, Any]) -> tuple[Cell, ...]:
        found = (row["pass_at_k"], row["pass_hat_k"])
        spans = (f"{100 * e['low']:.1f}–{100 * e['high']:.1f}" for e in found)
        return tuple(Cell(f"{100 * e['value']:.1f} %", span) for e, span in zip(found, spans, strict=True))

    return (
        Table(
            ("k", "tasks", "at least one of k succeeds", "all of k succeed"),
            tuple(
                Row((Cell(str(row["k"])), Cell(str(row["tasks"])), *cells(row))) for row in pooled["repeats"]
            ),
        ),
    )


def _rates(row: Mapping[str, Any]) -> tuple[Cell, Cell]:
    excluded = row["infra_excluded"]
    sound = "–" if excluded["value"] is None else f"{100 * excluded['value']:.1f} %"
    return Cell(f"{100 * row['success']:.1f} %", _interval(row)), Cell(sound)


def _interval(row: Mapping[str, Any]) -> str:
    return f"{100 * row['low']:.1f}–{100 * row['high']:.1f}"


def _steps(row: Mapping[str, Any]) -> Cell:
    return Cell("–" if row["mean_steps"] is None else f"{row['mean_steps']:.1f}")


def _tasks(results: Sequence[EpisodeResult]) -> Table:
    by_task: dict[str, Counter[str]] = {}
    for result in results:
        by_task.setdefault(result.task_id, Counter())[str(result.outcome)] += 1
    return Table(
        ("task", *(str(outcome).replace("_", " ") for outcome in Outcome)),
        tuple(
            Row((Cell(task), *(Cell(str(counts[str(outcome)] or "")) for outcome in Outcome)))
            for task, counts in sorted(by_task.items())
        ),
    )
