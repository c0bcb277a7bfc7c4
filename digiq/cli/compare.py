"""``digiq compare``: which of two evaluations is the better one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from digiq.cli.following import run_of, say_next
from digiq.errors import ConfigError
from digiq.statistics import Estimate

if TYPE_CHECKING:
    from digiq.evaluation.rejudge import Agreement

HELP = """usage: digiq compare A B [--judge ROWS]

Compares two finished evaluations, episode by episode, where both ran the same task under the same seed. Intervals come
from resampling tasks. Faults of devices and judges do not count as successes; the difference without them, and at best
and at worst, is printed too.

--judge ROWS: what 'digiq rejudge --out ROWS' wrote of the judge that gave both evaluations' outcomes, over recordings
whose truth is known; its errors are carried into the interval.

  digiq compare runs/quickstart/evaluation/digiq runs/quickstart/evaluation/behavior"""


def main(arguments: list[str]) -> None:
    """Runs ``digiq compare A B``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    arguments, judge = _judge(arguments)
    if len(arguments) != 2 or any(argument.startswith("-") for argument in arguments):
        raise ConfigError("digiq compare: name two evaluations, for example 'digiq compare A B'.")
    from digiq.evaluation.compare import compare, open_results

    (name_a, a), (name_b, b) = (open_results(Path(argument)) for argument in arguments)
    if name_a == name_b:
        name_a, name_b = arguments
    found = compare(a, b, (name_a, name_b), judge)
    print(f"{found.pairs} episodes of {found.tasks} tasks that both ran; {name_a} minus {name_b}, in points:")
    rows = [
        ("all episodes", found.strict.difference),
        *([("faults left out", found.excluded.difference)] if found.excluded else []),
        *([("judge's errors", found.judged)] if found.judged else []),
        ("faults at worst", found.worst),
        ("faults at best", found.best),
    ]
    for label, estimate in rows:
        print(f"  {label:16} {_points(estimate)}")
    strict = found.strict
    print(
        f"  {name_a} alone succeeds {strict.wins} times, {name_b} alone {strict.losses}, both or neither {strict.ties}"
    )
    for name, count, kinds in zip(found.names, found.faults, found.kinds, strict=True):
        told = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
        print(f"  faults of {name}: {count}{f' ({told})' if told else ''}")
    for warning in found.warnings:
        print(f"Warning: {warning}")
    print(found.verdict)
    say_next("compare", run=run_of(Path(arguments[0])))


def _judge(arguments: list[str]) -> tuple[list[str], Agreement | None]:
    """Splits the judge off the arguments: the other arguments, and the judge."""
    if "--judge" not in arguments:
        return arguments, None
    from digiq.evaluation.rejudge import agreement, read_rows

    at = arguments.index("--judge")
    if at + 1 == len(arguments):
        raise ConfigError("digiq compare --judge: name a file written by 'digiq rejudge --out'.")
    found = agreement(read_rows(Path(arguments[at + 1])))
    if not (found.positives and found.negatives):
        raise ConfigError(
            "digiq compare --judge: estimating a judge's errors needs recorded successes and failures; record more episodes."
        )
    return [*arguments[:at], *arguments[at + 2 :]], found


def _points(estimate: Estimate) -> str:
    value, low, high = (100 * number for number in estimate)
    return f"{value:+6.1f}  ({low:+.1f} to {high:+.1f})"
