"""The page of the causes study, from its records alone."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from digiq.laboratory.causes import CANDIDATES, GATES, LEARNED, VALUES, Gate
from digiq.statistics import Estimate, cluster_bootstrap, hierarchical_bootstrap

MOST_SHARE = 0.95
"""A gate that keeps a larger share is marked as none."""
_RESAMPLES = 4000
BASELINES = {
    ("none", "behavior"): "Behaviour policy",
    ("none", "filtered_bc"): "Filtered BC",
    ("td", "digirl"): "DigiRL's filter, V learned by TD",
    ("collector", "digirl"): "DigiRL's filter, exact V of the collector",
}
Record = dict[str, Any]


@functools.cache
def tasks_of(seed: int, episodes: int, tasks: str) -> tuple[tuple[str, int], ...]:
    """Task and level of each planned episode of a seed."""
    from digiq.agents.build import device_tasks
    from digiq.agents.rollout import plan_episodes

    specs = plan_episodes(device_tasks(tasks), episodes, seed)
    return tuple((spec.task.task_id, spec.task.level) for spec in specs)


def outcomes(record: Record) -> np.ndarray:
    """float[n], 1 for success."""
    return np.array([float(c) for c in record["success"]])


def over_seeds(values: Sequence[np.ndarray], seeds: Sequence[int], tasks: str) -> Estimate:
    """Mean over seeds of one number per episode, given by seed, with an interval clustered by task."""
    flat = np.concatenate(list(values))
    clusters = [t for s, v in zip(seeds, values, strict=True) for t, _ in tasks_of(s, len(v), tasks)]
    if len(seeds) == 1:
        return cluster_bootstrap(flat, clusters, resamples=_RESAMPLES)
    labels = [s for s, v in zip(seeds, values, strict=True) for _ in v]
    return hierarchical_bootstrap(flat, labels, clusters, resamples=_RESAMPLES)


def paired(
    records: Iterable[Record], one: dict[str, Any], other: dict[str, Any]
) -> tuple[list[np.ndarray], list[int], int]:
    """By seed, the lead of cells that match ``one`` over cells that differ from them only by ``other``, averaged over
    such pairs; the seeds; and the number of pairs."""
    names = ("seed", "values", "gate", "candidates", "protocol", "student")
    found = {tuple(r[n] for n in names): r for r in records}
    gaps: dict[int, list[np.ndarray]] = collections.defaultdict(list)
    for record in found.values():
        allowed = all(record[k] in v if isinstance(v, tuple) else record[k] == v for k, v in one.items())
        against = found.get(tuple({**record, **other}[n] for n in names))
        if allowed and against is not None:
            gaps[record["seed"]].append(outcomes(record) - outcomes(against))
    seeds = sorted(gaps)
    return [np.mean(gaps[s], axis=0) for s in seeds], seeds, sum(map(len, gaps.values()))


def points(estimate: Estimate) -> str:
    """A difference in points with its interval."""
    v, low, high = (100 * x for x in estimate)
    return f"{v:+.1f} ({low:+.1f} to {high:+.1f})"


def percent(estimate: Estimate) -> str:
    """A rate in % with its interval."""
    return "{:.1f} ({:.1f}–{:.1f})".format(*(100 * x for x in estimate))


def contrast(
    records: Iterable[Record], tasks: str, one: dict[str, Any], other: dict[str, Any]
) -> tuple[Estimate, int] | None:
    """See :func:`paired`."""
    gaps, seeds, count = paired(records, one, other)
    return (over_seeds(gaps, seeds, tasks), count) if gaps else None


def verdict_of(found: Estimate) -> str:
    """Whether eight candidates pay, by the interval of what they add."""
    return "pays" if found.low > 0 else "costs success" if found.high < 0 else "does not pay"


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count > 1 else ''}"


def first_sentence(found: Sequence[tuple[str, Estimate, int]]) -> str:
    """The answer to whether eight candidates pay; the first contrast decides.

    Args:
      found: by who imitates, N = 8 minus N = 1 with learned critics, and over how many pairs of cells.
    """
    numbers = "; ".join(f"{points(e)} points {who}, {_pairs(count)}" for who, e, count in found)
    return (
        f"**With the same learned critic and the same gate, N = 8 {verdict_of(found[0][1])} over N = 1**: {numbers} (mean over "
        "pairs of cells that differ in N alone, 95 % interval clustered by task)."
    )


def rate(records: Sequence[Record], tasks: str) -> str:
    """Success of one cell over its seeds."""
    ordered = sorted(records, key=lambda r: r["seed"])
    found = over_seeds([outcomes(r) for r in ordered], [r["seed"] for r in ordered], tasks)
    return percent(found)


def by_level(records: Sequence[Record], tasks: str) -> str:
    """Success at each level, %."""
    of: dict[int, list[float]] = collections.defaultdict(list)
    for record in records:
        for (_, level), won in zip(
            tasks_of(record["seed"], len(record["success"]), tasks), outcomes(record), strict=True
        ):
            of[level].append(won)
    return "/".join(f"{100 * np.mean(of[level]):.0f}" for level in sorted(of))


def rightness(records: Sequence[Record], kind: str | None = None) -> tuple[float, float, float]:
    """Share of states kept, precision (targets that are a best action) and recall (states with such a target)."""
    states = weight = right = hit = rows = 0.0
    for record in records:
        for name, (count, total, good, found) in record["screens"].items():
            if kind in (None, name):
                states, weight, right, hit = states + count, weight + total, right + good, hit + found
        rows += record["kept"]
    return (
        rows / max(len(records), 1),
        right / weight if weight else float("nan"),
        hit / states if states else float("nan"),
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def of_cell(records: Iterable[Record], **cell: Any) -> list[Record]:
    """The records of a cell, one per seed."""
    return [r for r in records if all(r[name] == value for name, value in cell.items())]


def grid(records: list[Record], tasks: str) -> str:
    """Success of every cell, with one row for each values and gate."""
    rows = []
    for gate in GATES:
        for values in VALUES:
            cells = [of_cell(records, values=values, gate=gate, candidates=n) for n in CANDIDATES]
            if not any(cells):
                continue
            gap = contrast(
                records, tasks, {"values": values, "gate": gate, "candidates": 8}, {"candidates": 1}
            )
            said = [f"{rate(cell, tasks)} {_kept(cell)}" if cell else "–" for cell in cells]
            rows.append([GATES[gate], VALUES[values], *said, "–" if gap is None else points(gap[0])])
    header = (
        "gate",
        "values",
        "N = 1, % · kept, right, found",
        "N = 8, % · kept, right, found",
        "N = 8 − N = 1",
    )
    return table(header, rows)


def _kept(cell: Sequence[Record]) -> str:
    kept, precision, recall = rightness(cell)
    none = "none: " if kept > MOST_SHARE and cell[0]["gate"] != "awr" else ""
    return f"· {none}{100 * kept:.0f}, {100 * precision:.0f}, {100 * recall:.0f}"


def by_screen(records: Sequence[Record], title: str) -> list[list[str]]:
    """Visits, precision and recall of the most visited kinds of screens."""
    visits: collections.Counter[str] = collections.Counter()
    for record in records:
        visits.update(record["visits"])
    rows = []
    for kind, count in visits.most_common(6):
        _, precision, recall = rightness(records, kind)
        shares = (count / visits.total(), precision, recall)
        rows.append([title, kind, *("–" if np.isnan(x) else f"{100 * x:.0f}" for x in shares)])
    return rows


SHOWN: tuple[tuple[str, Gate, int], ...] = (
    ("exact", "quantile", 8),
    ("exact", "progress", 1),
    ("exact", "progress", 8),
    ("td", "quantile", 8),
    ("td", "positive", 1),
    ("td", "positive", 8),
)
"""Cells whose levels and screens are shown."""


def make_page(records: list[Record], tasks: str, comment: str = "") -> str:
    """The whole page."""
    learned = {"values": LEARNED, "candidates": 8, "gate": tuple(GATES), "protocol": "epochs"}
    found = []
    for student, title in STUDENTS.items():
        gap = contrast(records, tasks, {**learned, "student": student}, {"candidates": 1})
        if gap is not None:
            found.append((title, *gap))
    parts = ["# What a learned Q loses on its way to a policy"]
    parts += [first_sentence(found)] if found else []
    parts += [comment] if comment else []
    parts += ["## N = 8 against N = 1", _contrasts(records, tasks)]
    parts += [
        "## Against DigiRL's filter",
        "Differences from the logged steps that DigiRL's filter keeps by the V of the same TD critic; paired, equal epochs.",
        _against_digirl(records, tasks),
    ]
    parts += [
        "## Baselines, and how well values order candidates",
        _baselines(records, tasks),
        _accuracies(records),
    ]
    parts += [
        "## Every cell",
        "Success, its 95 % interval clustered by task; after the dot, in %: states *kept*, targets that are a best action by Q* "
        f"(*right*), states in which a best action is a target (*found*). A gate that keeps over {100 * MOST_SHARE:.0f} % is "
        "*none*. Differences are paired, episode by episode.",
    ]
    for student, title in STUDENTS.items():
        for protocol, how in PROTOCOLS.items():
            cells = of_cell(records, student=student, protocol=protocol)
            if any(r["values"] != "none" for r in cells):
                seeds = ", ".join(map(str, sorted({r["seed"] for r in cells})))
                parts += [f"### A policy {title}, {how} (seeds: {seeds})", grid(cells, tasks)]
    parts += ["## Where", _where(records, tasks)]
    return "\n\n".join(parts) + "\n"


STUDENTS = {"pixels": "from pixels", "elements": "without pixels"}
PROTOCOLS = {"epochs": "equal epochs", "rows": "equal rows"}


def _contrasts(records: list[Record], tasks: str) -> str:
    rows = []
    groups: list[tuple[str, dict[str, Any]]] = [
        ("learned critics, all gates", {"values": LEARNED, "gate": tuple(GATES)}),
        (
            "Q* and Q* with noise, all gates",
            {"values": ("exact", "noise_83", "noise_76"), "gate": tuple(GATES)},
        ),
        *((f"{title}, all gates", {"values": name, "gate": tuple(GATES)}) for name, title in VALUES.items()),
        *((f"all values, {title}", {"values": tuple(VALUES), "gate": name}) for name, title in GATES.items()),
    ]
    kinds = [
        (student, protocol)
        for student in STUDENTS
        for protocol in PROTOCOLS
        if of_cell(records, student=student, protocol=protocol, candidates=8)
    ]
    for title, one in groups:
        row = [title]
        for student, protocol in kinds:
            where = {**one, "candidates": 8, "protocol": protocol, "student": student}
            gap = contrast(records, tasks, where, {"candidates": 1})
            row.append("–" if gap is None else f"{points(gap[0])}, {_pairs(gap[1])}")
        rows.append(row)
    heads = [f"{STUDENTS[student]}, {PROTOCOLS[protocol]}" for student, protocol in kinds]
    return table(("N = 8 − N = 1, points", *heads), rows)


def _against_digirl(records: list[Record], tasks: str) -> str:
    rows = []
    kinds = [student for student in STUDENTS if of_cell(records, student=student, gate="digirl", values="td")]
    for values in ("td", "iql", "exact"):
        for gate, title in GATES.items():
            for n in CANDIDATES:
                row = [f"{VALUES[values]}, {title}, N = {n}"]
                for student in kinds:
                    one = {
                        "values": values,
                        "gate": gate,
                        "candidates": n,
                        "protocol": "epochs",
                        "student": student,
                    }
                    gap = contrast(records, tasks, one, {"values": "td", "gate": "digirl", "candidates": 1})
                    row.append("–" if gap is None else points(gap[0]))
                if set(row[1:]) != {"–"}:
                    rows.append(row)
    return table(("cell − DigiRL's filter, points", *(STUDENTS[student] for student in kinds)), rows)


def _baselines(records: list[Record], tasks: str) -> str:
    rows = []
    for student, who in STUDENTS.items():
        for (values, gate), title in BASELINES.items():
            cell = of_cell(records, values=values, gate=gate, student=student)
            if cell:
                right = "–" if "screens" not in cell[0] else _kept(cell).removeprefix("· ")
                name = "Clone of the demonstrations" if (gate, student) == ("behavior", "elements") else title
                rows.append([who, name, rate(cell, tasks), by_level(cell, tasks), right])
    return table(("policy", "arm", "success, %", "levels 1/2/3", "kept, right, found, %"), rows)


def _accuracies(records: list[Record]) -> str:
    rows = []
    for name, title in VALUES.items():
        found = {r["seed"]: r["pair_accuracy"] for r in records if r["values"] == name}
        if found:
            rows.append([title, ", ".join(f"{found[seed]:.3f}" for seed in sorted(found))])
    return table(("values", "pairs of candidates in the order of Q*, by seed"), rows)


def _where(records: list[Record], tasks: str) -> str:
    levels, screens = [], []
    for student, who in STUDENTS.items():
        for values, gate, n in SHOWN:
            cell = of_cell(
                records, values=values, gate=gate, candidates=n, protocol="epochs", student=student
            )
            if cell:
                title = f"{VALUES[values]}, {GATES[gate]}, N = {n}, {who}"
                levels.append([title, rate(cell, tasks), by_level(cell, tasks)])
                screens += by_screen(cell, title)
    head = ("cell", "screen", "visits of its policy, %", "targets right, %", "states found, %")
    return "\n\n".join((table(("cell", "success, %", "levels 1/2/3"), levels), table(head, screens)))
