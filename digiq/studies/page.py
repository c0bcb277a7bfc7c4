"""The page of a study: a figure and tables made only from its file and its records.

The page begins with what a person wrote for anyone, then one figure and one table; details follow. The same records give
the same bytes: resampling is seeded, figures carry neither dates nor random ids. The numbers come from
:mod:`digiq.studies.analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from digiq import artifacts
from digiq.drawing import figures
from digiq.evaluation.summary import split_title
from digiq.statistics import Estimate, MeanTest
from digiq.studies.analysis import analysis_digest, by_arm, difference, judge, mean_success, rate
from digiq.studies.config import HypothesisConfig, StudyConfig
from digiq.studies.records import CellRecord

COMMENT = "comment.md"
"""File in the folder of the records with a person's words: the first paragraph opens the page, the others close it."""

Groups = Mapping[str, Sequence[CellRecord]]
"""The records of the arms themselves, without sweeps, by arm."""


def write_page(config: StudyConfig, records: Sequence[CellRecord], folder: Path) -> Path:
    """Writes the page and its figure.

    Args:
      config: the study.
      records: records of its finished cells.
      folder: folder of the records and the figure; the page goes beside it, or into it if it is not a results folder.

    Returns:
      The page, ``<results>/<name>.md``; for tuning seeds ``page.md`` in ``folder``, and for a study that is history
      ``page.md`` in ``<output>``, beside its figure.
    """
    comment = _comment(folder)
    reported = folder == config.results / config.name
    if reported and config.registration.closed:
        folder, reported = config.output, False
    page = folder.parent / f"{config.name}.md" if reported else folder / "page.md"
    prefix = f"{config.name}/" if reported else ""
    body, images = make_page(config, records, prefix=prefix, comment=comment)
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in images.items():
        artifacts.atomic_write_text(folder / name, svg)
    artifacts.atomic_write_text(page, body)
    return page


def make_page(
    config: StudyConfig, records: Sequence[CellRecord], *, prefix: str = "", comment: str = ""
) -> tuple[str, dict[str, str]]:
    """The page's Markdown, and its figure (SVG) by file name, if an arm has run.

    Args:
      config: the study.
      records: records of its finished cells.
      prefix: prefix of the link to the figure.
      comment: Markdown; its first paragraph comes first, the rest last.
    """
    base = [record for record in records if not record.sweep]
    groups = by_arm(base)
    groups = {arm: groups[arm] for arm in config.arms if arm in groups}
    opening, _, closing = comment.strip().partition("\n\n")
    images: dict[str, str] = {}
    parts = [f"# {config.title}", "", *([opening, ""] if opening else [])]
    if groups:
        success = {arm: mean_success(members) for arm, members in groups.items()}
        images["success.svg"] = _figure(config, success)
        parts += [f"![Success by arm]({prefix}success.svg)", "", *_arms_table(config, groups, success), ""]
    if config.hypotheses:
        parts += ["## Hypotheses", "", *_hypotheses_table(config, base), ""]
    if config.losses:
        parts += ["## What is lost where", "", *_losses_table(config, groups), ""]
    if groups:
        parts += ["## By split and seed", "", *_splits_table(config, groups), ""]
    if any(r.q for r in base):
        parts += ["## The critic, by the simulator's own Q", "", *_q_table(config, groups), ""]
    for name, sweep in config.sweeps.items():
        rows = [r for r in records if r.sweep == name]
        if rows:
            parts += [f"## {sweep.title}", "", *_sweep_table(config, name, groups, rows), ""]
    parts += ["## How it was made", "", *_making(config, records), ""]
    parts += [closing, ""] if closing else []
    return "\n".join(parts).rstrip() + "\n", images


def print_trials(records: Sequence[CellRecord]) -> None:
    """Prints the trials of a search: success by arm and trial, over the tuning seeds."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Trials, success on the tuning tasks, %", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("arm", "trial", "seeds", "success", "95 %"):
        table.add_column(name)
    groups: dict[tuple[str, str], list[CellRecord]] = {}
    for record in records:
        groups.setdefault((record.arm, record.point), []).append(record)
    for (arm, point), members in sorted(groups.items()):
        found = mean_success(members)
        table.add_row(
            arm,
            point,
            str(len(members)),
            _percent(found.value),
            f"{_percent(found.low)}–{_percent(found.high)}",
        )
    Console().print(table)


def _baseline(config: StudyConfig) -> str:
    """The arm that all others are compared with: that of the first hypothesis; empty without hypotheses."""
    return next((hypothesis.over[0] for hypothesis in config.hypotheses.values()), "")


def _figure(config: StudyConfig, success: Mapping[str, Estimate]) -> str:
    roles = list(dict.fromkeys(config.arms[arm].role for arm in success))
    colors = [figures.PALETTE[roles.index(config.arms[arm].role) % len(figures.PALETTE)] for arm in success]
    titles = [_title(config, arm) for arm in success]
    return figures.intervals(titles, list(success.values()), colors, xlabel="success on test tasks, %")


def _arms_table(config: StudyConfig, groups: Groups, success: Mapping[str, Estimate]) -> list[str]:
    baseline, rows = _baseline(config), []
    for arm, members in groups.items():
        kept = [r.selection["share_kept"] for r in members if r.selection]
        right = [r.q.get("right") for r in members if r.q]
        rows.append(
            (
                _title(config, arm),
                _interval(success[arm]),
                "" if arm == baseline else _points(difference(groups, arm, baseline)) if baseline else "",
                _percent(_mean(kept)),
                _percent(_mean(right)),
            )
        )
    over = f"points over {_title(config, baseline)}" if baseline else "points"
    said = (
        "Success in % with 95 % by a hierarchical bootstrap over seeds, then tasks. Differences are paired, episode by episode, "
        "with Student's 95 % interval over seeds. *Kept*: share of states imitated; *right*: share of what is imitated that no "
        "action exceeds in Q*, where that was measured."
    )
    return [*_table(("arm", "success, %", over, "kept, %", "right, %"), rows), "", said]


def _hypotheses_table(config: StudyConfig, base: Sequence[CellRecord]) -> list[str]:
    verdicts = judge(config.hypotheses, base)
    rows = []
    for name, hypothesis in config.hypotheses.items():
        verdict = verdicts[name]
        tested = verdict.test.mean if verdict.test else None
        adjusted = verdict.adjusted
        rows.append(
            (
                f"**{name}**" if hypothesis.alone else name,
                f"{hypothesis.text.rstrip('.')}: {_said(config, hypothesis)}",
                _measured(hypothesis, tested) if tested else "",
                _measured(hypothesis, verdict.bootstrap),
                "" if adjusted is None else "< 0.001" if adjusted < 0.001 else f"{adjusted:.3f}",
                verdict.word,
            )
        )
    head = ("hypothesis", "said", "found, over seeds", "found, bootstrap", "p", "verdict")
    said = (
        "A difference is decided by Student's two-sided test over seeds at 5 %; the bootstrap stands beside it. What is in bold "
        "was registered to stand alone; the p-values of the others are corrected for their number (Holm), their intervals are "
        "not."
    )
    return [*_table(head, rows), "", said]


def _said(config: StudyConfig, hypothesis: HypothesisConfig) -> str:
    bound = hypothesis.bound
    sign = "≥" if hypothesis.at_least is not None else "≤"
    over = ", ".join(_title(config, arm) for arm in hypothesis.over)
    over = f"the best of {over}" if len(hypothesis.over) > 1 else over
    if hypothesis.measure == "ratio":
        return f"{_title(config, hypothesis.arm)} / {over} {sign} {bound:.2f}"
    return f"{_title(config, hypothesis.arm)} − {over} {sign} {100 * bound:.0f} points"


def _measured(hypothesis: HypothesisConfig, found: Estimate) -> str:
    if math.isnan(found.value):
        return "no common episodes yet"
    if hypothesis.measure == "ratio":
        return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
    return _difference(found)


def _losses_table(config: StudyConfig, groups: Groups) -> list[str]:
    rows = [
        (
            loss.part,
            _title(config, loss.upper),
            _title(config, loss.lower),
            _points(difference(groups, loss.upper, loss.lower)) or "not run",
        )
        for loss in config.losses
    ]
    return _table(("part", "from", "to", "points lost"), rows)


def _splits_table(config: StudyConfig, groups: Groups) -> list[str]:
    splits = sorted({e.split for members in groups.values() for r in members for e in r.episodes})
    rows = []
    for arm, members in groups.items():
        steps = float(np.mean([e.steps for r in members for e in r.episodes]))
        exact = any(e.exact is not None for r in members for e in r.episodes)
        rows.append(
            (
                _title(config, arm) + (" (exact)" if exact else ""),
                *(_percent(rate(members, split)) for split in splits),
                " ".join(_percent(rate([r])) for r in members),
                f"{steps:.1f}",
            )
        )
    return _table(("arm", *(split_title(s) for s in splits), "by seed", "mean steps"), rows)


def _q_table(config: StudyConfig, groups: Groups) -> list[str]:
    rows = []
    for arm, members in groups.items():
        q = [r.q for r in members if r.q]
        if not q:
            continue
        worst = [m["regret"]["worst"] for m in q]
        numbers = (
            _mean(m["regret"]["weighted"] for m in q),
            _mean(m["pairwise_best"] for m in q),
            _mean(m["support"]["logged"] for m in q),
        )
        common = max(sorted(set(worst)), key=worst.count)
        rows.append((_title(config, arm), *map(_number, numbers), common, str(len(q))))
    head = ("arm", "regret, by visits", "pairs right", "logged action chosen", "worst screen", "seeds")
    return [
        *_table(head, rows),
        "",
        "Regret is the Q* lost by taking the top-ranked candidate, weighted by the kinds of screen where the extracted policy "
        "goes. All are of the offline data's states, most of which the critic was trained on.",
    ]


def _sweep_table(config: StudyConfig, name: str, groups: Groups, records: Sequence[CellRecord]) -> list[str]:
    """The base point takes the arms' own records, for the seeds that the sweep ran."""
    sweep, seeds = config.sweeps[name], sorted({r.seed for r in records})
    rows = []
    for arm in sweep.arms:
        of_point = {
            point: [r for r in records if r.arm == arm and r.point == point]
            if point != sweep.base
            else [r for r in groups.get(arm, ()) if r.seed in seeds]
            for point in sweep.order
        }
        rows.append((_title(config, arm), *(_interval(mean_success(of_point[p])) for p in sweep.order)))
    table = _table(("arm", *(f"{p} (base)" if p == sweep.base else p for p in sweep.order)), rows)
    return [*table, "", f"Seeds {', '.join(map(str, seeds))}."]


def _making(config: StudyConfig, records: Sequence[CellRecord]) -> list[str]:
    seeds = sorted({r.seed for r in records})
    found = config.registration
    digests = {"kernel": found.kernel, "grid": found.grid, "analysis": found.analysis}
    registered = ", ".join(f"{name} `{digest[:16]}`" for name, digest in digests.items() if digest)
    lines = [
        f"Seeds {', '.join(map(str, seeds)) or 'none'}, each with its own demonstrations, roll-outs, training and evaluation. "
        f"Registered: {registered or 'not yet'}. `digiq study configs/study/{config.name}.yaml --page` makes this page from the "
        f"records beside it. {_cost(records)}",
    ]
    if config.tuning and config.tuning.trials:
        trials = {_title(config, arm): len(tried) for arm, tried in config.tuning.trials.items()}
        counted = ", ".join(f"{title} {count}" for title, count in trials.items())
        tuned = ", ".join(map(str, config.tuning.seeds))
        lines += [
            "",
            f"Settings were chosen on seeds {tuned} and the tasks `{config.tuning.tasks}`; trials by arm: {counted}.",
        ]
    if found.analysis and found.analysis != analysis_digest():
        lines += ["", "**The code of the analysis is not the registered one.**"]
    cards = [r.card for r in records if r.card]
    if cards:
        success = [card["success"] for card in cards]
        coverage = {n: _mean(card["coverage"].get(n) for card in cards) for n in cards[0]["coverage"]}
        holds = ", ".join(f"{_percent(share)} % of {n}" for n, share in coverage.items())
        lines += [
            "",
            f"The offline data: the behaviour policy succeeded in {_percent(_mean(success))} % of its roll-outs "
            f"({_percent(min(success))} to {_percent(max(success))} by seed). A best action is among its candidates in {holds}.",
        ]
    return lines


def _cost(records: Iterable[CellRecord]) -> str:
    """Stages shared by cells are counted once: within a seed, they have the same names and seconds in all cells. Stages
    of one policy (``policy/NAME``, ``evaluation/NAME``) are never shared."""
    spent = {
        (r.seed, (r.arm, r.sweep, r.point) if "/" in stage else None, stage, seconds)
        for r in records
        for stage, seconds in r.seconds.items()
    }
    return f"It took about {sum(key[-1] for key in spent) / 60:.0f} minutes of one core."


def _title(config: StudyConfig, arm: str) -> str:
    return config.arms[arm].title


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def _interval(found: Estimate) -> str:
    if math.isnan(found.value):
        return ""
    return f"{_percent(found.value)} ({_percent(found.low)}–{_percent(found.high)})"


def _difference(found: Estimate) -> str:
    """A difference in points; a single seed has no interval."""
    said = f"{100 * found.value:+.1f}"
    return said if math.isinf(found.low) else f"{said} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _points(test: MeanTest | None) -> str:
    return "" if test is None else _difference(test.mean)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _comment(folder: Path) -> str:
    file = folder / COMMENT
    return file.read_text(encoding="utf-8") if file.is_file() else ""
