"""The report's section on the comparison with the simulator's truth."""

from __future__ import annotations

from collections import Counter

import numpy as np

from digiq import artifacts
from digiq.drawing import figures
from digiq.drawing.page import Cell, Row, Section, Table
from digiq.laboratory.truth import is_simulated, picks, replay
from digiq.proposals.propose import first_of_action
from digiq.report.run_report import LoggedValues, RunArtifacts, find_setting

TRUTH_EPISODES = 48  # each takes about a tenth of a second


def truth_section(run: RunArtifacts, values: LoggedValues | None) -> Section | None:
    """Candidates and critic compared with the simulator's own values; None without a simulator."""
    if values is None or run.episodes is None or run.critic is None or not is_simulated(run.episodes):
        return None
    gamma = find_setting(artifacts.read_manifest(run.critic).config, "gamma", 0.95)
    truth = replay(
        run.episodes, values.episodes, values.index, values.actions,
        discount=gamma, max_episodes=TRUTH_EPISODES,
    )  # fmt: skip
    learned = values.q[truth.rows]
    distinct = first_of_action([values.actions(row) for row in truth.rows])
    screens = np.array(truth.screens)
    everywhere = picks(truth, learned, distinct, np.ones(len(screens), bool))
    names = {
        "best action": everywhere.best_action,
        "best candidate": everywhere.best_candidate,
        "critic's candidate": everywhere.critic,
        "logged action": everywhere.logged,
        "random candidate": everywhere.random,
    }
    bars = figures.horizontal_bars(
        list(names), list(names.values()), title="Value of the chosen action", xlabel="mean Q*", form="{:.3f}"
    )
    rows = []
    for screen in ["all screens", *(s for s, n in Counter(truth.screens).most_common(12) if n >= 5)]:
        found = everywhere if screen == "all screens" else picks(truth, learned, distinct, screens == screen)
        if not found.states:
            continue
        scores = (found.best_action, found.best_candidate, found.critic, found.logged, found.random)
        cells = [screen, str(found.states), *(f"{v:.3f}" for v in scores)]
        cells += [
            f"{100 * found.coverage:.0f} %",
            "–" if np.isnan(found.pairwise) else f"{found.pairwise:.2f}",
        ]
        rows.append(Row(tuple(map(Cell, cells))))
    header = (
        "screen", "states", "best action", "best candidate", "critic", "logged", "random", "coverage", "pair order",
    )  # fmt: skip
    note = (
        "Coverage: states with a candidate as good as the best action. Pair order: share of unequal candidate pairs "
        "that the critic orders as Q* does; 0.5 is chance."
    )
    return Section(
        anchor="truth",
        name="Against the simulator's truth",
        lead="The simulated phone knows Q* of every candidate. The gap from best action to best candidate is lost by "
        "the proposals, the gap from best candidate to the critic's by the critic; random is the floor.",
        tables=(Table(header, tuple(rows), 0, note),),
        figures=((bars, ""),),
    )
