"""Ranks against brute force over tie-breaks, and a random scorer that lands where chance does."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from android_env.actions import Action
from digiq.errors import DigiQError
from digiq.proposals.propose import first_of_action
from digiq.report import ranking
from digiq.report.ranking import RankingConfig, by_action, held_out_rows, mid_ranks, rank, top_credit
from digiq.report.run_report import logged_values

ACTIONS = [Action.tap(0.1 * n, 0.5) for n in range(4)] + [None]

row = st.tuples(
    st.integers(0, 3),
    st.lists(st.integers(0, 4), min_size=0, max_size=5),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
)


@given(row)
def test_ranks_and_credit_average_over_all_tie_breaks(case):
    logged, others, action_scores = case
    candidates = [ACTIONS[logged], *(ACTIONS[n] for n in others)]
    valid = np.array([[a is not None for a in candidates]])
    scores = np.array([[np.nan if a is None else action_scores[ACTIONS.index(a)] for a in candidates]], float)
    first = first_of_action([candidates])

    slots = [n for n in range(len(candidates)) if valid[0, n]]
    ranks = []
    for order in itertools.permutations(slots):  # every order of the slots is one way to break ties
        ordered = sorted(order, key=lambda n: -scores[0, n])
        ranks.append(1 + ordered.index(0))
    assert mid_ranks(scores, valid)[0] == pytest.approx(np.mean(ranks))

    distinct = sorted({n for n in [logged, *others] if ACTIONS[n] is not None})
    wins = []
    for order in itertools.permutations(distinct):
        wins.append(max(order, key=lambda n: action_scores[n]) == logged)
    assert top_credit(scores, valid, first)[0] == pytest.approx(np.mean(wins))
    assert mid_ranks(scores, valid & first)[0] <= mid_ranks(scores, valid)[0] + 1e-9
    assert first.sum() == len(distinct)


@pytest.fixture(scope="module")
def ranked(small_run):
    """The small run's failed episodes stand in for a held-out app; the VLM's scores are made up."""
    values = logged_values(small_run.artifacts)
    return values, np.flatnonzero(values.proposals.valid[:, 0])


CONFIG = RankingConfig(split="train", resamples=300, random_draws=100)


def test_a_critic_that_knows_ranks_first_and_an_ignorant_one_like_chance(ranked):
    values, rows = ranked
    q = np.where(values.proposals.valid, 0.0, np.nan)
    same = dataclasses.replace(values, q=q)
    found = rank(same, rows, CONFIG)
    chance, blind = found["mean_rank"]["random"]["value"], found["mean_rank"]["critic"]["value"]
    assert blind == pytest.approx(chance, abs=0.05)  # all ties
    assert found["rank_at_1"]["critic"]["value"] == pytest.approx(
        found["rank_at_1"]["random"]["value"], abs=0.03
    )
    assert 1.5 < chance < values.proposals.valid.shape[1]

    first = first_of_action([values.actions(row) for row in range(len(q))])
    logged = np.array(
        [[a is not None and a == row[0] for a in row] for row in map(values.actions, range(len(q)))]
    )
    knowing = rank(dataclasses.replace(values, q=np.where(logged, 1.0, q)), rows, CONFIG)
    assert knowing["mean_rank_distinct"]["critic"]["value"] == 1.0
    assert knowing["rank_at_1"]["critic"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert knowing["rank_at_1"]["difference"]["low"] > 0
    assert knowing["states"] == len(rows) and knowing["screens"] <= len(rows)
    assert knowing["distinct_candidates"] == pytest.approx(first[rows].sum(axis=1).mean())
    assert sum(knowing["rank_counts"]) == len(rows) == knowing["rank_counts"][0]


def test_by_action_says_which_kind_the_critic_lifts():
    tap, other, done = Action.tap(0.2, 0.2), Action.tap(0.8, 0.8), Action.complete()
    candidates = [[tap, other, done, done], [tap, done, None, None], [done, tap, None, None]]
    q = np.array([[0.0, 0.0, 0.9, 0.9], [0.0, 1.0, np.nan, np.nan], [0.5, 0.5, np.nan, np.nan]])
    taps, ends = by_action(candidates, q, first_of_action(candidates))
    assert taps == {
        "action": "tap",
        "states": 2,
        "mean_rank": (2.5 + 2) / 2,  # behind "complete", in the first state level with the other tap
        "random": (2 + 1.5) / 2,
        "candidates": 4,
        "lead": pytest.approx((-0.3 - 0.3 - 0.5 + 0) / 4),
    }
    assert ends["action"] == "complete" and ends["states"] == 1 and ends["mean_rank"] == 1.5
    assert ends["lead"] == pytest.approx((0.6 + 0.5 + 0) / 3)


def test_relabelled_copies_and_other_splits_are_left_out(ranked):
    values, _ = ranked
    episodes = [dataclasses.replace(e, split="test") for e in values.episodes]
    episodes[0] = dataclasses.replace(episodes[0], copy_of=episodes[0].episode_id)
    episodes[1] = dataclasses.replace(episodes[1], split="train")
    rows = held_out_rows(dataclasses.replace(values, episodes=episodes), "test")
    assert set(values.index[rows, 0]) == set(range(2, len(episodes)))
    # What an episode is called does not make it a copy.
    episodes[0] = dataclasses.replace(episodes[0], copy_of="", episode_id="shop~general/0")
    rows = held_out_rows(dataclasses.replace(values, episodes=episodes), "test")
    assert 0 in values.index[rows, 0]


def test_the_stage_writes_numbers_and_a_report(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr("digiq.vlm.backbone.load_backbone", lambda *a, **k: None)
    monkeypatch.setattr(
        "digiq.vlm.tune.change_scores",
        lambda backbone, examples, grounding, prompt: np.array([e.changed for e in examples]),
    )
    vlm = tmp_path / "vlm"
    vlm.mkdir()
    run_artifacts = small_run.artifacts
    names = ("episodes", "rewards", "proposals", "features", "critic")
    inputs = {name: getattr(run_artifacts, name) for name in names}
    ranking.run(CONFIG, **inputs, vlm=vlm, out=tmp_path / "ranking")
    found = json.loads((tmp_path / "ranking/ranking.json").read_text())
    assert found["actionability"]["auc"]["value"] == 1.0
    assert 0 < found["actionability"]["positives"] < found["actionability"]["pairs"]
    assert [row["epoch"] for row in found["q_trend"]] == [1, 2, 3]
    html = (tmp_path / "ranking/report.html").read_text()
    assert 'id="ranking"' in html and 'id="episodes"' in html and "random" in html
    console = Console(file=io.StringIO(), width=120)
    ranking.print_ranking(tmp_path / "ranking", console)
    printed = console.file.getvalue()
    assert "actionability AUC" in printed and "ranked first" in printed and "Mean Q went from" in printed
    with pytest.raises(DigiQError, match="no episode of split 'test'"):
        ranking.run(RankingConfig(), **inputs, vlm=vlm, out=tmp_path / "other")
