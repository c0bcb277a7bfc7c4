"""How well the critic ranks the logged action among its stored candidates, on apps that it has never seen.

No device is needed: in held-out episodes the logged action is the one that a person chose for the goal, so a critic
that reads screens and goals ranks it above the policy's other candidates. Every number is shown beside a random
scorer's.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from android_env.actions import Action, ActionType
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass, load
from digiq.data.schema import Episode
from digiq.drawing import figures, page
from digiq.drawing.page import Cell, Page, Row, Section, Tile, render
from digiq.errors import DigiQError
from digiq.progress import progress
from digiq.proposals.propose import first_of_action
from digiq.report.run_report import (
    LoggedValues,
    RunArtifacts,
    curves_section,
    data_section,
    logged_outcomes,
    logged_strip,
    logged_values,
    provenance_section,
    read_metrics,
)
from digiq.statistics import Estimate, auc, bootstrap_statistic, cluster_bootstrap

STAGE, VERSION = "rank", 1
RANKING, REPORT = "ranking.json", "report.html"
_PAIRS_AT_ONCE = 32


@configclass
class RankingConfig:
    """Which episodes are ranked, and how intervals are computed."""

    split: str = "test"
    """Episodes of this split are the held-out ones."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap replicates over distinct screens."""
    random_draws: Annotated[int, Field(ge=1)] = 200
    """Draws of the random scorer that the critic is compared with."""
    seed: int = 0


def mid_ranks(scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Rank of column 0 among the valid columns of each row, 1 best, ties at mid-rank.

    Args:
      scores: float[R, N].
      valid: bool[R, N]; column 0 must be valid.

    Returns:
      float64[R], in 1..N.
    """
    scores = np.where(valid, scores, -np.inf)
    own = scores[:, :1]
    above = (scores > own).sum(axis=1)
    tied = ((scores == own) & valid).sum(axis=1)  # itself included
    return above + (tied + 1) / 2


def top_credit(scores: np.ndarray, valid: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Chance that the logged action ranks first if ties between different actions are broken at random.

    Args:
      scores: float[R, N].
      valid: bool[R, N].
      first: bool[R, N], the first column of each distinct action, so that copies of an action count once.

    Returns:
      float64[R], 0 where another action scores higher, else one over the number of actions that tie.
    """
    scores = np.where(valid & first, scores, -np.inf)
    own = scores[:, :1]
    return np.where((scores > own).any(axis=1), 0.0, 1.0 / (scores == own).sum(axis=1))


def run(
    config: RankingConfig,
    *,
    episodes: Path,
    rewards: Path | None,
    proposals: Path,
    features: Path,
    critic: Path,
    vlm: Path,
    behavior: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Ranks the held-out episodes' logged actions and writes ``ranking.json`` and ``report.html``.

    Args:
      config: see :class:`RankingConfig`.
      episodes: all episodes, the held-out split among them.
      rewards: rewards of the episodes; relabelled copies are left out of the ranking.
      proposals: the candidates.
      features: features of all observations and candidates.
      critic: a critic that was trained without the held-out split.
      vlm: the tuned VLM, whose actionability is measured on the held-out split.
      behavior: the policy, for its learning curves.
      out: where the two files go.
      overwrite: start anew, whatever ``out`` holds.

    Raises:
      DigiQError: an input is missing, or no episode belongs to the held-out split.
    """
    inputs = {
        "behavior": behavior,
        "episodes": episodes,
        "rewards": rewards,
        "proposals": proposals,
        "features": features,
        "critic": critic,
        "vlm": vlm,
    }
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        run_artifacts = RunArtifacts(**inputs)
        values = logged_values(run_artifacts)
        assert values is not None
        rows = held_out_rows(values, config.split)
        if not len(rows):
            raise DigiQError(
                f"{episodes}: no episode of split '{config.split}' has a logged action; name a split with --split."
            )
        ranking = rank(values, rows, config) | {
            "actionability": actionability(vlm, values.episodes, config),
            "q_trend": q_trend(critic),
        }
        artifacts.atomic_write_json(w.path / RANKING, ranking)
        html = render(make_page(ranking, run_artifacts, values, config))
        artifacts.atomic_write_text(w.path / REPORT, html)
        return w.complete(counts={"states": ranking["states"], "screens": ranking["screens"]})


def held_out_rows(values: LoggedValues, split: str) -> np.ndarray:
    """Rows of the held-out episodes that have a logged action; copies under another goal are left out."""
    wanted = np.array([e.split == split and not e.copy_of for e in values.episodes], bool)
    return np.flatnonzero(wanted[values.index[:, 0]] & values.proposals.valid[:, 0])


def rank(values: LoggedValues, rows: np.ndarray, config: RankingConfig) -> dict[str, Any]:
    """Mean rank and rank-at-1 of the logged action, the critic's and a random scorer's.

    ``mean_rank`` counts all N candidates, including copies of an action (they tie). ``mean_rank_distinct`` counts each
    action once. ``rank_at_1`` is the chance of ranking first if ties are broken at random.
    """
    candidates = [values.actions(row) for row in rows]
    valid, q = values.proposals.valid[rows], values.q[rows]
    first = first_of_action(candidates)
    screens = [_screen_key(values, row) for row in rows]
    # The random scorer gives copies of an action the same score, as any scorer of actions does.
    source = np.array(
        [[row.index(a) if a is not None else n for n, a in enumerate(row)] for row in candidates]
    )
    rng = np.random.default_rng(config.seed)
    draws = [np.take_along_axis(rng.random(q.shape), source, axis=1) for _ in range(config.random_draws)]

    def measure(name: str) -> dict[str, Any]:
        per_row = _MEASURES[name]
        own = per_row(q, valid, first)
        chance = np.mean([per_row(scores, valid, first) for scores in draws], axis=0)

        def interval(row_values: np.ndarray) -> dict[str, float]:
            return cluster_bootstrap(
                row_values, screens, resamples=config.resamples, seed=config.seed
            )._asdict()

        return {"critic": interval(own), "random": interval(chance), "difference": interval(own - chance)}

    ranks = mid_ranks(q, valid & first)
    return {
        "split": config.split,
        "states": len(rows),
        "screens": len(set(screens)),
        "candidates": int(valid.shape[1]),
        "distinct_candidates": float(first.sum(axis=1).mean()),
        **{name: measure(name) for name in _MEASURES},
        "rank_counts": np.bincount(np.ceil(ranks).astype(int), minlength=valid.shape[1] + 1)[1:].tolist(),
        "by_action": by_action(candidates, q, valid & first),
    }


def by_action(
    candidates: Sequence[Sequence[Action | None]], q: np.ndarray, distinct: np.ndarray
) -> list[dict[str, Any]]:
    """For each kind of action, how logged ones rank and how far Q of such candidates is above that of their states.

    Args:
      candidates: R rows of N, the logged action first.
      q: float[R, N].
      distinct: bool[R, N], marks each action of a row once.

    Returns:
      By falling count of logged actions: ``action``, ``states``, ``mean_rank`` and ``random`` among distinct candidates
      (None if none was logged), ``candidates``, and ``lead``, the mean of Q minus its mean over the state's distinct
      candidates.
    """
    kinds = np.array([["" if a is None else _kind(a) for a in row] for row in candidates])
    ranks, chance = mid_ranks(q, distinct), (distinct.sum(axis=1) + 1) / 2
    lead = q - np.nanmean(np.where(distinct, q, np.nan), axis=1, keepdims=True)
    rows = []
    for kind in np.unique(kinds[distinct]):
        logged, shown = kinds[:, 0] == kind, (kinds == kind) & distinct
        rows.append(
            {
                "action": str(kind),
                "states": int(logged.sum()),
                "mean_rank": float(ranks[logged].mean()) if logged.any() else None,
                "random": float(chance[logged].mean()) if logged.any() else None,
                "candidates": int(shown.sum()),
                "lead": float(lead[shown].mean()),
            }
        )
    return sorted(rows, key=lambda row: -row["states"])


def _kind(action: Action) -> str:
    if action.type is ActionType.DUAL_POINT:
        return "tap" if action.is_tap else "swipe"
    return action.type.name.lower().replace("status_task_", "").replace("_", " ")


_MEASURES = {
    "mean_rank": lambda scores, valid, first: mid_ranks(scores, valid),
    "mean_rank_distinct": lambda scores, valid, first: mid_ranks(scores, valid & first),
    "rank_at_1": top_credit,
}


def actionability(vlm: Path, episodes: Sequence[Episode], config: RankingConfig) -> dict[str, Any]:
    """AUC of the VLM's Yes against No for whether each held-out action changed the screen.

    The model sees actions as it did in tuning; an untuned model sees them as tuning would show them by default.
    """
    from digiq.vlm.backbone import load_backbone
    from digiq.vlm.tune import TuneVlmConfig, actionability_examples, change_scores

    tuned = TuneVlmConfig()
    if (vlm / artifacts.MANIFEST).is_file():
        tuned = load(TuneVlmConfig, artifacts.read_manifest(vlm).config, where=str(vlm / artifacts.MANIFEST))
    held_out = [e for e in episodes if e.split == config.split and not e.copy_of]
    examples = actionability_examples(held_out)
    backbone = load_backbone(vlm, device=tuned.device, dtype=tuned.dtype)
    with progress("rank: actionability", len(examples), unit="pairs") as bar:
        blocks = []
        for start in range(0, len(examples), _PAIRS_AT_ONCE):
            block = examples[start : start + _PAIRS_AT_ONCE]
            blocks.append(change_scores(backbone, block, grounding=tuned.grounding, prompt=tuned.prompt))
            bar.advance(len(block))
    scores = np.concatenate(blocks) if blocks else np.zeros(0)
    changed = np.array([example.changed for example in examples], bool)
    found = Estimate(math.nan, math.nan, math.nan)
    if len(examples):
        screens = [hashlib.sha256(example.png).digest() for example in examples]
        found = bootstrap_statistic(
            lambda rows: auc(scores[rows], changed[rows]),
            screens,
            resamples=config.resamples,
            seed=config.seed,
        )
    shown = {name: None if math.isnan(value) else value for name, value in found._asdict().items()}
    return {"auc": shown, "pairs": len(examples), "positives": int(changed.sum())}


def q_trend(critic: Path) -> list[dict[str, float]]:
    """Mean Q over training, as the critic logged it."""
    rows = read_metrics(critic / "metrics.jsonl")
    return [
        {key: value for key, value in row.items() if key in ("epoch", "step") or "q" in key.lower()}
        for row in rows
    ]


def _screen_key(values: LoggedValues, row: int) -> str:
    """A key that is equal for equal screenshots."""
    episode, step = values.index[row]
    return hashlib.sha256(values.episodes[episode].steps[step].screenshot).hexdigest()


def print_ranking(path: Path, console: Console | None = None) -> None:
    """Prints the table of a finished ranking, and the path of its report."""
    console = console or Console()
    ranking = json.loads((artifacts.open(path, stage=STAGE).path / RANKING).read_text(encoding="utf-8"))
    found = _table(ranking)
    table = Table(
        title=f"Held-out app: {ranking['states']} states, {ranking['screens']} distinct screens "
        "(95 % intervals over screens)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(found.header):
        table.add_column(name, justify="right" if number else "left")
    for row in found.rows:
        table.add_row(*(Text(f"{c.text}\n{c.small}" if c.small else c.text) for c in row.cells))
    console.print(table)
    console.print(Text(found.note))
    trend = [row["q_mean"] for row in ranking["q_trend"] if "q_mean" in row]
    if trend:
        console.print(f"Mean Q went from {trend[0]:.3f} to {trend[-1]:.3f} in {len(trend)} epochs.")
    console.print(Text(f"Report: {path / REPORT}"))


def make_page(
    ranking: dict[str, Any], run_artifacts: RunArtifacts, values: LoggedValues, config: RankingConfig
) -> Page:
    """The report of the ranking."""
    held_out = [n for n, e in enumerate(values.episodes) if e.split == config.split and not e.copy_of]
    apps = sorted({values.episodes[n].task_id for n in held_out})
    shown = sorted(held_out, key=lambda n: -len(values.episodes[n].steps))[:2]
    actionability_auc = ranking["actionability"]["auc"]
    tiles = (
        Tile(
            _text(actionability_auc, "{:.2f}"),
            "actionability AUC",
            _range(actionability_auc, "{:.2f}") + " · chance 0.50",
            "digiq",
        ),
        _tile(
            ranking, "mean_rank", f"mean rank of the logged action of {ranking['candidates']}", "{:.2f}", 1
        ),
        _tile(ranking, "rank_at_1", "logged action ranked first, %", "{:.1f}", 100),
    )
    sections = [
        Section(
            anchor="ranking",
            name="The held-out app",
            lead=f"{ranking['states']} states on {ranking['screens']} distinct screens of {', '.join(apps)}, which no "
            "stage trained on. Intervals resample distinct screens.",
            tables=(_table(ranking), _by_action_table(ranking)),
            figures=_figures(ranking, values, run_artifacts),
        ),
        Section(
            anchor="episodes",
            name="What the critic sees",
            lead="Held-out episodes. Candidates are numbered by the learned Q.",
            strips=tuple(logged_strip(values, n, "Held out", None) for n in shown),
        ),
        curves_section(run_artifacts),
        data_section(run_artifacts, values),
        provenance_section(run_artifacts, {}),
    ]
    return Page(
        title="DigiQ · ranking on a held-out app",
        subtitle=f"{len(values.episodes)} episodes, copies under other goals included",
        tiles=tiles,
        sections=tuple(s for s in sections if s is not None),
        footer="Intervals are 95 %, from a bootstrap over distinct screens.",
    )


def _figures(
    ranking: dict[str, Any], values: LoggedValues, run_artifacts: RunArtifacts
) -> tuple[tuple[str, str], ...]:
    counts = ranking["rank_counts"]
    share = [100 * n / max(sum(counts), 1) for n in counts]
    ranks = figures.horizontal_bars(
        [str(n + 1) for n in range(len(counts))],
        share,
        title="Rank of the logged action",
        xlabel="share of states, % (distinct candidates)",
        form="{:.1f}",
    )
    held_out = np.array([e.split == ranking["split"] for e in values.episodes])
    logged = logged_outcomes(values, 0.95)
    here = held_out[logged.episode]
    along = figures.values_by_outcome(logged.remaining[here], logged.q[here], logged.succeeded[here])
    return (
        (ranks, "Mid-ranks of ties are rounded up here."),
        (
            along,
            "Held-out episodes under their own goal, and the same screens under another goal (reward 0).",
        ),
    )


def _table(ranking: dict[str, Any]) -> page.Table:
    lines = [
        ("mean rank, all candidates", "mean_rank", 1, "{:.2f}"),
        ("mean rank, distinct candidates", "mean_rank_distinct", 1, "{:.2f}"),
        ("ranked first, %", "rank_at_1", 100, "{:.1f}"),
    ]
    rows = []
    for name, key, scale, form in lines:
        cells = [Cell(name)]
        for who in ("critic", "random", "difference"):
            e = ranking[key][who]
            cells.append(
                Cell(
                    form.format(scale * e["value"]),
                    f"{form} to {form}".format(scale * e["low"], scale * e["high"]),
                )
            )
        rows.append(Row(tuple(cells)))
    found = ranking["actionability"]
    rows.append(
        Row(
            (
                Cell("actionability AUC"),
                Cell(_text(found["auc"], "{:.3f}"), _range(found["auc"], "{:.3f}")),
                Cell("0.500"),
                Cell("–"),
            )
        )
    )
    note = (
        f"Actionability: {found['positives']} of {found['pairs']} held-out actions changed the screen. "
        f"A state has {ranking['distinct_candidates']:.1f} distinct candidates on average."
    )
    return page.Table(("", "critic", "random scorer", "difference"), tuple(rows), note=note)


def _by_action_table(ranking: dict[str, Any]) -> page.Table:
    rows = [
        Row(
            (
                Cell(row["action"]),
                Cell(str(row["states"])),
                Cell("–" if row["mean_rank"] is None else f"{row['mean_rank']:.2f}"),
                Cell("–" if row["random"] is None else f"{row['random']:.2f}"),
                Cell(str(row["candidates"])),
                Cell(f"{row['lead']:+.3f}"),
            )
        )
        for row in ranking["by_action"]
    ]
    note = (
        "Rank: that of the logged action among distinct candidates. Lead: mean Q of all candidates of the kind, minus "
        "the mean of their state. A kind with high Q in every state pushes the others down. An example is declaring the "
        "task complete, if no logged episode ever did so too early."
    )
    header = ("logged action", "states", "mean rank", "random scorer", "candidates", "lead in Q")
    return page.Table(header, tuple(rows), note=note)


def _tile(ranking: dict[str, Any], key: str, label: str, form: str, scale: float) -> Tile:
    own, chance = ranking[key]["critic"], ranking[key]["random"]
    note = f"{form} to {form} · random {form}".format(
        scale * own["low"], scale * own["high"], scale * chance["value"]
    )
    return Tile(form.format(scale * own["value"]), label, note, "digiq")


def _text(estimate: dict[str, float | None], form: str) -> str:
    return "–" if estimate["value"] is None else form.format(estimate["value"])


def _range(estimate: dict[str, float | None], form: str) -> str:
    return "" if estimate["low"] is None else f"{form} to {form}".format(estimate["low"], estimate["high"])
