"""``digiq rejudge``: judges recorded episodes again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from digiq.agents.build import JudgeConfig
from digiq.cli.following import say_next
from digiq.errors import ConfigError
from digiq.evaluation.rejudge import Agreement

HELP = "Judges recorded episodes again, and reports how the judge agrees with the recorded outcomes."


@dataclasses.dataclass(frozen=True)
class Options:
    """Judges recorded episodes again, and reports how the judge agrees with the recorded outcomes."""

    folder: Path
    """Folder of recordings, as ``digiq evaluate --record-all`` writes them: ``EVALUATION/recordings``."""
    judge: JudgeConfig = dataclasses.field(default_factory=lambda: JudgeConfig(name="rules"))
    """The judge; one that needs the device itself cannot judge recordings."""
    tasks: str = ""
    """A task set or file whose parameters, for example rules, replace the recorded ones."""
    rate: Path | None = None
    """An evaluation whose outcomes this judge gave; its rate is corrected for the judge's errors on the recordings."""
    out: Path | None = None
    """File to write, with one JSON line per episode; none: no file is written."""


def main(arguments: list[str]) -> None:
    """Runs ``digiq rejudge FOLDER``."""
    from android_env.errors import TaskError
    from digiq.agents.build import device_tasks
    from digiq.cli.stage import parse
    from digiq.evaluation.rejudge import agreement, rejudge_all, write_rows

    if arguments and not arguments[0].startswith("-"):
        arguments = ["--folder", *arguments]
    options = parse(Options, arguments, program="digiq rejudge")
    judge = options.judge.chosen
    if judge is None or options.judge.name in ("state", "page_reward", "mobilegym"):
        raise ConfigError(
            "digiq rejudge: name a judge that can judge recordings, for example --judge.name rules."
        )
    tasks = {task.task_id: task for task in device_tasks(options.tasks)} if options.tasks else None
    try:
        rows = list(rejudge_all(options.folder, judge, tasks))
    except TaskError as error:
        raise ConfigError(f"digiq rejudge: {error}") from None
    if not rows:
        raise ConfigError(f"digiq rejudge: {options.folder} holds no finished recording.")
    if options.out is not None:
        write_rows(rows, options.out)
    found = agreement(rows)
    successes = sum(row.outcome == "success" for row in rows)
    print(f"{len(rows)} episodes; {options.judge.name} calls {successes} of them successes.")
    value, low, high = found.share
    print(
        f"It agrees with the recorded outcomes in {100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f}):"
    )
    print(f"  of {found.positives} recorded successes it sees {found.true_positives}")
    print(f"  of {found.negatives} other episodes it rejects {found.true_negatives}")
    if found.errors:
        print(f"  in {found.errors} it gave no answer")
    if used := getattr(judge, "used", {}):
        print(f"Used: {', '.join(f'{name} {count}' for name, count in used.items())}.")
    if options.rate is not None:
        _correct(options.rate, found)
    ending = "rejudge" if options.out is None else "rejudge --out"
    say_next(ending, folder=options.folder, judge=options.judge.name, rows=options.out)


def _correct(path: Path, found: Agreement) -> None:
    from digiq.evaluation.compare import open_results

    if not (found.positives and found.negatives):
        raise ConfigError(
            "digiq rejudge --rate: estimating a judge's errors needs recorded successes and failures; record more episodes."
        )
    name, results = open_results(path)
    sound = [result for result in results if not result.outcome.is_fault]
    if not sound:
        raise ConfigError(f"digiq rejudge --rate: {path} has no episode without a fault.")
    won = sum(result.outcome == "success" for result in sound)
    value, low, high = found.corrected(won, len(sound))
    print(
        f"{name}: {100 * won / len(sound):.1f} % as judged; with the judge's errors {100 * value:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f}), faults left out."
    )
