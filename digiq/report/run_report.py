"""The report of a finished run: one self-contained HTML page, made from the artefacts alone."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from android_env.actions import Action
from digiq import artifacts
from digiq.critics.critic import candidate_values, load_critic
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode
from digiq.data.transitions import build_transitions, observation_index, returns
from digiq.drawing import figures
from digiq.drawing.page import (
    Cell,
    Detail,
    Page,
    Row,
    Section,
    Table,
    Term,
    Tile,
    figure_data,
    plain_json,
    render,
)
from digiq.drawing.strips import Strip, candidate_strip
from digiq.errors import DigiQError
from digiq.evaluation.evaluate import EPISODES, TABLE, read_results
from digiq.evaluation.outcomes import Outcome
from digiq.evaluation.records import recorded_by_id
from digiq.evaluation.summary import ARM_ABOUT, CEILING, SPLIT_ABOUT, arm_title, main_arm, split_title
from digiq.features.extract import open_features
from digiq.proposals.propose import Proposals, load_proposals, supported
from digiq.statistics import Comparison, Estimate, paired_comparison

MAX_STRIP_STEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArtifacts:
    """Paths of a run's artefacts; those that are None are left out of the report."""

    behavior: Path | None = None
    episodes: Path | None = None
    rewards: Path | None = None
    proposals: Path | None = None
    vlm: Path | None = None
    features: Path | None = None
    critic: Path | None = None
    policies: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Extracted policies by arm."""
    evaluations: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Evaluations by arm, in the order of the tables."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """How extraction chose: among candidates that are likely enough, and only where the best one is good enough."""

    threshold: float
    """Least Q - V, in units of return."""
    support: float
    """Least probability of a candidate, as a share of the likeliest candidate's."""


@dataclasses.dataclass(frozen=True)
class LoggedValues:
    """The logged episodes with the critic's values of every stored candidate."""

    episodes: Sequence[Episode]
    index: np.ndarray
    """int[S, 2], (episode, step) of each row."""
    proposals: Proposals
    q: np.ndarray
    """float[S, N]; NaN where a candidate is invalid."""
    v: np.ndarray
    """float[S], the baseline of extraction."""

    def usable(self, gate: Gate | None) -> np.ndarray:
        """bool[S, N]: valid candidates that extraction does not leave out."""
        if gate is None or gate.support == 0:
            return self.proposals.valid
        return self.proposals.valid & supported(self.proposals.log_prob, self.proposals.valid, gate.support)

    def rows_of(self, episode: int) -> np.ndarray:
        """Row numbers of one episode, in the order of its steps."""
        return np.flatnonzero(self.index[:, 0] == episode)

    def actions(self, row: int) -> list[Action | None]:
        """The N candidates of a row, None where invalid."""
        valid = self.proposals.valid[row]
        return [self.proposals.action(row, n) if valid[n] else None for n in range(len(valid))]


SectionOf = Callable[[RunArtifacts, LoggedValues | None], Section | None]
"""Makes a section of the report, from the artefacts and the critic's values."""


def write_report(
    run: RunArtifacts,
    out: Path,
    *,
    title: str,
    seconds: Mapping[str, float] | None = None,
    further: Sequence[SectionOf] = (),
) -> Path:
    """Writes the report.

    Args:
      run: the artefacts to show.
      out: the HTML file.
      title: title of the page, e.g. ``DigiQ · quickstart``.
      seconds: stage to wall seconds, for the provenance section.
      further: functions that make further sections, after the critic's; a section is left out if it is None.

    Returns:
      ``out``. The numbers of every figure are beside it, in a file with the suffix ``.json``.

    Raises:
      ArtifactError: a named artefact is missing or unfinished.
    """
    values = logged_values(run)
    gate = gate_of(run.policies)
    pairs = compare_arms(run.evaluations, run.policies)
    sections = [
        results_section(run.evaluations, run.policies, pairs),
        episodes_section(values, gate),
        critic_section(run, values, gate),
        *(section(run, values) for section in further),
        curves_section(run),
        data_section(run, values),
        play_section(run.evaluations, run.policies),
        provenance_section(run, seconds or {}),
    ]
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = Page(
        title=title,
        subtitle=_subtitle(run),
        verdict=verdict(run.evaluations, run.policies, pairs),
        tiles=headline(run.evaluations),
        sections=tuple(s for s in sections if s is not None),
        footer=f"Made {made}. Rates are fractions of all scheduled episodes; intervals are Wilson 95 %.",
    )
    artifacts.atomic_write_text(out, render(page))
    artifacts.atomic_write_text(out.with_suffix(".json"), plain_json(figure_data(page)) + "\n")
    return out


def logged_values(run: RunArtifacts) -> LoggedValues | None:
    """Q and V of every candidate that has features; they are stored, so the VLM does not run. None without a critic."""
    if not (run.episodes and run.proposals and run.features and run.critic):
        return None
    episodes = list(LabelledEpisodes(run.episodes, run.rewards))
    index = observation_index(episodes)
    proposals, q, v = candidate_scores(run)
    if len(index) != len(q):
        raise DigiQError(
            f"{run.features}: {len(q)} rows, but the episodes have {len(index)} and the proposals "
            f"{len(proposals.valid)}; name artefacts of one run."
        )
    # Candidates without features (``featurize.support``) have no Q, so they do not count here.
    proposals = dataclasses.replace(proposals, valid=proposals.valid & ~np.isnan(q))
    return LoggedValues(episodes, index, proposals, q, v)


def candidate_scores(run: RunArtifacts) -> tuple[Proposals, np.ndarray, np.ndarray]:
    """The stored candidates, their Q (float64 [S, N], NaN for those invalid or without features), and V (float64 [S]).

    Raises:
      DigiQError: proposals and features of different runs.
    """
    assert run.proposals and run.features and run.critic
    proposals = load_proposals(run.proposals)
    q, v = candidate_values(load_critic(run.critic), open_features(run.features))
    if len(q) != len(proposals.valid):
        raise DigiQError(
            f"{run.features}: {len(q)} rows, but the proposals have {len(proposals.valid)}; name artefacts of one run."
        )
    return proposals, np.where(proposals.valid, np.asarray(q, np.float64), np.nan), np.asarray(v, np.float64)


def headline(evaluations: Mapping[str, Path]) -> tuple[Tile, ...]:
    """One tile per arm."""
    tiles = []
    for arm, table in _tables(evaluations).items():
        row = table["pooled"]
        note = f"{100 * row['low']:.1f} to {100 * row['high']:.1f} · {row['episodes']} episodes"
        tiles.append(Tile(f"{100 * row['success']:.1f} %", f"{arm_title(arm)}: test success", note, arm))
    return tuple(tiles)


def verdict(
    evaluations: Mapping[str, Path], policies: Mapping[str, Path], pairs: Mapping[str, Comparison]
) -> str:
    """The conclusion of the run, in words that its intervals support; empty without evaluations."""
    tables = _tables(evaluations)
    if not tables:
        return ""
    main = _main(tables, policies)
    rate = f"{arm_title(main)} succeeds on {100 * tables[main]['pooled']['success']:.1f} % of the held-out episodes"
    told = [
        _difference(arm_title(other), found.difference) for other, found in pairs.items() if other != CEILING
    ]
    said = [f"{rate}: {', and '.join(told)}." if told else f"{rate}."]
    if CEILING in tables:
        ceiling = 100 * tables[CEILING]["pooled"]["success"]
        said.append(f"The ceiling, which asks the simulator, is at {ceiling:.1f} %.")
    said.append("This is one run under one seed; a study over several says more.")
    return " ".join(said)


def _difference(other: str, found: Estimate) -> str:
    points, low, high = (100 * x for x in found)
    span = f"{abs(points):.1f} points, 95 %: {low:+.1f} to {high:+.1f}"
    other = "the behaviour policy" if other == arm_title("behavior") else other
    if low > 0:
        return f"more than {other} ({span})"
    if high < 0:
        return f"less than {other} ({span})"
    return f"not told apart from {other} ({points:+.1f} points, 95 %: {low:+.1f} to {high:+.1f})"


def results_section(
    evaluations: Mapping[str, Path], policies: Mapping[str, Path], pairs: Mapping[str, Comparison]
) -> Section | None:
    """A description of the arms, success bars, the table, and the main arm against each other arm, paired."""
    tables = _tables(evaluations)
    if not tables:
        return None
    splits = list(dict.fromkeys(s for t in tables.values() for s in t["splits"]))
    groups = ["pooled", *splits] if len(splits) > 1 else splits or ["pooled"]
    rows = {arm: {"pooled": t["pooled"], **t["splits"]} for arm, t in tables.items()}
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    bars = {
        arm_title(arm): [_estimate(parts[g]) if g in parts else nothing for g in groups]
        for arm, parts in rows.items()
    }
    colors = [figures.arm_color(arm, i) for i, arm in enumerate(rows)]
    names, hatched = [split_title(g) for g in groups], [arm_title(CEILING)]
    wide, narrow = (
        figures.success_bars(names, bars, colors, hatched=hatched, narrow=narrow) for narrow in (False, True)
    )
    header = ("arm", *names, "mean steps", "truncated", "faults", "episodes")
    pooled_rates = [parts["pooled"]["success"] for arm, parts in rows.items() if arm != CEILING]
    top = max(pooled_rates, default=0.0)
    best = next(
        (i for i, arm in enumerate(rows) if arm != CEILING and rows[arm]["pooled"]["success"] == top), -1
    )
    table_rows = []
    for position, parts in enumerate(rows.values()):
        pooled = parts["pooled"]
        steps = "–" if pooled["mean_steps"] is None else f"{pooled['mean_steps']:.1f}"
        cells = [Cell(list(bars)[position]), *(_rate_cell(parts.get(g)) for g in groups)]
        counts = (steps, str(pooled["outcomes"]["truncated"]), str(pooled["faults"]), str(pooled["episodes"]))
        cells += [Cell(text) for text in counts]
        table_rows.append(Row(tuple(cells), colors[position]))
    note = "Success in % of all scheduled episodes with its Wilson 95 % interval. Truncated: out of steps."
    success = Table(header, tuple(table_rows), best if pooled_rates.count(top) == 1 else -1, note)
    paired = _paired_table(_main(evaluations, policies), pairs)
    terms = [
        Term(arm_title(arm), f"{ARM_ABOUT[arm]}.", color)
        for arm, color in zip(rows, colors, strict=True)
        if arm in ARM_ABOUT
    ]
    terms += [Term(split_title(g), f"{SPLIT_ABOUT[g]}.") for g in groups if g in SPLIT_ABOUT]
    return Section(
        anchor="results",
        name="Success on held-out tasks",
        lead="Every arm ran the same episodes: the same tasks, layouts and noise. No test task was seen in training.",
        terms=tuple(terms),
        wide_figures=((wide, ""),),
        narrow_figures=((narrow, ""),),
        tables=(success, *((paired,) if paired else ())),
    )


def episodes_section(values: LoggedValues | None, gate: Gate | None) -> Section | None:
    """Full logged episodes with all candidates, their Q, V and the best one."""
    if values is None:
        return None
    strips = []
    for wanted, title in [(True, "An episode that succeeded"), (False, "An episode that did not")]:
        number = _median_episode(values.episodes, wanted)
        if number is not None:
            strips.append(logged_strip(values, number, title, gate))
    return Section(
        anchor="episodes",
        name="What the critic sees",
        lead="Two logged episodes of the behaviour policy, chosen only by length: the median of those that succeeded, and "
        "of those that did not. Each screen shows its candidate actions, ranked by the learned Q. Extraction leaves out "
        "the pale ones, because the behaviour policy hardly ever takes them. A tick means that the best of the others "
        "exceeds V by more than the threshold, so the new policy imitates it.",
        strips=tuple(strips),
    )


def logged_strip(values: LoggedValues, number: int, title: str, gate: Gate | None) -> Strip:
    """One logged episode as a strip."""
    episode = values.episodes[number]
    rows = values.rows_of(number)
    title = f"{title} · {episode.task_id}"
    candidates = [values.actions(row) for row in rows]
    return candidate_strip(
        episode,
        candidates,
        values.q[rows],
        values.v[rows],
        title=title,
        threshold=None if gate is None else gate.threshold,
        usable=values.usable(gate)[rows],
    )


def critic_section(run: RunArtifacts, values: LoggedValues | None, gate: Gate | None) -> Section | None:
    """Calibration, Q along episodes, and the advantage that the extraction gate uses."""
    if values is None or run.critic is None:
        return None
    gamma = find_setting(artifacts.read_manifest(run.critic).config, "gamma", 0.95)
    logged = logged_outcomes(values, gamma)
    gap = np.nanmax(np.where(values.usable(gate), values.q, np.nan), axis=1) - values.v
    marks = {} if gate is None else {"threshold": gate.threshold}
    kept = "" if gate is None else f"{100 * np.mean(gap > gate.threshold):.1f} % of states pass. "
    return Section(
        anchor="critic",
        name="The critic",
        lead="A useful Q orders actions well; a calibrated one also says how often they lead to the goal.",
        figures=(
            (
                figures.calibration(logged.q, logged.returns),
                "Each point is a tenth of the logged actions; on the dashed line, prediction and outcome agree. The "
                "returns are those of the behaviour policy, so the critic of a better policy lies right of the line.",
            ),
            (
                figures.values_by_outcome(logged.remaining, logged.q, logged.succeeded),
                "Q should rise towards the end of episodes that succeed.",
            ),
            (
                figures.histogram(
                    {"states": gap},
                    title="Best Q minus V",
                    xlabel="advantage of the best candidate",
                    marks=marks,
                ),
                f"{kept}Only states right of the threshold are imitated.",
            ),
        ),
    )


@dataclasses.dataclass(frozen=True)
class LoggedOutcomes:
    """What followed each logged action."""

    episode: np.ndarray
    """int[n], number of the episode."""
    q: np.ndarray
    """float[n], the critic's Q of the action."""
    returns: np.ndarray
    """float[n], discounted return that followed."""
    remaining: np.ndarray
    """int[n], actions from this one to the episode's last, both included."""
    succeeded: np.ndarray
    """bool[n], whether the episode succeeded."""


def logged_outcomes(values: LoggedValues, gamma: float) -> LoggedOutcomes:
    """Joins the critic's Q of the logged actions with what followed them."""
    transitions = build_transitions(values.episodes, timeout="terminal")
    g = returns(transitions, gamma)
    length = np.bincount(transitions.episode)
    undiscounted = np.bincount(transitions.episode, weights=transitions.reward)
    return LoggedOutcomes(
        episode=transitions.episode,
        q=values.q[transitions.obs, 0],
        returns=np.asarray(g, np.float64),
        remaining=length[transitions.episode] - transitions.step,
        succeeded=undiscounted[transitions.episode] > 0.5,
    )


def curves_section(run: RunArtifacts) -> Section | None:
    """Learning curves of every stage that logged metrics."""
    sources = [("Policy fit", run.behavior), ("VLM actionability", run.vlm), ("Critic", run.critic)]
    sources += [(f"{arm_title(arm)} fit", path) for arm, path in run.policies.items()]
    shown = [f for name, path in sources if path is not None for f in learning_curves(name, path)]
    if not shown:
        return None
    return Section(anchor="curves", name="Learning curves", figures=tuple((svg, "") for svg in shown))


def learning_curves(name: str, path: Path) -> list[str]:
    """The figures of an artefact's ``metrics.jsonl``: one each for losses, errors, mean values and rates."""
    rows = read_metrics(path / "metrics.jsonl")
    if not rows:
        return []
    clock = next((key for key in ("epoch", "update", "step") if key in rows[0]), "")
    groups: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {kind: {} for kind in _CURVES}
    for key in dict.fromkeys(k for row in rows for k in row):
        kind = _kind_of_metric(key)
        points = [(row.get(clock, i), row[key]) for i, row in enumerate(rows) if _is_number(row.get(key))]
        if kind and key != clock and len(points) > 1:
            x, y = np.array(points, np.float64).T
            groups[kind][key.replace("_", " ").replace("heldout", "held-out")] = (x, y)
    return [
        figures.curves(
            series,
            title=f"{name}: {_CURVES[kind]}",
            xlabel=clock or "report",
            log=kind in ("loss", "error"),
            limits=(0.0, 1.03) if kind == "rate" else None,
        )
        for kind, series in groups.items()
        if series
    ]


_CURVES = {"loss": "loss", "error": "root mean square error", "value": "mean values", "rate": "accuracy"}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl``; empty if the stage logged none. An unfinished last line is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def data_section(run: RunArtifacts, values: LoggedValues | None) -> Section | None:
    """A data card: episodes, success, lengths, actions, candidates."""
    if run.episodes is None:
        return None
    episodes = values.episodes if values else LabelledEpisodes(run.episodes, run.rewards)
    lengths, kinds, splits = [], Counter(), {}
    successes = 0
    for episode in episodes:
        lengths.append(episode.num_actions)
        kinds.update(_kind_of_action(s.action) for s in episode.steps if s.action is not None)
        won = episode.total_reward > 0.5
        successes += won
        count = splits.setdefault(episode.split, [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + won
    total = len(lengths)
    facts = [
        ("episodes", f"{total}"),
        ("success", f"{100 * successes / max(total, 1):.1f} %"),
        ("actions", f"{sum(lengths)}"),
        ("mean length", f"{np.mean(lengths):.1f}"),
        *(
            (f"success, split {s}", f"{100 * w / n:.1f} % of {n}")
            for s, (n, w) in splits.items()
            if len(splits) > 1
        ),
    ]
    shown = [
        (
            figures.horizontal_bars(
                [k for k, _ in kinds.most_common()],
                [100 * n / max(sum(lengths), 1) for _, n in kinds.most_common()],
                title="Logged actions",
                xlabel="share, %",
                form="{:.1f}",
            ),
            "",
        ),
        (
            figures.histogram(
                {"episodes": np.array(lengths)}, title="Episode length", xlabel="actions", integers=True
            ),
            "",
        ),
    ]
    if run.proposals is not None:
        proposals = values.proposals if values else load_proposals(run.proposals)
        distinct = distinct_candidates(proposals)
        facts += [
            ("candidates a state", f"{proposals.valid.shape[1]}"),
            ("distinct, mean", f"{distinct.mean():.2f}"),
            ("states with one only", f"{100 * np.mean(distinct <= 1):.1f} %"),
        ]
        svg = figures.histogram(
            {"states": distinct},
            title="Distinct candidates",
            xlabel="distinct actions a state",
            integers=True,
        )
        shown.append((svg, "Best-of-N can only choose where there is something to choose from."))
    card = Table(tuple(name for name, _ in facts), (Row(tuple(Cell(text) for _, text in facts)),))
    return Section(anchor="data", name="The data", tables=(card,), figures=tuple(shown))


def distinct_candidates(proposals: Proposals) -> np.ndarray:
    """Number of distinct actions among each state's valid candidates, int[S]."""
    rows, width = proposals.valid.shape
    return np.array(
        [len({proposals.action(s, n) for n in range(width) if proposals.valid[s, n]}) for s in range(rows)]
    )


def play_section(evaluations: Mapping[str, Path], policies: Mapping[str, Path]) -> Section | None:
    """Recorded test episodes: the behaviour policy and the main arm on the same ones, or the main arm alone."""
    if not evaluations:
        return None
    arm = _main(evaluations, policies)
    strips = recorded_by_id(evaluations[arm])
    if not strips:
        return None
    before = (
        recorded_by_id(evaluations["behavior"]) if "behavior" in evaluations and arm != "behavior" else {}
    )
    common = [i for i in strips if i in before]
    if not common:
        return Section(
            anchor="play",
            name=f"{arm_title(arm)} at play",
            lead="The first test episodes of the evaluation, not selected.",
            strips=tuple(strips.values()),
        )
    won = {i: (before[i].outcome == "success", strips[i].outcome == "success") for i in common}
    kinds = {
        (False, True): f"{arm_title(arm)} alone succeeds",
        (True, False): "the behaviour policy alone succeeds",
        (True, True): "both succeed",
        (False, False): "neither succeeds",
    }
    counts = [f"on {n} {words}" for kind, words in kinds.items() if (n := list(won.values()).count(kind))]
    # The first episode of each kind, so that nobody selects.
    shown = [next(i for i in common if won[i] == kind) for kind in kinds if kind in won.values()]
    pairs = tuple(
        tuple(
            dataclasses.replace(of[i], title=f"{arm_title(name)} · {of[i].title}")
            for name, of in (("behavior", before), (arm, strips))
        )
        for i in shown
    )
    return Section(
        anchor="play",
        name=f"Behaviour policy and {arm_title(arm)} on the same tasks",
        lead=f"Of the {len(common)} recorded test episodes, {', '.join(counts)}. The first of each kind, from the first screen "
        "to the end, with the action that followed each screen. 'digiq view' shows the others.",
        pairs=pairs,
    )


def provenance_section(run: RunArtifacts, seconds: Mapping[str, float]) -> Section | None:
    """Each stage's configuration, and where the time went."""
    named = [
        (name, getattr(run, name))
        for name in ("behavior", "episodes", "rewards", "proposals", "vlm", "features", "critic")
    ]
    named += [(f"policy/{arm}", path) for arm, path in run.policies.items()]
    named += [(f"evaluation/{arm}", path) for arm, path in run.evaluations.items()]
    details = []
    for name, path in named:
        if path is None or not (path / artifacts.MANIFEST).is_file():
            continue
        manifest = artifacts.read_manifest(path)
        counts = ", ".join(f"{k} {v}" for k, v in manifest.counts.items() if _is_number(v) and v)
        text = json.dumps(
            {
                "config": manifest.config,
                "inputs": manifest.inputs,
                "counts": manifest.counts,
                "environment": manifest.environment,
            },
            indent=2,
        )
        details.append(Detail(name, f"{manifest.stage} · {counts}", text))
    shown = ()
    if seconds:
        svg = figures.horizontal_bars(
            list(seconds), list(seconds.values()), title="Wall time by stage", xlabel="seconds"
        )
        shown = ((svg, f"{sum(seconds.values()) / 60:.1f} minutes in all."),)
    if not details and not shown:
        return None
    return Section(
        anchor="provenance",
        name="Provenance",
        lead="Each stage wrote an artefact with its resolved configuration, the content digests of its inputs and "
        "checksums of its files.",
        figures=shown,
        details=tuple(details),
    )


def gate_of(policies: Mapping[str, Path]) -> Gate | None:
    """How the extraction of the main arm's policy chose, from its manifest; None when it had no threshold."""
    if not policies:
        return None
    manifest = artifacts.read_manifest(policies[main_arm(policies, policies)])
    value = manifest.extra.get("threshold", manifest.counts.get("threshold"))
    if not isinstance(value, int | float):
        return None
    return Gate(float(value), float(find_setting(manifest.config, "support", 0.0)))


def _tables(evaluations: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    return {
        arm: json.loads((artifacts.open(path, stage="evaluate").path / TABLE).read_text(encoding="utf-8"))
        for arm, path in evaluations.items()
    }


def compare_arms(evaluations: Mapping[str, Path], policies: Mapping[str, Path]) -> dict[str, Comparison]:
    """The main arm against each other arm, over the episodes that both ran; by the other's name."""
    if len(evaluations) < 2:
        return {}
    results = {
        arm: {r.episode_id: r for r in read_results(path / EPISODES)} for arm, path in evaluations.items()
    }
    main = _main(results, policies)
    found: dict[str, Comparison] = {}
    for other in (arm for arm in results if arm != main):
        common = [
            i for i, r in results[main].items() if i in results[other] and results[other][i].seed == r.seed
        ]
        if not common:
            continue
        a, b = ([float(results[arm][i].outcome is Outcome.SUCCESS) for i in common] for arm in (main, other))
        tasks = [results[main][i].task_id for i in common]
        found[other] = paired_comparison(a, b, tasks, resamples=_RESAMPLES)
    return found


_RESAMPLES = 4000


def _main(arms: Iterable[str], policies: Mapping[str, Path]) -> str:
    """The arm that the others are compared with; a ceiling does not compete."""
    names = list(arms)
    return main_arm([arm for arm in names if arm != CEILING] or names, policies)


def _paired_table(main: str, pairs: Mapping[str, Comparison]) -> Table | None:
    if not pairs:
        return None
    rows = []
    for other, found in pairs.items():
        low, high = 100 * found.difference.low, 100 * found.difference.high
        difference = Cell(f"{100 * found.difference.value:+.1f}", f"{low:+.1f} to {high:+.1f}")
        floor = 1 / (1 + _RESAMPLES)  # the smallest possible p, if no sign flip was as extreme
        p = f"< {floor:.2g}" if found.p_value <= floor * 1.0001 else f"{found.p_value:.2g}"
        numbers = (str(found.wins), str(found.losses), str(found.ties), p)
        rows.append(
            Row((Cell(f"{arm_title(main)} minus {arm_title(other)}"), difference, *map(Cell, numbers)))
        )
    note = "The same episodes, pair by pair: bootstrap over tasks, p from sign flips of tasks."
    return Table(("paired difference", "points (95 %)", "won", "lost", "tied", "p"), tuple(rows), note=note)


def _median_episode(episodes: Sequence[Episode], succeeded: bool) -> int | None:
    """The episode of median length among those that succeeded (or did not) and fit a strip."""
    lengths = [
        (len(e.steps), number)
        for number, e in enumerate(episodes)
        if (sum(s.reward for s in e.steps[:-1]) > 0.5) == succeeded
        and 3 <= len(e.steps) <= MAX_STRIP_STEPS + 1
    ]
    return sorted(lengths)[len(lengths) // 2][1] if lengths else None


def _subtitle(run: RunArtifacts) -> str:
    words = []
    if run.episodes is not None:
        words.append(f"{artifacts.read_manifest(run.episodes).counts.get('episodes', '')} offline episodes")
    if run.evaluations:
        config = artifacts.read_manifest(next(iter(run.evaluations.values()))).config
        words.append(f"tasks {config.get('tasks', '')}")
    return " · ".join(words)


def _estimate(row: Mapping[str, Any]) -> Estimate:
    return Estimate(row["success"], row["low"], row["high"])


def _rate_cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell("–")
    return Cell(f"{100 * row['success']:.1f}", f"{100 * row['low']:.0f}–{100 * row['high']:.0f}")


def _kind_of_action(action: Action) -> str:
    if action.is_tap:
        return "tap"
    if action.is_swipe:
        return "swipe"
    return action.type.name.lower().removeprefix("press_").removeprefix("status_task_")


def _kind_of_metric(key: str) -> str:
    """The figure of :data:`_CURVES` that a metric belongs to; empty for metrics without a curve."""
    if "loss" in key:
        return "loss"
    if key.endswith(("_error", "_residual")):
        return "error"
    if key.endswith(("q_mean", "v_mean")):
        return "value"
    return "rate" if key.endswith(("accuracy", "auc")) else ""


def find_setting(config: Any, key: str, default: float) -> float:
    """The first value of ``key`` in a nested config."""
    if isinstance(config, Mapping):
        if key in config:
            return float(config[key])
        for value in config.values():
            found = find_setting(value, key, float("nan"))
            if not np.isnan(found):
                return found
    return default


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
