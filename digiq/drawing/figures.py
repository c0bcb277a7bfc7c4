"""The figures of the reports: plain arrays in, a self-contained SVG string out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from digiq.statistics import Estimate

INK, MUTED, GRID = "#1c2430", "#667085", "#e6e9ef"
ARM_COLORS = {"behavior": "#98a2b3", "filtered_bc": "#e39b2d", "digiq": "#2f6fed", "ceiling": "#12a594"}
"""Colours of the arms, the same in every figure and table."""
PALETTE = ("#2f6fed", "#e39b2d", "#12a594", "#d6456b", "#7c5cdb", "#98a2b3", "#5c8a2f", "#b0613a")

_DARK = {
    INK: "#e7eaf0",
    MUTED: "#9aa4b5",
    GRID: "#2b3340",
    "#c9cfd9": "#3a4454",
    "#000000": "#e7eaf0",
    "#9db8f5": "#4a6bb5",
}
"""Replacements of colours in dark mode; the colours of data stay."""


class Drawn(str):
    """A figure as SVG, together with the numbers that it shows."""

    title: str
    data: Mapping[str, Any]

    def __new__(cls, svg: str, title: str = "", data: Mapping[str, Any] | None = None) -> Drawn:
        made = super().__new__(cls, svg)
        made.title, made.data = title, data or {}
        return made


_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": "#c9cfd9",
    "axes.labelcolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "digiq",  # otherwise element ids are random, and equal reports would differ in bytes
}


def arm_color(arm: str, position: int = 0) -> str:
    """The arm's own colour, or one of the palette by its position."""
    return ARM_COLORS.get(arm, PALETTE[position % len(PALETTE)])


@matplotlib.rc_context(_STYLE)
def success_bars(
    groups: Sequence[str],
    arms: Mapping[str, Sequence[Estimate]],
    colors: Sequence[str],
    *,
    hatched: Sequence[str] = (),
    narrow: bool = False,
) -> Drawn:
    """Success rates as grouped bars with intervals.

    Args:
      groups: the groups of bars (pooled, then the splits).
      arms: for each arm one estimate per group, as fractions; NaN where it has none.
      colors: one per arm.
      hatched: arms that do not compete, such as a ceiling.
      narrow: horizontal bars, for a phone.
    """
    width = 0.8 / max(len(arms), 1)
    figure, axis = _figure(4.2, 0.9 + 0.3 * len(groups) * (len(arms) + 1)) if narrow else _figure(9.0, 2.9)
    for position, (arm, estimates) in enumerate(arms.items()):
        at = np.arange(len(groups)) + (position - (len(arms) - 1) / 2) * width
        value = np.array([100 * e.value for e in estimates])
        reach = np.array(
            [[100 * (e.value - e.low) for e in estimates], [100 * (e.high - e.value) for e in estimates]]
        )
        color = colors[position]
        look: dict[str, Any] = {"color": color, "label": arm}
        if arm in hatched:
            look = {
                "facecolor": "none",
                "edgecolor": color,
                "hatch": "////",
                "linewidth": 1.0,
                "label": arm,
            }
        gap = np.nan_to_num(reach)
        bar: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 1.1, "capsize": 3}
        if narrow:
            axis.barh(at, value, width * 0.9, **look)
            axis.errorbar(value, at, xerr=gap, **bar)
        else:
            axis.bar(at, value, width * 0.9, **look)
            axis.errorbar(at, value, gap, **bar)
        for where, height, top in zip(at, value, value + np.nan_to_num(reach[1]), strict=True):
            if np.isfinite(height):
                axis.annotate(
                    f"{height:.0f}",
                    (top, where) if narrow else (where, top),
                    (4, 0) if narrow else (0, 3),
                    textcoords="offset points",
                    ha="left" if narrow else "center",
                    va="center" if narrow else "bottom",
                    fontsize=9,
                    color=INK,
                )
    if narrow:
        axis.set_yticks(np.arange(len(groups)), groups)
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.invert_yaxis()
        axis.set_xlim(0, 112)
        axis.set_xticks(range(0, 101, 25))
        axis.set_xlabel("success, %")
        axis.grid(axis="y", visible=False)
        figure.legend(loc="outside upper left", ncols=2)
    else:
        axis.set_xticks(np.arange(len(groups)), groups)
        axis.tick_params(axis="x", length=0, labelcolor=INK)
        axis.set_ylim(0, 109)
        axis.set_yticks(range(0, 101, 25))
        axis.set_ylabel("success, %")
        axis.grid(axis="x", visible=False)
        axis.legend(ncols=max(len(arms), 1), loc="upper left", bbox_to_anchor=(0, 1.14), borderaxespad=0)
    data = {
        arm: {group: e._asdict() for group, e in zip(groups, estimates, strict=True)}
        for arm, estimates in arms.items()
    }
    return _svg(figure, title="Success", data=data)


_SMOOTHED_FROM = 24
"""A curve with at least this many points gets a moving average drawn over it."""


def smoothed(y: np.ndarray) -> np.ndarray:
    """A moving average over about a twelfth of the points; at the ends, over those that exist.

    Args:
      y: float[n].

    Returns:
      float64[n].
    """
    half = max(1, len(y) // 24)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(y, np.float64))])
    at = np.arange(len(y))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(y))
    return (sums[last] - sums[first]) / (last - first)


@matplotlib.rc_context(_STYLE)
def curves(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
    xlabel: str,
    ylabel: str = "",
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> Drawn:
    """Lines over a common x axis.

    Args:
      series: name to (x, y), float[n] each.
      title: title of the figure.
      xlabel: x label, with the unit.
      ylabel: y label, with the unit.
      log: use a logarithmic y axis if all values are positive and differ enough.
      limits: limits of the y axis.
    """
    figure, axis = _figure(4.4, 3.1)
    for position, (name, (x, y)) in enumerate(series.items()):
        color = arm_color(name, position)
        if len(y) >= _SMOOTHED_FROM:
            axis.plot(x, y, color=color, alpha=0.25, linewidth=1.0)
            axis.plot(x, smoothed(y), color=color, label=name)
        else:
            axis.plot(x, y, color=color, label=name, marker="o" if len(x) < 3 else None, markersize=4)
    values = np.concatenate([np.asarray(y, np.float64) for _, y in series.values()])
    if log and (values > 0).all() and values.max() > 20 * values.min():
        axis.set_yscale("log")
    if limits:
        axis.set_ylim(*limits)
    axis.set_title(title)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return _svg(figure, title=title, data={name: {xlabel: x, "value": y} for name, (x, y) in series.items()})


@matplotlib.rc_context(_STYLE)
def calibration(predicted: np.ndarray, returns: np.ndarray, *, bins: int = 10) -> Drawn:
    """Predicted Q of the logged actions against the discounted return that followed, in bins of equal counts.

    Args:
      predicted: float[n].
      returns: float[n].
      bins: largest number of bins.
    """
    figure, axis = _figure(4.4, 3.4)
    edge = max(1.0, float(np.max(predicted)), float(np.max(returns)))
    base = min(0.0, float(np.min(predicted)))
    axis.plot([base, edge], [base, edge], color="#c9cfd9", linestyle="--", linewidth=1.2)
    groups = [
        g for g in np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(predicted))) if len(g)
    ]
    x = [predicted[g].mean() for g in groups]
    y = [returns[g].mean() for g in groups]
    spread = [1.96 * returns[g].std() / np.sqrt(len(g)) for g in groups]
    axis.errorbar(x, y, spread, fmt="o-", color=PALETTE[0], ecolor="#9db8f5", capsize=2, markersize=5)
    axis.set_title("Calibration of Q")
    axis.set_xlabel("predicted Q of the logged action (mean of a bin)")
    axis.set_ylabel("return that followed")
    shown = {"predicted": x, "returned": y, "half_width": spread, "count": [len(g) for g in groups]}
    return _svg(figure, title="Calibration of Q", data=shown)


@matplotlib.rc_context(_STYLE)
def values_by_outcome(
    remaining: np.ndarray, predicted: np.ndarray, succeeded: np.ndarray, *, horizon: int = 12
) -> Drawn:
    """Mean predicted Q against the actions left until the end of the episode, for successes and failures separately.

    Args:
      remaining: int[n], actions from this one to the last, both included.
      predicted: float[n], Q of the logged action.
      succeeded: bool[n], whether the episode succeeded.
      horizon: number of actions before the end to show.
    """
    figure, axis = _figure(4.4, 3.4)
    shown: dict[str, Any] = {}
    for flag, name, color in [
        (True, "episodes that succeed", PALETTE[2]),
        (False, "episodes that do not", PALETTE[3]),
    ]:
        steps = [k for k in range(1, horizon + 1) if ((remaining == k) & (succeeded == flag)).sum() >= 3]
        groups = [predicted[(remaining == k) & (succeeded == flag)] for k in steps]
        mean = np.array([g.mean() for g in groups])
        half = np.array([1.96 * g.std() / np.sqrt(len(g)) for g in groups])
        axis.plot(steps, mean, color=color, label=name)
        shown[name] = {"actions_left": steps, "mean": mean, "half_width": half}
        axis.fill_between(steps, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    axis.invert_xaxis()
    axis.set_title("Q along episodes")
    axis.set_xlabel("actions left until the end")
    axis.set_ylabel("mean predicted Q")
    axis.legend(loc="best")
    return _svg(figure, title="Q along episodes", data=shown)


@matplotlib.rc_context(_STYLE)
def horizontal_bars(
    names: Sequence[str],
    values: Sequence[float],
    *,
    title: str,
    xlabel: str,
    color: str = PALETTE[0],
    form: str = "{:.0f}",
) -> Drawn:
    """Bars of named quantities, the first on top.

    Args:
      names: names of the bars.
      values: one per name.
      title: title of the figure.
      xlabel: x label, with the unit.
      color: colour of the bars.
      form: format of the value at the end of a bar.
    """
    figure, axis = _figure(4.4, 0.9 + 0.27 * max(len(names), 1))
    y = np.arange(len(names))[::-1]
    axis.barh(y, values, 0.66, color=color)
    for at, value in zip(y, values, strict=True):
        axis.annotate(
            form.format(value),
            (value, at),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axis.set_yticks(y, names)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.margins(x=0.14)
    axis.grid(axis="y", visible=False)
    axis.set_title(title)
    axis.set_xlabel(xlabel)
    return _svg(figure, title=title, data=dict(zip(names, values, strict=True)))


@matplotlib.rc_context(_STYLE)
def histogram(
    samples: Mapping[str, np.ndarray],
    *,
    title: str,
    xlabel: str,
    marks: Mapping[str, float] | None = None,
    integers: bool = False,
) -> Drawn:
    """Distributions as shares.

    Args:
      samples: name to float[n].
      title: title of the figure.
      xlabel: x label, with the unit.
      marks: named vertical lines.
      integers: one bin per whole number.
    """
    figure, axis = _figure(4.4, 2.7)
    values = np.concatenate([np.asarray(s, np.float64) for s in samples.values()])
    bins = (
        np.arange(values.min() - 0.5, values.max() + 1.5) if integers else np.histogram_bin_edges(values, 30)
    )
    for position, (name, sample) in enumerate(samples.items()):
        weights = np.full(len(sample), 100 / max(len(sample), 1))
        axis.hist(
            sample,
            bins=bins.tolist(),
            weights=weights,
            color=arm_color(name, position),
            alpha=0.75,
            label=name,
            rwidth=0.92,
        )
    if integers:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for position, (name, at) in enumerate((marks or {}).items()):
        axis.axvline(at, color=PALETTE[3 + position], linewidth=1.4, label=f"{name} {at:.3g}")
    axis.set_title(title)
    axis.set_xlabel(xlabel)
    axis.set_ylabel("share, %")
    if len(samples) > 1 or marks:
        axis.legend(loc="best")
    shown = {
        name: 100 * np.histogram(sample, bins)[0] / max(len(sample), 1) for name, sample in samples.items()
    }
    return _svg(figure, title=title, data={"edges": bins, "share": shown, "marks": dict(marks or {})})


@matplotlib.rc_context(_STYLE)
def intervals(
    names: Sequence[str], estimates: Sequence[Estimate], colors: Sequence[str], *, xlabel: str
) -> str:
    """Rates with intervals, one per line, the first on top.

    Args:
      names: names of the lines.
      estimates: fractions, shown in %.
      colors: one per line.
      xlabel: x label, with the unit.
    """
    figure, axis = _figure(7.2, 0.8 + 0.27 * max(len(names), 1))
    for at, (found, color) in enumerate(zip(reversed(estimates), reversed(colors), strict=True)):
        value, low, high = (100 * x for x in found)
        axis.plot([low, high], [at, at], color=color, linewidth=2.2, solid_capstyle="round")
        axis.plot([value], [at], "o", color=color, markersize=6)
        axis.annotate(f"{value:.1f}", (high, at), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(range(len(names)), list(reversed(names)))
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.set_xlim(-1, 104)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(xlabel)
    return _svg(figure, opaque=True)


@matplotlib.rc_context(_STYLE)
def sweep(points: Sequence[str], series: Mapping[str, Sequence[Estimate]], *, title: str, ylabel: str) -> str:
    """Rates with intervals over the points of a setting, one line per arm.

    Args:
      points: labels, from left to right.
      series: for each arm one estimate per point, fractions shown in %; NaN where it did not run.
      title: title of the figure.
      ylabel: y label, with the unit.
    """
    figure, axis = _figure(6.0, 3.4)
    x = np.arange(len(points), dtype=float)
    for position, (name, estimates) in enumerate(series.items()):
        value, low, high = (100 * np.array(column) for column in zip(*estimates, strict=True))
        here = x + 0.06 * (position - (len(series) - 1) / 2)
        reach = np.nan_to_num(np.stack([value - low, high - value]))
        color = PALETTE[position % len(PALETTE)]
        axis.errorbar(here, value, reach, fmt="o-", color=color, capsize=3, markersize=5, label=name)
    axis.set_xticks(x, list(points))
    axis.set_ylim(0, None)
    axis.set_title(title)
    axis.set_ylabel(ylabel)
    figure.legend(loc="outside lower center", ncols=2)
    return _svg(figure, opaque=True)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(
    figure: Figure, *, opaque: bool = False, title: str = "", data: Mapping[str, Any] | None = None
) -> Drawn:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=not opaque, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    if not opaque:
        # Text without a colour of its own is black; in dark mode, a figure on a page follows the page.
        rules = "".join(
            f'[style*="{kind}: {old}"]{{{kind}:{new}!important}}'
            for old, new in _DARK.items()
            for kind in ("fill", "stroke")
        )
        legend = 'g[id^="text"] path,g[id^="text"] use{fill:#e7eaf0}'
        style = f"<style>@media (prefers-color-scheme:dark){{{legend}{rules}}}</style>"
        svg = svg.replace("<defs>", f"{style}<defs>", 1)
    return Drawn(svg, title, data)
