"""The page of a study: tables and figures made only from its file and its records.

The same records give the same bytes: resampling is seeded, figures carry neither dates nor random ids.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digiq import artifacts
from digiq.drawing import figures
from digiq.evaluation.summary import split_title
from digiq.statistics import Estimate, hierarchical_statistic
from digiq.studies.config import HypothesisConfig, StudyConfig
from digiq.studies.records import CellRecord

RESAMPLES = 4000
COMMENT = "comment.md"
"""File in the folder of the records with a person's comments; they come first on the page."""


def write_page(config: StudyConfig, records: Sequence[CellRecord], folder: Path) -> Path:
    """Writes the page and its figures.

    Args:
      config: the study.
      records: records of its finished cells.
      folder: folder of the records and figures; the page goes beside it, or into it if it is not a results folder.

    Returns:
      The page, ``<results>/<name>.md``; for tuning seeds ``page.md`` in ``folder``, and for a study that is history
      ``page.md`` in ``<output>``, beside its figures.
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
    """The page's Markdown, and its figures (SVG) by file name.

    Args:
      config: the study.
      records: records of its finished cells.
      prefix: prefix of links to figures.
      comment: Markdown that comes first.
    """
    base = {(r.arm, r.seed): r for r in records if not r.sweep}
    arms = [arm for arm in config.arms if any(name == arm for name, _ in base)]
    images: dict[str, str] = {}
    seeds = sorted({seed for _, seed in base})
    parts = [f"# {config.title}", ""]
    if comment:
        parts += [comment.strip(), ""]
    parts += [_summary(config, base), ""]
    parts += [
        f"Seeds {', '.join(map(str, seeds)) or 'none'}, each with its own demonstrations, roll-outs, training and "
        "evaluation. Rates are in %, intervals 95 % by a hierarchical bootstrap over seeds, then tasks; with few seeds they "
        "are somewhat too narrow. Everything here is made from the records beside this page by "
        f"`digiq study configs/study/{config.name}.yaml --page`.",
        "",
        f"Registered: kernel `{config.registration.kernel[:16] or 'not yet'}`, "
        f"grid `{config.registration.grid[:16] or 'not yet'}`.",
        "",
    ]
    if arms:
        images["success.svg"] = _success_figure(config, base, arms)
        parts += ["## Success", "", f"![Success by arm]({prefix}success.svg)", ""]
        parts += [*_success_table(config, base, arms), ""]
    if config.hypotheses:
        parts += ["## Hypotheses", "", *_hypotheses_table(config, base), ""]
    if config.losses:
        parts += ["## What is lost where", "", *_losses_table(config, base), ""]
    if any(r.q for r in base.values()):
        parts += ["## The critic, by the simulator's own Q", "", *_q_table(config, base, arms), ""]
        figure = _reliability_figure(config, base, arms)
        if figure:
            images["reliability.svg"] = figure
            parts += [f"![Reliability of Q]({prefix}reliability.svg)", ""]
        parts += [*_bottlenecks(config, base, arms), ""]
    for name, sweep in config.sweeps.items():
        rows = [r for r in records if r.sweep == name]
        if rows:
            images[f"{name}.svg"] = _sweep_figure(config, name, base, rows)
            parts += [f"## {sweep.title}", "", f"![{sweep.title}]({prefix}{name}.svg)", ""]
            parts += [*_sweep_table(config, name, base, rows), ""]
    cards = {r.seed: r.card for r in base.values() if r.card}
    if cards:
        parts += ["## The offline data", "", *_cards_table(cards), ""]
    parts += ["## What it cost", "", _cost(records), ""]
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


def mean_success(records: Sequence[CellRecord], split: str | None = None) -> Estimate:
    """Success of one arm over its seeds, hierarchically bootstrapped; NaN without an episode."""
    rows = [(r.seed, e.task, e.success) for r in records for e in r.episodes if split in (None, e.split)]
    if not rows:
        return Estimate(math.nan, math.nan, math.nan)
    seeds, tasks, values = zip(*rows, strict=True)
    return hierarchical_statistic(lambda m: m[..., 0], np.array([values]), seeds, tasks, resamples=RESAMPLES)


def compare(
    groups: Mapping[str, Sequence[CellRecord]], arm: str, over: Sequence[str], measure: str
) -> Estimate:
    """An arm against the best of others, on the episodes that all of them ran under the same seeds.

    Args:
      groups: records by arm.
      arm: whose success is the numerator, or the minuend.
      over: the others.
      measure: ``ratio`` or ``difference``.

    Returns:
      NaN where they share no episode.
    """
    names = [arm, *over]
    found = [
        {(r.seed, e.task, e.index): e.success for r in groups.get(name, ()) for e in r.episodes}
        for name in names
    ]
    shared = sorted(set.intersection(*map(set, found)))
    if not shared:
        return Estimate(math.nan, math.nan, math.nan)
    values = np.array([[one[key] for key in shared] for one in found])

    def statistic(means: np.ndarray) -> np.ndarray:
        best = means[..., 1:].max(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return means[..., 0] / best if measure == "ratio" else means[..., 0] - best

    return hierarchical_statistic(
        statistic, values, [key[0] for key in shared], [key[1] for key in shared], resamples=RESAMPLES
    )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict of a study on a hypothesis."""

    word: str
    """``held``, ``not held``, ``undecided`` (the interval has the bound inside) or ``not run``."""
    estimate: Estimate


def judge(hypothesis: HypothesisConfig, base: Mapping[tuple[str, int], CellRecord]) -> Verdict:
    """Judges a hypothesis by the records: it held, or did not, if the whole interval lies on one side of the bound.

    An interval that touches the bound decides nothing: two arms that never succeed differ by exactly 0.
    """
    found = compare(_by_arm(base), hypothesis.arm, hypothesis.over, hypothesis.measure)
    if math.isnan(found.value):
        return Verdict("not run", found)
    if hypothesis.at_least is not None:
        held, refuted = found.low > hypothesis.at_least, found.high < hypothesis.at_least
    else:
        assert hypothesis.at_most is not None
        held, refuted = found.high < hypothesis.at_most, found.low > hypothesis.at_most
    return Verdict("held" if held else "not held" if refuted else "undecided", found)


def _by_arm(base: Mapping[tuple[str, int], CellRecord]) -> dict[str, list[CellRecord]]:
    groups: dict[str, list[CellRecord]] = {}
    for (arm, _), record in sorted(base.items()):
        groups.setdefault(arm, []).append(record)
    return groups


def _summary(config: StudyConfig, base: Mapping[tuple[str, int], CellRecord]) -> str:
    """The first paragraph: which hypotheses held, which did not, and which stay open."""
    sentences = []
    for hypothesis in config.hypotheses.values():
        verdict = judge(hypothesis, base)
        number = _measured(hypothesis, verdict.estimate)
        sentences.append(f"**{verdict.word.capitalize()}**: {hypothesis.text.rstrip('.')} ({number}).")
    return " ".join(sentences) if sentences else "No hypothesis was registered."


def _measured(hypothesis: HypothesisConfig, found: Estimate) -> str:
    if math.isnan(found.value):
        return "no common episodes yet"
    if hypothesis.measure == "ratio":
        return f"{found.value:.2f} times, {found.low:.2f}–{found.high:.2f}"
    return f"{100 * found.value:+.1f} points, {100 * found.low:+.1f} to {100 * found.high:+.1f}"


def _hypotheses_table(config: StudyConfig, base: Mapping[tuple[str, int], CellRecord]) -> list[str]:
    rows = []
    for name, hypothesis in config.hypotheses.items():
        verdict = judge(hypothesis, base)
        bound = hypothesis.at_least if hypothesis.at_least is not None else hypothesis.at_most
        sign = "≥" if hypothesis.at_least is not None else "≤"
        scale = f"{bound:.2f}" if hypothesis.measure == "ratio" else f"{100 * (bound or 0):+.0f} points"
        over = _title(config, hypothesis.over[0])
        if len(hypothesis.over) > 1:
            over = "the best of " + ", ".join(_title(config, arm) for arm in hypothesis.over)
        rows.append(
            (
                name,
                f"{_title(config, hypothesis.arm)} over {over}: {sign} {scale}",
                _measured(hypothesis, verdict.estimate),
                verdict.word,
            )
        )
    return _table(("hypothesis", "said", "found", "verdict"), rows)


def _losses_table(config: StudyConfig, base: Mapping[tuple[str, int], CellRecord]) -> list[str]:
    groups = _by_arm(base)
    rows = []
    for loss in config.losses:
        found = compare(groups, loss.upper, [loss.lower], "difference")
        points = "not run"
        if not math.isnan(found.value):
            points = f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
        rows.append((loss.part, _title(config, loss.upper), _title(config, loss.lower), points))
    head = ("part", "from", "to", "points lost")
    return ["On the episodes that both arms ran, under the same seeds.", "", *_table(head, rows)]


def _success_table(
    config: StudyConfig, base: Mapping[tuple[str, int], CellRecord], arms: Sequence[str]
) -> list[str]:
    groups = _by_arm(base)
    splits = list(dict.fromkeys(e.split for r in base.values() for e in r.episodes))
    rows = []
    for arm in arms:
        members = groups[arm]
        cells = [
            _interval(mean_success(members)),
            *(_percent(mean_success(members, s).value) for s in splits),
        ]
        kept = [r.selection["share_kept"] for r in members if r.selection]
        steps = float(np.mean([e.steps for r in members for e in r.episodes])) if members else math.nan
        by_seed = " ".join(_percent(mean_success([r]).value) for r in members)
        rows.append(
            (
                _title(config, arm),
                config.arms[arm].role,
                *cells,
                by_seed,
                f"{steps:.1f}",
                _percent(float(np.mean(kept))) if kept else "",
            )
        )
    head = ("arm", "role", "all", *(split_title(s) for s in splits), "by seed", "mean steps", "states kept")
    exact = [arm for arm in arms if any(e.exact is not None for r in groups[arm] for e in r.episodes)]
    titles = ", ".join(_title(config, arm) for arm in exact)
    return _table(head, rows) + (["", f"Exact: {titles}. All others are rolled out."] if exact else [])


def _success_figure(
    config: StudyConfig, base: Mapping[tuple[str, int], CellRecord], arms: Sequence[str]
) -> str:
    groups = _by_arm(base)
    estimates = [mean_success(groups[arm]) for arm in arms]
    roles = list(dict.fromkeys(config.arms[arm].role for arm in arms))
    colors = [figures.PALETTE[roles.index(config.arms[arm].role) % len(figures.PALETTE)] for arm in arms]
    return figures.intervals(
        [_title(config, arm) for arm in arms], estimates, colors, xlabel="success on test tasks, %"
    )


def _q_table(
    config: StudyConfig, base: Mapping[tuple[str, int], CellRecord], arms: Sequence[str]
) -> list[str]:
    groups, rows = _by_arm(base), []
    for arm in arms:
        q = [r.q for r in groups[arm] if r.q]
        if not q:
            continue
        numbers = [
            _mean(m["regret"]["weighted"] for m in q),
            _mean(m["regret"]["plain"] for m in q),
            _mean(m["pairwise_best"] for m in q),
            _mean(m["pairwise_policy"] for m in q),
            _mean((m["reliability"] or {}).get("ece") for m in q),
            _mean((m["reliability"] or {}).get("bias") for m in q),
            _mean(m["support"]["logged"] for m in q),
            _mean((m["support"]["likelihood"] or [None] * 3)[1] for m in q),
        ]
        worst = [m["regret"]["worst"] for m in q]
        common = max(sorted(set(worst)), key=worst.count)
        rows.append((_title(config, arm), *(_number(n) for n in numbers), common, str(len(q))))
    head = (
        "arm", "regret, by visits", "regret, plain", "pairs right, Q*", "pairs right, behaviour's Q",
        "ECE", "bias", "logged action chosen", "median relative likelihood", "worst screen", "seeds",
    )  # fmt: skip
    return [
        "Regret is the Q* lost by taking the top-ranked candidate, weighted by the kinds of screen where the extracted "
        "policy goes; calibration is against the behaviour policy's exact Q, in the episodes where that was computed; the "
        "last columns say how well the data supports the imitated candidates. All are of the offline data's states, most "
        "of which the critic was trained on.",
        "",
        *_table(head, rows),
    ]


def _bottlenecks(
    config: StudyConfig, base: Mapping[tuple[str, int], CellRecord], arms: Sequence[str]
) -> list[str]:
    """Where the first arm with Q metrics loses most: visits × regret by kind of screen."""
    groups = _by_arm(base)
    arm = next(arm for arm in arms if any(r.q for r in groups[arm]))
    main = next(iter(config.hypotheses.values())).arm if config.hypotheses else arm
    arm = main if any(r.q for r in groups.get(main, ())) else arm
    q = [r.q for r in groups[arm] if r.q]
    kinds = sorted({kind for m in q for kind in m["regret"]["kinds"]})
    rows = []
    for kind in kinds:
        found = [m["regret"]["kinds"][kind] for m in q if kind in m["regret"]["kinds"]]
        visits, regret = _mean(f["visits"] for f in found), _mean(f["regret"] for f in found)
        rows.append((visits * regret, kind, visits, regret))
    rows.sort(reverse=True)
    table = _table(
        ("screen", "share of visits", "regret there", "product"),
        [(k, f"{100 * v:.1f} %", _number(r), _number(p)) for p, k, v, r in rows[:8]],
    )
    return [f"Where {_title(config, arm)} loses most:", "", *table]


def _reliability_figure(
    config: StudyConfig, base: Mapping[tuple[str, int], CellRecord], arms: Sequence[str]
) -> str:
    groups = _by_arm(base)
    series = {}
    for arm in arms:
        found = [r.q["reliability"] for r in groups[arm] if r.q and r.q["reliability"]]
        role = config.arms[arm].role
        if found and role in ("method", "control"):
            width = min(len(f["predicted"]) for f in found)
            predicted = np.mean([f["predicted"][:width] for f in found], axis=0)
            true = np.mean([f["observed"][:width] for f in found], axis=0)
            series[_title(config, arm)] = (predicted, true)
    return (
        figures.reliability(
            series, xlabel="predicted Q, mean of a bin", ylabel="exact Q of the behaviour policy"
        )
        if series
        else ""
    )


def _sweep_rows(
    config: StudyConfig, name: str, base: Mapping[tuple[str, int], CellRecord], records: Sequence[CellRecord]
) -> dict[str, dict[str, list[CellRecord]]]:
    """Records by arm and point; the base point takes the arms' own records for the seeds that the sweep ran."""
    sweep = config.sweeps[name]
    seeds = {r.seed for r in records}
    found: dict[str, dict[str, list[CellRecord]]] = {arm: {} for arm in sweep.arms}
    for arm in sweep.arms:
        for point in sweep.order:
            if point == sweep.base:
                found[arm][point] = [r for (a, s), r in sorted(base.items()) if a == arm and s in seeds]
            else:
                found[arm][point] = [r for r in records if r.arm == arm and r.point == point]
    return found


def _sweep_table(
    config: StudyConfig, name: str, base: Mapping[tuple[str, int], CellRecord], records: Sequence[CellRecord]
) -> list[str]:
    sweep, rows = config.sweeps[name], []
    for arm, points in _sweep_rows(config, name, base, records).items():
        rows.append((_title(config, arm), *(_interval(mean_success(points[p])) for p in sweep.order)))
    seeds = sorted({r.seed for r in records})
    table = _table(("arm", *(f"{p} (base)" if p == sweep.base else p for p in sweep.order)), rows)
    return [f"Seeds {', '.join(map(str, seeds))}.", "", *table]


def _sweep_figure(
    config: StudyConfig, name: str, base: Mapping[tuple[str, int], CellRecord], records: Sequence[CellRecord]
) -> str:
    sweep = config.sweeps[name]
    found = _sweep_rows(config, name, base, records)
    series = {
        _title(config, arm): [mean_success(points[p]) for p in sweep.order] for arm, points in found.items()
    }
    return figures.sweep(sweep.order, series, title=sweep.title, ylabel="success on test tasks, %")


def _cards_table(cards: Mapping[int, dict[str, Any]]) -> list[str]:
    rows = []
    for seed, card in sorted(cards.items()):
        mistakes = ", ".join(f"{name} {100 * share:.0f}" for name, share in card["mistakes"].items())
        rows.append(
            (
                str(seed),
                _percent(card["success"]),
                mistakes,
                " / ".join(f"{v:.2f}" for v in card["best_probability"].values()),
                " / ".join(f"{v:.2f}" for v in card["coverage"].values()),
            )
        )
    first = next(iter(cards.values()))
    quantiles = " / ".join(f"{100 * float(q):.0f}" for q in first["best_probability"])
    draws = " / ".join(first["coverage"])
    head = (
        "seed", "behaviour's success", "its actions, %", f"probability of a best action, quantiles {quantiles} %",
        f"{draws} candidates hold a best action",
    )  # fmt: skip
    return _table(head, rows)


def _cost(records: Iterable[CellRecord]) -> str:
    """Stages shared by cells are counted once: within a seed, they have the same names and seconds in all cells. Stages
    of one policy (``policy/NAME``, ``evaluation/NAME``) are never shared."""
    spent = {
        (r.seed, (r.arm, r.sweep, r.point) if "/" in stage else None, stage, seconds)
        for r in records
        for stage, seconds in r.seconds.items()
    }
    minutes = sum(key[-1] for key in spent) / 60
    return f"About {minutes:.0f} minutes of one core, over {len({key[-2] for key in spent})} kinds of stages."


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _comment(folder: Path) -> str:
    file = folder / COMMENT
    return file.read_text(encoding="utf-8") if file.is_file() else ""
